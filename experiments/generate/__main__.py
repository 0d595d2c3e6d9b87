"""Completions by a model, with an adapter or without: a chat in the terminal, or a file of prompts.

usage: python -m experiments.generate [--config FILE] [--config.SECTION.KEY=VALUE ...] [--cache DIRECTORY]

  python -m experiments.generate
  python -m experiments.generate --config.adapter=runs/grpo_smollm2_arithmetic/adapter --config.sampling.temperature=0
  python -m experiments.generate --config.input=prompts.jsonl --config.output=completions.jsonl --config.engine.slots=16
  python -m experiments.generate --config.input=prompts.jsonl --config.search=beam --config.beam.beams=8 \\
      --config.beam.n_best=3

A line of the input is {"prompt": "text to go on with"} or {"messages": [{"role": "user", "content": "..."}]}, maybe
with an "id" and "max_new_tokens"; whatever else it holds is copied.  A line of the output has "completions": a list of
--config.engine.group objects with text, finish (eos, stop or length) and tokens; of a beam, of --config.beam.n_best
with their score, best first.  Lines come in the order in which
they are done.  The same command goes on with an output that was begun.
"""

import dataclasses
from typing import Any

from experiments import command
from experiments.configdict import from_config
from experiments.generate.batch import complete
from experiments.generate.beams import search_file
from experiments.generate.chat import Chat, talk, typed
from experiments.generate.report import table
from experiments.generate.session import open_session
from experiments.generate.settings import GenerateSettings

DEFAULT = "configs/generate_smollm2.py"


def main(config: Any) -> None:
    """Answer, and say how fast."""
    settings = from_config(GenerateSettings, config)
    command.use_compilation_cache()
    if not settings.input:
        session = open_session(dataclasses.replace(settings, engine=dataclasses.replace(settings.engine, slots=1)))
        talk(Chat(session.answer, settings.system), typed())
    elif settings.search == "beam":
        print(f"{settings.output}: {search_file(settings)} prompts completed")
        return
    else:
        session = open_session(settings)
        session.engine.warm_up()  # so that the speeds are without compilation
        print(f"{settings.output}: {complete(session, settings)} prompts completed")
    print(table(session.engine.stats))


if __name__ == "__main__":
    command.run(main, GenerateSettings, __doc__ or "", DEFAULT)
