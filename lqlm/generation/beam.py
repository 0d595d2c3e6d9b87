"""Beam search: the most probable completions that are found by keeping a few at every step, one compiled program."""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from lqlm.errors import UserError
from lqlm.generation.decode import Completions
from lqlm.masked import completion_mask
from lqlm.models.config import ModelConfig
from lqlm.models.groups import PrefixCache, decode_step, empty_own, prefill
from lqlm.models.transformer import bind, logits
from lqlm.types import Array, PyTree

LOST = -1e9
"""Score of what must not be chosen, transformers' own, so that sums round alike."""


@dataclasses.dataclass(frozen=True)
class BeamConfig:
    """How to search.

    Attributes:
        max_new_tokens: length C of the completions; one that reaches it has ended.
        min_new_tokens: as long as a completion is shorter, its end-of-sequence tokens cannot be chosen.
        beams: completions that are kept at every step.
        n_best: completions that are returned, at most `beams`.
        length_penalty: exponent of the length that divides the sum of log-probabilities: 0 ranks by the sum, 1 by the
            mean, and more favours longer ones.
        early_stopping: when a prompt's search ends, once `beams` completions have ended.  True: at once.  False: when
            the best that goes on, at its present length, scores less than the worst that has ended.  "never": when it
            could not reach that score at any length (for a length_penalty that is not positive, as False).
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    beams: int = 4
    n_best: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    def __post_init__(self) -> None:
        if not 0 <= self.min_new_tokens <= self.max_new_tokens or self.max_new_tokens < 1:
            raise UserError(
                f"beam.min_new_tokens is {self.min_new_tokens} and max_new_tokens {self.max_new_tokens}; "
                "they need 0 <= min_new_tokens <= max_new_tokens and max_new_tokens >= 1"
            )
        if not 1 <= self.n_best <= self.beams:
            raise UserError(f"beam.n_best is {self.n_best} and beams {self.beams}; they need 1 <= n_best <= beams")
        if not math.isfinite(self.length_penalty):
            raise UserError(f"beam.length_penalty is {self.length_penalty}; it must be a finite number")
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise UserError(f"beam.early_stopping is {self.early_stopping!r}; it must be True, False or 'never'")


@flax.struct.dataclass
class BeamCompletions:
    """The best completions of each prompt, best first.

    Attributes:
        completions: as sampled ones, with G = n_best; log-probabilities are those of temperature 1.
        scores_BG: float32 ``sum of log-probabilities / length^length_penalty``; NaN, with an empty completion, where
            the search ended without one, as with logits that are NaN.
    """

    completions: Completions
    scores_BG: Array


class _Rows(NamedTuple):
    """Completions in competition, J of each prompt."""

    tokens_BJC: Array
    logp_BJC: Array
    score_BJ: Array


class _Loop(NamedTuple):
    step: Array
    running: _Rows  # score: sum of log-probabilities
    ended: _Rows  # score: the same over length^length_penalty
    full_BJ: Array  # whether there is a completion in this place of `ended`
    open_B: Array  # whether the prompt's best may still improve
    own: Any  # caches of the running ones


def beam_search(
    base: PyTree,
    adapters: PyTree | None,
    prompts_BP: Array,
    prompt_mask_BP: Array,
    cfg: ModelConfig,
    beam: BeamConfig,
    *,
    eos_ids: tuple[int, ...],
    pad_id: int,
) -> BeamCompletions:
    """The completions that a beam of so many finds; those of transformers 5.23's ``generate(num_beams=...)``.

    At each step every running completion is continued by every token, the sums of log-probabilities are ranked, those
    of the first `beams` that end compete for the places of the ended ones, and the best `beams` that do not end run
    on.  A prompt's keys and values are held once for all of its beams.

    Args:
        base: weights, quantized or dense.
        adapters: or None.
        prompts_BP: int32, left-padded.
        prompt_mask_BP: true at real tokens.
        cfg: the model's shape (static).
        beam: the options (static).
        eos_ids: tokens that end a completion (static).
        pad_id: fills what comes after the end (static).

    Raises:
        UserError: where the vocabulary is too small for so many beams.
    """
    if _candidates(beam, eos_ids) > cfg.vocab_size * beam.beams:
        raise UserError(f"beam: {len(eos_ids)} end-of-sequence ids leave too little of {cfg.vocab_size} tokens")
    base, adapters = bind(base, adapters)
    hidden_BD, prefix = prefill(base, adapters, prompts_BP, prompt_mask_BP, cfg)
    first = jnp.broadcast_to(logits(base, hidden_BD)[:, None], (prompts_BP.shape[0], beam.beams, cfg.vocab_size))
    loop = _advance(_start(prefix, beam, pad_id, cfg), first, beam, eos_ids)

    def body(loop: _Loop) -> _Loop:
        last = jnp.take(loop.running.tokens_BJC, loop.step - 1, axis=2)
        hidden, own = decode_step(base, adapters, last, loop.step - 1, prefix, loop.own, cfg)
        return _advance(loop._replace(own=own), logits(base, hidden), beam, eos_ids)

    loop = jax.lax.while_loop(lambda loop: _goes_on(loop, beam), body, loop)
    return _best(loop, beam, eos_ids, pad_id)


def _candidates(beam: BeamConfig, eos_ids: tuple[int, ...]) -> int:
    """So many that `beams` go on, even if every running one may end by every end-of-sequence token."""
    return max(2, 1 + len(eos_ids)) * beam.beams


def _start(prefix: PrefixCache, beam: BeamConfig, pad_id: int, cfg: ModelConfig) -> _Loop:
    batch, length = prefix.mask_BP.shape[0], beam.max_new_tokens
    tokens = jnp.full((batch, beam.beams, length), pad_id, jnp.int32)
    # All beams begin alike: only the first one counts, or they would stay alike.
    score = jnp.broadcast_to(jnp.where(jnp.arange(beam.beams)[None] == 0, 0.0, LOST), tokens.shape[:2])
    running = _Rows(tokens, jnp.zeros(tokens.shape), score)
    ended = running._replace(score_BJ=jnp.full(score.shape, LOST))
    own = empty_own(prefix, beam.beams, length - 1, cfg)
    return _Loop(jnp.zeros((), jnp.int32), running, ended, jnp.zeros(score.shape, bool), jnp.ones((batch,), bool), own)


def _advance(loop: _Loop, logits_BGV: Array, beam: BeamConfig, eos_ids: tuple[int, ...]) -> _Loop:
    candidates, parents_BJ, ends_BJ = _continue(loop, logits_BGV, beam, eos_ids)
    running, chosen = _top(
        candidates._replace(score_BJ=candidates.score_BJ + jnp.where(ends_BJ, LOST, 0.0)), beam.beams
    )
    ended, full = _finish(loop, candidates, ends_BJ, beam)
    parents = jnp.take_along_axis(parents_BJ, chosen, axis=1)
    own = jax.tree.map(lambda x: _reorder(x, parents), loop.own)
    open_B = loop.open_B & _may_improve(loop.step + 1, running.score_BJ[:, :1], ended.score_BJ, full, beam)
    return _Loop(loop.step + 1, running, ended, full, open_B, own)


def _continue(loop: _Loop, logits_BGV: Array, beam: BeamConfig, eos_ids: tuple[int, ...]) -> tuple[_Rows, Array, Array]:
    """The best continuations, the beam that each comes from, and whether it ends."""
    logp = jax.nn.log_softmax(logits_BGV.astype(jnp.float32), axis=-1)
    vocab, ends = logp.shape[-1], jnp.asarray(eos_ids, jnp.int32)
    early = jnp.isin(jnp.arange(vocab, dtype=jnp.int32), ends) & (loop.step < beam.min_new_tokens)
    score = jnp.where(early[None, None] | jnp.isnan(logp), -jnp.inf, logp) + loop.running.score_BJ[..., None]
    score, place = jax.lax.top_k(score.reshape(score.shape[0], -1), _candidates(beam, eos_ids))
    parents, tokens = place // vocab, place % vocab
    rows = _take(loop.running, parents)
    new = jnp.take_along_axis(logp.reshape(logp.shape[0], -1), place, axis=1)
    rows = _Rows(
        rows.tokens_BJC.at[..., loop.step].set(tokens.astype(jnp.int32)),
        rows.logp_BJC.at[..., loop.step].set(new),
        score,
    )
    return rows, parents, jnp.isin(tokens, ends) | (loop.step + 1 >= beam.max_new_tokens)


def _finish(loop: _Loop, candidates: _Rows, ends_BJ: Array, beam: BeamConfig) -> tuple[_Rows, Array]:
    """The best of those that had ended and of those that end now among the first `beams` candidates."""
    ends = ends_BJ & (jnp.arange(ends_BJ.shape[1]) < beam.beams)[None]
    closed = ~loop.open_B
    if beam.early_stopping is True:
        closed |= jnp.all(loop.full_BJ, axis=1)
    score = candidates.score_BJ / _lengths(beam)[loop.step + 1]
    score = score + jnp.where(closed[:, None], LOST, 0.0) + jnp.where(ends, 0.0, LOST)
    both = jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis=1), loop.ended, candidates._replace(score_BJ=score))
    ended, chosen = _top(both, beam.beams)
    return ended, jnp.take_along_axis(jnp.concatenate([loop.full_BJ, ends], axis=1), chosen, axis=1)


def _may_improve(length: Array, running_B1: Array, ended_BJ: Array, full_BJ: Array, beam: BeamConfig) -> Array:
    longest = beam.early_stopping == "never" and beam.length_penalty > 0
    possible = running_B1 / _lengths(beam)[beam.max_new_tokens if longest else length]
    worst = jnp.where(full_BJ, jnp.min(ended_BJ, axis=1, keepdims=True), LOST)
    return jnp.any(possible > worst, axis=1)


def _goes_on(loop: _Loop, beam: BeamConfig) -> Array:
    more = (loop.step < beam.max_new_tokens) & jnp.any(loop.open_B)
    return more & ~jnp.all(loop.full_BJ) if beam.early_stopping is True else more


def _best(loop: _Loop, beam: BeamConfig, eos_ids: tuple[int, ...], pad_id: int) -> BeamCompletions:
    rows, full = jax.tree.map(lambda x: x[:, : beam.n_best], (loop.ended, loop.full_BJ))
    mask = completion_mask(rows.tokens_BJC, eos_ids) & full[..., None]
    tokens, logp = jnp.where(mask, rows.tokens_BJC, pad_id), jnp.where(mask, rows.logp_BJC, 0.0)
    return BeamCompletions(Completions(tokens, logp, mask, loop.step), jnp.where(full, rows.score_BJ, jnp.nan))


def _lengths(beam: BeamConfig) -> Array:
    """``n^length_penalty`` for n from 0 (unused) to C, as float64 rounds it to float32."""
    return jnp.asarray(np.maximum(np.arange(beam.max_new_tokens + 1.0), 1.0) ** beam.length_penalty, jnp.float32)


def _top(rows: _Rows, count: int) -> tuple[_Rows, Array]:
    chosen = jax.lax.top_k(rows.score_BJ, count)[1]
    return _take(rows, chosen), chosen


def _take(rows: _Rows, chosen_BJ: Array) -> _Rows:
    def take(x: Array) -> Array:
        return jnp.take_along_axis(x, chosen_BJ.reshape(chosen_BJ.shape + (1,) * (x.ndim - 2)), axis=1)

    return jax.tree.map(take, rows)


def _reorder(cache: Array, parents_BG: Array) -> Array:
    """A cache ``[L, B, G, ...]`` whose sample g is the former one of its parent."""
    index = parents_BG.reshape(1, *parents_BG.shape, *(1,) * (cache.ndim - 3))
    return jnp.take_along_axis(cache, index, axis=2)
