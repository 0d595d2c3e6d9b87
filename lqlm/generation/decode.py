"""Generation: one prefill per prompt shared by its group, then a ``while_loop`` over a cache of fixed size."""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from lqlm.errors import UserError
from lqlm.generation.penalties import Seen
from lqlm.generation.sampling import SamplingConfig, add_seen, sample, start_seen
from lqlm.models.config import ModelConfig
from lqlm.models.groups import PrefixCache, decode_step, empty_own, prefill
from lqlm.models.kv_cache import CacheFormat, OwnCache
from lqlm.models.transformer import bind, logits
from lqlm.types import Array, Key, PyTree


@flax.struct.dataclass
class Completions:
    """What was sampled: G completions of each prompt, right-padded.

    Attributes:
        tokens_BGC: int32, the pad token after the end.
        logp_BGC: float32 log-probabilities of the tokens under the sampling temperature, 0 after the end.
        mask_BGC: true up to and with the end-of-sequence token.
        steps: int32, decode steps taken (at most C).
    """

    tokens_BGC: Array
    logp_BGC: Array
    mask_BGC: Array
    steps: Array


class _Loop(NamedTuple):
    step: Array
    out: Completions
    last_BG: Array
    done_BG: Array
    own: OwnCache
    seen: Seen | None


def generate(
    base: PyTree,
    adapters: PyTree | None,
    prompts_BP: Array,
    prompt_mask_BP: Array,
    key: Key,
    cfg: ModelConfig,
    sampling: SamplingConfig,
    *,
    group: int,
    eos_ids: tuple[int, ...],
    pad_id: int,
    cache: CacheFormat = "model",
) -> Completions:
    """Sample ``group`` completions of every prompt; stops when all have ended.

    Args:
        base: weights, quantized or dense.
        adapters: or None.
        prompts_BP: int32, left-padded.
        prompt_mask_BP: true at real tokens.
        key: consumed; the same key gives the same samples.
        cfg: the model's shape (static).
        sampling: every option but `stop` (static).
        group: G (static).
        eos_ids: tokens that end a completion (static).
        pad_id: fills what comes after the end (static).
        cache: how keys and values are stored (static), see :mod:`lqlm.models.kv_cache`.

    Raises:
        UserError: for stop texts, which only the engine can look for.
    """
    if sampling.stop:
        raise UserError("sampling.stop: generate compares no texts; leave it empty here or use the engine")
    base, adapters = bind(base, adapters)
    hidden_BD, prefix = prefill(base, adapters, prompts_BP, prompt_mask_BP, cfg, cache=cache)
    first = jnp.broadcast_to(logits(base, hidden_BD)[:, None], (prompts_BP.shape[0], group, cfg.vocab_size))
    seen = start_seen(sampling, prompts_BP, prompt_mask_BP, group, cfg.vocab_size)
    loop = _start(prefix, group, sampling.max_new_tokens, pad_id, cfg, seen)
    loop = _advance(loop, first, key, sampling, eos_ids, pad_id)

    def body(loop: _Loop) -> _Loop:
        hidden, own = decode_step(base, adapters, loop.last_BG, loop.step - 1, prefix, loop.own, cfg)
        return _advance(loop._replace(own=own), logits(base, hidden), key, sampling, eos_ids, pad_id)

    def unfinished(loop: _Loop) -> Array:
        return (loop.step < sampling.max_new_tokens) & ~jnp.all(loop.done_BG)

    loop = jax.lax.while_loop(unfinished, body, loop)
    return loop.out.replace(steps=loop.step)  # type: ignore[attr-defined]


def _start(prefix: PrefixCache, group: int, length: int, pad_id: int, cfg: ModelConfig, seen: Seen | None) -> _Loop:
    batch = prefix.mask_BP.shape[0]
    tokens = jnp.full((batch, group, length), pad_id, jnp.int32)
    out = Completions(tokens, jnp.zeros(tokens.shape), jnp.zeros(tokens.shape, bool), jnp.zeros((), jnp.int32))
    # The last sampled token never enters the cache.
    own = empty_own(prefix, group, length - 1, cfg)
    return _Loop(jnp.zeros((), jnp.int32), out, tokens[..., 0], jnp.zeros((batch, group), bool), own, seen)


def _advance(
    loop: _Loop, logits_BGV: Array, key: Key, sampling: SamplingConfig, eos_ids: tuple[int, ...], pad_id: int
) -> _Loop:
    tokens, logp = sample(jax.random.fold_in(key, loop.step), logits_BGV, sampling, loop.seen, loop.step, eos_ids)
    alive = ~loop.done_BG
    tokens = jnp.where(alive, tokens, pad_id)
    ended = jnp.isin(tokens, jnp.asarray(eos_ids, jnp.int32))
    out = Completions(
        loop.out.tokens_BGC.at[..., loop.step].set(tokens),
        loop.out.logp_BGC.at[..., loop.step].set(jnp.where(alive, logp, 0.0)),
        loop.out.mask_BGC.at[..., loop.step].set(alive),
        loop.out.steps,
    )
    return _Loop(loop.step + 1, out, tokens, loop.done_BG | ended, loop.own, add_seen(loop.seen, tokens, alive))
