"""The two pure functions that the engine compiles: `admit`, the prefill of prompts, and `advance`, some decode steps.

Slots are at steps of their own.  Those that are free or have ended are computed along, masked, and overwritten by the
next prompt.
"""

import jax
import jax.numpy as jnp

from lqlm.generation.sampling import add_seen, sample, start_seen
from lqlm.generation.slots import Arrivals, News, Program, Samples, Slots
from lqlm.models.groups import PrefixCache, decode_step, prefill
from lqlm.models.kv_cache import OwnCache
from lqlm.models.transformer import bind, logits
from lqlm.types import Array, Key, PyTree


def admit(
    base: PyTree, adapters: PyTree | None, slots: Slots, key: Key, arrivals: Arrivals, program: Program
) -> tuple[Slots, News]:
    """Prefill of R prompts into their slots, and the first token of all of their samples.

    Args:
        base: weights, quantized or dense.
        adapters: or None.
        slots: the state.
        key: of the run; not consumed, every token folds its own numbers into it.
        arrivals: the prompts.
        program: static.
    """
    base, adapters = bind(base, adapters)
    tokens, mask, slot, number, limit = arrivals
    group, vocab = program.engine.group, program.cfg.vocab_size
    hidden, prefix = prefill(base, adapters, tokens, mask, program.cfg, cache=program.engine.cache)
    count = jnp.zeros_like(number)
    last = jnp.broadcast_to(count[:, None], (len(number), group))
    seen = start_seen(program.sampling, tokens, mask, group, vocab)
    rows = Samples(last, last > 0, count, limit, number, seen)
    first = jnp.broadcast_to(logits(base, hidden)[:, None], (*last.shape, vocab))
    rows, logp = _choose(rows, first, key, program)
    samples = jax.tree.map(lambda x, new: x.at[slot].set(new, mode="drop"), slots.samples, rows)
    prefix = _replace(slots.prefix, prefix, slot)
    news = News(rows.last_BG[..., None], logp[..., None], jnp.ones((*last.shape, 1), bool), jnp.int32(0))
    return Slots(prefix, slots.own, samples), news


def advance(
    base: PyTree,
    adapters: PyTree | None,
    slots: Slots,
    key: Key,
    stopped_BG: Array,
    waiting: Array,
    program: Program,
) -> tuple[Slots, News]:
    """Decode steps of all samples that go on, `chunk` or fewer: until all have ended, or a waiting prompt has a place.

    Args:
        base: weights, quantized or dense.
        adapters: or None.
        slots: the state.
        key: of the run.
        stopped_BG: samples that the host has ended.
        waiting: bool scalar, whether to come back as soon as a slot falls free.
        program: static.
    """
    base, adapters = bind(base, adapters)
    shape = (*stopped_BG.shape, program.engine.chunk)
    samples = slots.samples.replace(done_BG=slots.samples.done_BG | stopped_BG)  # type: ignore[attr-defined]
    news = News(jnp.full(shape, program.pad_id, jnp.int32), jnp.zeros(shape), jnp.zeros(shape, bool), jnp.int32(0))
    free_B = jnp.all(samples.done_BG, axis=1)

    def goes_on(carry: tuple[Samples, OwnCache, News]) -> Array:
        ended_B = jnp.all(carry[0].done_BG, axis=1)
        return (carry[2].steps < program.engine.chunk) & ~jnp.all(ended_B) & ~(waiting & jnp.any(ended_B & ~free_B))

    def step(carry: tuple[Samples, OwnCache, News]) -> tuple[Samples, OwnCache, News]:
        samples, own, news = carry
        alive, at = ~samples.done_BG, samples.count_B - 1
        hidden, own = decode_step(base, adapters, samples.last_BG, at, slots.prefix, own, program.cfg)
        samples, logp = _choose(samples, logits(base, hidden), key, program)
        return samples, own, _record(news, samples.last_BG, logp, alive)

    samples, own, news = jax.lax.while_loop(goes_on, step, (samples, slots.own, news))
    return Slots(slots.prefix, own, samples), news


def _choose(samples: Samples, logits_BGV: Array, key: Key, program: Program) -> tuple[Samples, Array]:
    """The next token of the samples that go on, and its log-probability."""
    alive, count = ~samples.done_BG, samples.count_B + 1
    at = jnp.broadcast_to(samples.count_B[:, None], alive.shape)
    keys = _keys(key, samples.number_B, at)
    tokens, logp = sample(keys, logits_BGV, program.sampling, samples.seen, at, program.eos_ids)
    tokens = jnp.where(alive, tokens, program.pad_id)
    ended = jnp.isin(tokens, jnp.asarray(program.eos_ids, jnp.int32)) | (count >= samples.limit_B)[:, None]
    count = jnp.where(jnp.any(alive, axis=1), count, samples.count_B)
    seen = add_seen(samples.seen, tokens, alive)
    return Samples(tokens, samples.done_BG | ended, count, samples.limit_B, samples.number_B, seen), logp


def _keys(key: Key, number_B: Array, step_BG: Array) -> Key:
    """One for each token: the run's, with the request's number, the sample's and the token's folded in."""

    def one(number: Array, sample: Array, step: Array) -> Key:
        return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, number), sample), step)

    samples = jnp.arange(step_BG.shape[1], dtype=jnp.int32)
    return jax.vmap(jax.vmap(one, (None, 0, 0)), (0, None, 0))(number_B, samples, step_BG)


def _replace(prefix: PrefixCache, new: PrefixCache, slot_R: Array) -> PrefixCache:
    """The prompts' cache with new ones at their slots, each filled up on the left."""
    room = prefix.mask_BP.shape[1] - new.mask_BP.shape[1]

    def put(x_LBP: Array, new_LRP: Array) -> Array:
        padding = [(0, 0), (0, 0), (room, 0), *[(0, 0)] * (x_LBP.ndim - 3)]
        return x_LBP.at[:, slot_R].set(jnp.pad(new_LRP, padding), mode="drop")

    k, v = (jax.tree.map(put, *pair) for pair in ((prefix.k_LBPKH, new.k_LBPKH), (prefix.v_LBPKH, new.v_LBPKH)))
    mask = jnp.pad(new.mask_BP, ((0, 0), (room, 0)))
    return PrefixCache(k, v, prefix.mask_BP.at[slot_R].set(mask, mode="drop"))


def _record(news: News, tokens_BG: Array, logp_BG: Array, alive_BG: Array) -> News:
    return News(
        news.tokens_BGC.at[..., news.steps].set(tokens_BG),
        news.logp_BGC.at[..., news.steps].set(jnp.where(alive_BG, logp_BG, 0.0)),
        news.mask_BGC.at[..., news.steps].set(alive_BG),
        news.steps + 1,
    )
