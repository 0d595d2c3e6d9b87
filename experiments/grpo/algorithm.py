"""What GRPO gives to the loop."""

from experiments.algorithm import Algorithm
from experiments.grpo.evaluate import evaluate
from experiments.grpo.settings import GRPOExperiment
from experiments.grpo.setup import build
from experiments.grpo.step import one_step
from experiments.trained import save
from lqlm.io.curves import PANELS

GRPO = Algorithm(
    settings=GRPOExperiment,
    build=build,
    one_step=one_step,
    evaluate=evaluate,
    save=save,
    watched=(("eval/accuracy", "eval/reward"), True),
    shown={"reward": "reward", "kl": "kl"},
    speed="rollout",
    panels=PANELS,
)
