"""The settings of generation: frozen dataclasses, which hold every default."""

import dataclasses
from typing import Literal

from experiments.settings import ModelSettings
from lqlm.errors import UserError
from lqlm.generation.beam import BeamConfig
from lqlm.generation.sampling import SamplingConfig
from lqlm.generation.slots import EngineConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answering:
    """Who completes prompts, and how.

    Attributes:
        model: which model.
        adapter: a PEFT directory that goes with it; empty: the model as it is.
        merge: decode with a dense copy in which the adapter is merged (faster; more memory), where it can be.
        sampling: how to sample.
        engine: how much at once.
        seed: of all that is sampled.
    """

    model: ModelSettings = ModelSettings()
    adapter: str = ""
    merge: bool = True
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=256, temperature=0.7, top_p=0.95)
    engine: EngineConfig = EngineConfig(prompt_buckets=(64, 256, 1024))
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateSettings(Answering):
    """What is completed, beside those of Answering.

    Attributes:
        input: a JSONL file of prompts; empty: a conversation in the terminal, which takes one slot.
        output: the JSONL file of completions; one that holds some already is gone on with.
        system: system message of conversations that have none; empty: none.
        logprobs: also write the log-probability of every token.
        search: how a file is completed: ``sample`` (greedily at temperature 0), or the best that a ``beam`` finds, of
            ``engine.slots`` prompts at once.
        beam: the options of the latter, instead of those of ``sampling``.
    """

    input: str = ""
    output: str = "completions.jsonl"
    system: str = ""
    logprobs: bool = False
    search: Literal["sample", "beam"] = "sample"
    beam: BeamConfig = BeamConfig(max_new_tokens=256)

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if self.input and not self.output:
            raise UserError("output is empty; name the JSONL file that the completions go to")
        if self.input and self.input == self.output:
            raise UserError(f"input and output are both {self.input}; name another output")
        if self.search == "beam" and (not self.input or self.engine.group != 1):
            raise UserError(
                "search 'beam' completes a file, and has beam.n_best for several completions; name config.input, and "
                "leave engine.group at 1"
            )
        if not self.input and self.engine.group != 1:
            raise UserError(f"engine.group is {self.engine.group}; a conversation has one answer, set it to 1")
