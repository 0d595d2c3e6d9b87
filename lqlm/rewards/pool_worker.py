"""A process of `lqlm.rewards.pool`: a question is the number of a reward and a sample's fields, a line each way."""

import json
import os
import sys

from lqlm.errors import UserError
from lqlm.rewards.combine import value_of
from lqlm.rewards.specs import RewardSpec, Sample, bind

NOTHING = {"prompt": "", "completion": "", "answer": "", "n_tokens": 0, "truncated": False}


def main() -> None:
    """Bind the rewards, say that all is ready, and answer until there is no question more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a function prints is no answer
    os.environ["JAX_PLATFORMS"] = "cpu"  # the accelerator is the run's, whatever it was told
    told = json.loads(sys.argv[1])
    try:
        rewards = [bind(RewardSpec(row["path"], row["path"], params=row["params"])) for row in told["rewards"]]
    except UserError as error:
        print(json.dumps(str(error)), file=answers)
        return
    print("null", file=answers)
    for line in sys.stdin:
        place, fields = json.loads(line)
        found = value_of(rewards[place], Sample(**{**NOTHING, **fields}), None, told["timeout_s"])
        print(json.dumps(found), file=answers)


if __name__ == "__main__":
    main()
