"""A model, its adapter and an engine, ready to complete prompts."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import jax

from experiments import trained
from experiments.generate.settings import Answering
from lqlm.adapters.configs import LoraConfig
from lqlm.generation.engine import Engine
from lqlm.generation.requests import Event, Request
from lqlm.io.load import LoadedModel
from lqlm.io.peft import load_peft
from lqlm.types import PyTree


@dataclasses.dataclass(frozen=True)
class Session:
    """What answers.

    Attributes:
        model: with its tokenizer.
        engine: the model's, with whatever adapter there is.
        seed: of all that is sampled.
    """

    model: LoadedModel
    engine: Engine
    seed: int

    def events(self, requests: Iterable[Request], turn: int = 0) -> Iterator[Event]:
        """News of completions as they are made; each turn of a conversation has random numbers of its own."""
        return self.engine.run(requests, jax.random.fold_in(jax.random.key(self.seed), turn))

    def answer(self, messages: Sequence[dict[str, str]]) -> Iterator[str]:
        """Pieces of the answer to a conversation, as they come."""
        request = Request("answer", tuple(self.model.tokenizer.chat(messages)))
        for event in self.events([request], len(messages)):
            yield event.text


def open_session(settings: Answering) -> Session:
    """Load the model and its adapter; nothing is compiled before the first prompt."""
    model, (base, adapters) = load_policy(settings, settings.engine.slots * settings.engine.group)
    engine = Engine(
        base,
        adapters,
        model.config,
        settings.sampling,
        settings.engine,
        eos_ids=model.tokenizer.eos_ids,
        pad_id=model.tokenizer.pad_id,
        decode=model.tokenizer.decode,
    )
    return Session(model, engine, settings.seed)


def load_policy(settings: Answering, rows: int) -> tuple[LoadedModel, tuple[PyTree, PyTree | None]]:
    """The model, and what to decode rows with: one dense copy, where that is wished for and differs from the model."""
    model = trained.load(settings.model, LoraConfig())
    adapters, kind = load_peft(settings.adapter, model.config) if settings.adapter else (None, LoraConfig())
    merge = settings.merge and (settings.model.quantize or adapters is not None)
    return model, trained.policy(kind, merge, rows=rows)(trained.products(model.base, settings.model), adapters)
