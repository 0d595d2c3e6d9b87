"""What goes into the engine and what comes out of it: plain records on the host."""

import dataclasses
import statistics
from typing import Literal

Finish = Literal["", "eos", "stop", "length"]


@dataclasses.dataclass(frozen=True)
class Request:
    """One prompt to be completed.

    Attributes:
        id: names it in events and messages.
        tokens: of the prompt, at least one.
        max_new_tokens: limit of its completions, at most the engine's; None is the engine's.
        number: what its random numbers depend on, below 2^31; None is its place in the order of arrival.
    """

    id: str
    tokens: tuple[int, ...]
    max_new_tokens: int | None = None
    number: int | None = None


@dataclasses.dataclass(frozen=True)
class Event:
    """News of one sample of a request: some new tokens, and whether it has ended.

    Attributes:
        id: of the request.
        sample: number of the completion, from 0.
        tokens: new since the last event, the end-of-sequence token among them, and those of a stop text.
        logp: their float log-probabilities, as :class:`lqlm.generation.decode.Completions` defines them.
        finish: empty while it goes on, else why it ended.
        text: new since the last event; what may be half a character or the beginning of a stop text comes later, and a
            stop text never.  Empty where the engine has no function that decodes.
    """

    id: str
    sample: int
    tokens: tuple[int, ...]
    logp: tuple[float, ...]
    finish: Finish = ""
    text: str = ""


@dataclasses.dataclass
class EngineStats:
    """What a run took; seconds are those of a clock, with what the caller does between events in the last two.

    Attributes:
        prompts: admitted.
        prompt_tokens: of them, without padding.
        tokens: sampled, without those that came after a stop text.
        prefill_seconds: of the calls that admit, which sample the first tokens too.
        decode_seconds: of the calls that advance.
        steps: decode steps.
        refills: prompts that took over a slot from another one.
        places: samples that the decode steps computed, slots x G each.
        occupied: of them, those that went on.
        cache_bytes: of the keys and values of all slots.
        first_token_seconds: of each request, from its arrival, which is when a slot was free for it.
        token_seconds: of each request of two tokens or more: from its first to its last ones, over the longest
            sample's tokens less one.
    """

    prompts: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    steps: int = 0
    refills: int = 0
    places: int = 0
    occupied: int = 0
    cache_bytes: int = 0
    first_token_seconds: list[float] = dataclasses.field(default_factory=list)
    token_seconds: list[float] = dataclasses.field(default_factory=list)

    @property
    def occupancy(self) -> float:
        """Share of the decode steps' places that were of use."""
        return self.occupied / self.places if self.places else 0.0

    def summary(self) -> dict[str, float]:
        """All numbers, of the lists the least, the median and the largest, and tokens per second of both phases."""
        found = {name: value for name, value in dataclasses.asdict(self).items() if not isinstance(value, list)}
        for name in ("first_token_seconds", "token_seconds"):
            values = getattr(self, name) or [0.0]
            found |= {f"{name}/min": min(values), f"{name}/median": statistics.median(values)}
            found |= {f"{name}/max": max(values)}
        seconds = self.prefill_seconds + self.decode_seconds
        return (
            found | {"occupancy": self.occupancy} | {"tokens_per_second": self.tokens / seconds if seconds > 0 else 0.0}
        )
