"""The engine's sizes, and its state on the device: slots, each with one prompt and its G samples."""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.struct
import jax.numpy as jnp

from lqlm.errors import UserError
from lqlm.generation.penalties import Seen
from lqlm.generation.sampling import SamplingConfig, start_seen
from lqlm.models.config import ModelConfig
from lqlm.models.groups import PrefixCache, empty_own
from lqlm.models.kv_cache import CacheFormat, OwnCache, storage_type, zeros
from lqlm.models.transformer import bind
from lqlm.models.virtual import prefix_length, prompt_length
from lqlm.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """The engine's fixed sizes.

    Attributes:
        slots: B, prompts under way at once.
        group: G, samples of each prompt, which share its keys and values.
        prompt_buckets: lengths that prompts are padded to, a program each; the largest is the room for a prompt.
        cache: how keys and values are stored, see :mod:`lqlm.models.kv_cache`.
        chunk: decode steps of one call of the device, at most: more cost less per token, fewer stream sooner.
        admit: prompts that one call admits, at most; a call costs as if there were so many.
    """

    slots: int = 8
    group: int = 1
    prompt_buckets: tuple[int, ...] = (64, 256)
    cache: CacheFormat = "model"
    chunk: int = 8
    admit: int = 1

    def __post_init__(self) -> None:
        for name in ("slots", "group", "chunk", "admit"):
            if getattr(self, name) < 1:
                raise UserError(f"engine.{name} is {getattr(self, name)}; it must be at least 1")
        if not self.prompt_buckets or min(self.prompt_buckets) < 1:
            raise UserError(f"engine.prompt_buckets is {self.prompt_buckets}; it needs lengths of at least 1")
        if self.cache not in ("model", "bfloat16", "fp8", "int8"):
            raise UserError(f"engine.cache is {self.cache!r}; it must be 'model', 'bfloat16', 'fp8' or 'int8'")


@dataclasses.dataclass(frozen=True)
class Program:
    """All that is static in the compiled functions.

    Attributes:
        cfg: the model's shape.
        sampling: every option but `stop`, which is for the host; max_new_tokens is the most of any request.
        engine: the sizes.
        eos_ids: tokens that end a sample.
        pad_id: stands where there is no token.
    """

    cfg: ModelConfig
    sampling: SamplingConfig
    engine: EngineConfig
    eos_ids: tuple[int, ...]
    pad_id: int


@flax.struct.dataclass
class Samples:
    """Where the samples are; every array begins with B.

    Attributes:
        last_BG: int32, the last token of each.
        done_BG: whether it has ended; true in free slots.
        count_B: int32, tokens so far of the samples that go on.
        limit_B: int32, at which they end.
        number_B: int32, of the request in the order of arrival: what its random numbers depend on.
        seen: the tokens so far, or None without penalties.
    """

    last_BG: Array
    done_BG: Array
    count_B: Array
    limit_B: Array
    number_B: Array
    seen: Seen | None


@flax.struct.dataclass
class Slots:
    """The whole state on the device, donated to each call.

    Attributes:
        prefix: of B prompts in the room of the largest bucket.
        own: of B x G samples.
        samples: where they are.
    """

    prefix: PrefixCache
    own: OwnCache
    samples: Samples


class Arrivals(NamedTuple):
    """R prompts to be admitted.

    Attributes:
        tokens_RP: int32, left-padded to a bucket.
        mask_RP: true at real tokens.
        slot_R: int32, where each goes; B, which is no slot, for a row that is not used.
        number_R: int32, in the order of arrival.
        limit_R: int32, most tokens of its samples.
    """

    tokens_RP: Any
    mask_RP: Any
    slot_R: Any
    number_R: Any
    limit_R: Any


@flax.struct.dataclass
class News:
    """The tokens of one call: ``[R, G, 1]`` of `admit`, ``[B, G, C]`` of `advance` with C of `chunk`.

    Attributes:
        tokens_BGC: int32.
        logp_BGC: float32, as of :class:`lqlm.generation.decode.Completions`.
        mask_BGC: true where there is a token; a sample's tokens come without a gap.
        steps: int32, decode steps taken.
    """

    tokens_BGC: Array
    logp_BGC: Array
    mask_BGC: Array
    steps: Array


def empty_slots(base: PyTree, adapters: PyTree | None, program: Program) -> Slots:
    """All slots free.

    Args:
        base: weights, for their type.
        adapters: or None.
        program: the sizes.
    """
    base, adapters = bind(base, adapters)
    engine, cfg, sampling = program.engine, program.cfg, program.sampling
    room = max(engine.prompt_buckets) + prompt_length(adapters) + prefix_length(adapters)
    number = storage_type(engine.cache, base["embed"].dtype)
    kv = functools.partial(zeros, (cfg.layers, engine.slots, room, cfg.kv_heads, cfg.head_dim), number)
    prefix = PrefixCache(kv(), kv(), jnp.zeros((engine.slots, room), bool))
    own = empty_own(prefix, engine.group, sampling.max_new_tokens - 1, cfg)
    nothing = jnp.zeros((engine.slots, 1), jnp.int32)
    seen = start_seen(sampling, nothing, nothing > 0, engine.group, cfg.vocab_size)
    each = jnp.zeros((engine.slots, engine.group), jnp.int32)
    # An array of its own for every field, or one buffer would be donated twice.
    return Slots(prefix, own, Samples(each, each == 0, each[:, 0], each[:, 0] + 1, each[:, 0] + 2, seen))
