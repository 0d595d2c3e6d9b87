"""Continuous batching: prompts wait for slots, samples are streamed as they grow, and a slot is refilled at once."""

import dataclasses
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.errors import UserError
from lqlm.generation.advance import admit, advance
from lqlm.generation.live import Live
from lqlm.generation.requests import EngineStats, Event, Request
from lqlm.generation.rollout import bucket_for, check_context, pad_prompts
from lqlm.generation.sampling import SamplingConfig
from lqlm.generation.slots import Arrivals, EngineConfig, News, Program, empty_slots
from lqlm.generation.stop import Decode
from lqlm.models.config import ModelConfig
from lqlm.models.kv_cache import cache_bytes
from lqlm.types import Key, PyTree

_empty = jax.jit(empty_slots, static_argnames="program")
_admit = jax.jit(admit, static_argnames="program", donate_argnames="slots")
_advance = jax.jit(advance, static_argnames="program", donate_argnames="slots")


class Engine:
    """Completes requests, so many at once as it has slots, in a state of fixed size and with programs of fixed shape.

    A sample depends on the run's key, its request's number (of its own, or in the order of arrival), its own number
    and nothing else: not on its slot, its neighbours or the number of slots (but for the rounding of sums).  Greedy
    tokens are those of :func:`lqlm.generation.decode.generate`.

    Args:
        base: weights, quantized or dense, on one device.
        adapters: or None.
        cfg: the model's shape.
        sampling: the options; max_new_tokens is the room of a sample, which a request may use in part.
        engine: the sizes.
        eos_ids: tokens that end a sample.
        pad_id: any token, for padding.
        decode: tokens to text, for events with texts and for stop texts.

    Attributes:
        stats: of the run that began last.

    Raises:
        UserError: for stop texts without `decode`.
    """

    def __init__(
        self,
        base: PyTree,
        adapters: PyTree | None,
        cfg: ModelConfig,
        sampling: SamplingConfig,
        engine: EngineConfig,
        *,
        eos_ids: tuple[int, ...],
        pad_id: int,
        decode: Decode | None = None,
    ) -> None:
        if sampling.stop and decode is None:
            raise UserError("sampling.stop: stop texts need the engine's decode function; give it decode=...")
        self.stats, self.sampling, self.decode = EngineStats(), sampling, decode
        self.weights = (base, adapters)
        # The host looks for stop texts: they are nothing to compile anew for.
        self.program = Program(cfg, dataclasses.replace(sampling, stop=()), engine, tuple(eos_ids), pad_id)

    def run(self, requests: Iterable[Request | None], key: Key) -> Iterator[Event]:
        """Events of all requests as they come; ends when all requests have ended.

        Args:
            requests: asked for the next one whenever a slot is free, so it may be endless.  None says that there is
                none at the moment, and it is asked again after the next tokens (at once, where no sample is under
                way): so events may be answered by requests.
            key: the same key and order give the same samples.

        Raises:
            UserError: for a request that :meth:`check` refuses, an id that was there before, and NaN logits.
        """
        self.stats = EngineStats()
        yield from _Run(self, requests, key).events()

    def check(self, request: Request) -> None:
        """Refuses what cannot be completed.

        Raises:
            UserError: for an empty prompt, one too long for the buckets or the model, a token that is not in the
                vocabulary, a limit outside of the engine's, and a number out of its range.
        """
        cfg, sampling, name = self.program.cfg, self.sampling, f"request {request.id!r}"
        size, room, limit = len(request.tokens), max(self.program.engine.prompt_buckets), self.limit(request)
        if not 0 < size <= room:
            raise UserError(f"{name} has {size} prompt tokens; it must have 1 to {room} (engine.prompt_buckets)")
        if not max(sampling.min_new_tokens, 1) <= limit <= sampling.max_new_tokens:
            least = max(sampling.min_new_tokens, 1)
            raise UserError(f"{name}: max_new_tokens is {limit}; it must be {least} to {sampling.max_new_tokens}")
        if request.number is not None and not 0 <= request.number < 2**31:
            raise UserError(f"{name}: number is {request.number}; it must be 0 to {2**31 - 1}")
        check_context(size, limit, cfg.max_positions, name)
        if not all(0 <= token < cfg.vocab_size for token in request.tokens):
            raise UserError(f"{name}: a token is not in the vocabulary, 0 to {cfg.vocab_size - 1}; check its tokenizer")

    def warm_up(self) -> None:
        """Compiles everything: a program for each bucket, and one to advance."""
        run = _Run(self, (), jax.random.key(0))
        for bucket in sorted(set(self.program.engine.prompt_buckets)):
            run.admit({}, bucket)
        run.advance()
        self.stats = EngineStats()

    def limit(self, request: Request) -> int:
        """Most new tokens of a request."""
        return self.sampling.max_new_tokens if request.max_new_tokens is None else request.max_new_tokens


_END = object()


def _device(weights: PyTree) -> Any:
    leaf = jax.tree.leaves(weights)[0]
    return next(iter(leaf.devices())) if isinstance(leaf, jax.Array) else jax.devices()[0]


def _typed(key: Key) -> Key:
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)


def _filled(arrivals: Arrivals, size: int, pad_id: int, slots: int) -> Arrivals:
    """Filled up to so many rows with ones that go nowhere."""
    missing = size - len(arrivals.slot_R)
    fills = Arrivals(pad_id, False, slots, 0, 1)
    pad = lambda x, fill: np.pad(x, [(0, missing), (0, 0)][: x.ndim], constant_values=fill)  # noqa: E731
    return Arrivals(*map(pad, arrivals, fills))


class _Run:
    """One run: what lies in the slots, on the device and on the host."""

    def __init__(self, engine: Engine, requests: Iterable[Request | None], key: Key) -> None:
        self.engine, self.stats, self.sizes = engine, engine.stats, engine.program.engine
        # Bound to a device as all that is computed from them: else each program would be compiled twice.
        place = (_empty(*engine.weights, program=engine.program), _typed(key))
        self.slots, self.key = jax.device_put(place, _device(engine.weights))
        prefix = self.slots.prefix
        self.stats.cache_bytes = cache_bytes((prefix.k_LBPKH, prefix.v_LBPKH, self.slots.own))
        self.stopped = np.zeros((self.sizes.slots, self.sizes.group), bool)
        self.live: dict[int, Live] = {}
        self.used: set[int] = set()
        self.ids: set[str] = set()
        self.requests = iter(requests)
        self.more = self.waiting = True

    def events(self) -> Iterator[Event]:
        """All of them: places are filled, all samples advance, and so on."""
        while self.more or self.live:
            self.waiting = self.more
            while self.waiting and len(self.live) < self.sizes.slots:
                yield from self.arrivals()
            if self.live:
                news = self.advance()
                yield from self.report(news, {slot: slot for slot in self.live})

    def arrivals(self) -> list[Event]:
        """News of the next requests, as many as there are slots for and one call admits."""
        free = [slot for slot in range(self.sizes.slots) if slot not in self.live]
        arrived = {slot: live for slot in free[: self.sizes.admit] if (live := self.next())}
        if not arrived:
            return []
        self.live |= arrived
        longest = max(len(live.request.tokens) for live in arrived.values())
        news = self.admit(arrived, bucket_for(longest, self.sizes.prompt_buckets))
        self.stats.refills += len(self.used & {*arrived})
        self.used |= {*arrived}
        return self.report(news, {slot: row for row, slot in enumerate(arrived)})

    def next(self) -> Live | None:
        """The request that waits, if there is one at the moment."""
        request = next(self.requests, _END) if self.waiting else None
        self.more = self.more and request is not _END
        self.waiting = isinstance(request, Request)
        if not isinstance(request, Request):
            return None
        self.engine.check(request)
        if request.id in self.ids:
            raise UserError(f"request {request.id!r} was there before; give each request an id of its own")
        self.ids.add(request.id)
        limit, stop = self.engine.limit(request), self.engine.sampling.stop
        number = len(self.ids) - 1 if request.number is None else request.number
        return Live.of(request, number, limit, self.sizes.group, self.engine.decode, stop)

    def admit(self, arrived: dict[int, Live], bucket: int) -> News:
        """Prefill of these requests in the rows of one call."""
        began, pad_id = time.perf_counter(), self.engine.program.pad_id
        rows = [live.request.tokens for live in arrived.values()]
        tokens, mask = pad_prompts(rows, bucket, pad_id)
        numbers = [[*arrived], [live.number for live in arrived.values()], [live.limit for live in arrived.values()]]
        arrivals = Arrivals(tokens, mask, *(np.array(values, np.int32) for values in numbers))
        self.stopped[[*arrived]] = False
        arrivals = _filled(arrivals, self.sizes.admit, pad_id, self.sizes.slots)
        self.slots, news = _admit(*self.engine.weights, self.slots, self.key, arrivals, program=self.engine.program)
        news = jax.tree.map(np.asarray, news)
        self.stats.prefill_seconds += time.perf_counter() - began
        self.stats.prompts += len(rows)
        self.stats.prompt_tokens += sum(map(len, rows))
        return news

    def advance(self) -> News:
        """Some decode steps; waits for their tokens."""
        began = time.perf_counter()
        args = (self.slots, self.key, self.stopped.copy(), np.bool_(self.waiting))
        self.slots, news = _advance(*self.engine.weights, *args, program=self.engine.program)
        news = jax.tree.map(np.asarray, news)
        self.stats.decode_seconds += time.perf_counter() - began
        self.stats.steps += int(news.steps)
        self.stats.places += int(news.steps) * self.stopped.size
        self.stats.occupied += int(news.mask_BGC.sum())
        return news

    def report(self, news: News, rows: dict[int, int]) -> list[Event]:
        """Events of the slots, whose news are in these rows; slots of requests that have ended are free."""
        events = []
        for slot, row in rows.items():
            live = self.live[slot]
            tokens, logp, mask = (np.asarray(x[row]) for x in (news.tokens_BGC, news.logp_BGC, news.mask_BGC))
            events += live.events(tokens, logp, mask, self.engine.program.eos_ids)
            self.stopped[slot] = live.ended
            if live.ended.all():
                del self.live[slot]
                live.time(self.stats)
        self.stats.tokens += sum(len(event.tokens) for event in events)
        return events
