"""The host's side of a request under way: what its samples have said so far."""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from lqlm.errors import UserError
from lqlm.generation.requests import EngineStats, Event, Finish, Request
from lqlm.generation.stop import Decode, TextStream


@dataclasses.dataclass
class Live:
    """A request in a slot.

    Attributes:
        request: itself.
        number: what its random numbers depend on.
        limit: most tokens of a sample.
        streams: G, the samples' texts.
        counts: int [G], the samples' tokens.
        ended: bool [G], which have ended.
        arrived: when it was taken, seconds of a clock.
        first: when its first tokens came.
    """

    request: Request
    number: int
    limit: int
    streams: list[TextStream]
    counts: np.ndarray
    ended: np.ndarray
    arrived: float
    first: float = 0.0

    @classmethod
    def of(
        cls, request: Request, number: int, limit: int, group: int, decode: Decode | None, stop: Sequence[str]
    ) -> "Live":
        """A request that begins now."""
        streams = [TextStream(decode, stop) for _ in range(group)]
        return cls(request, number, limit, streams, np.zeros(group, int), np.zeros(group, bool), time.perf_counter())

    def events(
        self, tokens_GC: np.ndarray, logp_GC: np.ndarray, mask_GC: np.ndarray, eos_ids: tuple[int, ...]
    ) -> list[Event]:
        """News of the samples that have any.

        Raises:
            UserError: for a log-probability that is not a number.
        """
        self.first = self.first or time.perf_counter()
        going = [int(g) for g in np.flatnonzero(~self.ended & mask_GC.any(axis=1))]
        return [self._event(g, tokens_GC[g][mask_GC[g]].tolist(), logp_GC[g][mask_GC[g]], eos_ids) for g in going]

    def _event(self, sample: int, tokens: list[int], logp: np.ndarray, eos_ids: tuple[int, ...]) -> Event:
        finish: Finish = ""
        text, used = "", 0
        while used < len(tokens) and not finish:
            more, finish = self._push(sample, tokens[used], eos_ids)
            text, used = text + more, used + 1
        if np.isnan(logp[:used]).any():
            raise UserError(
                f"request {self.request.id!r}: the model's logits are NaN within {self.counts[sample]} new tokens; "
                "check the weights and adapters, or compute in a wider type"
            )
        self.ended[sample] = bool(finish)
        return Event(self.request.id, sample, tuple(tokens[:used]), tuple(logp[:used].tolist()), finish, text)

    def _push(self, sample: int, token: int, eos_ids: tuple[int, ...]) -> tuple[str, Finish]:
        """One token: the text that is certain now, and whether it is the last."""
        self.counts[sample] += 1
        stream, last = self.streams[sample], token in eos_ids or self.counts[sample] >= self.limit
        text = stream.push(token, last)
        if stream.stopped:
            return text, "stop"
        return text, "" if not last else "eos" if token in eos_ids else "length"

    def time(self, stats: EngineStats) -> None:
        """Adds the request's times to those of the run, now that it has ended."""
        stats.first_token_seconds.append(self.first - self.arrived)
        if (longest := int(self.counts.max())) > 1:
            stats.token_seconds.append((time.perf_counter() - self.first) / (longest - 1))
