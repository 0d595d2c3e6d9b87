"""Choosing the next token: penalties, temperature, truncation, and the draw."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from lqlm.errors import UserError
from lqlm.generation import penalties
from lqlm.generation.draw import best, draw
from lqlm.generation.penalties import Seen
from lqlm.generation.truncation import NEVER, keep_min_p, keep_top_k, keep_top_p
from lqlm.types import Array, Key


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How to sample.

    Attributes:
        max_new_tokens: length C of the completions.
        min_new_tokens: as long as a completion is shorter, its end-of-sequence tokens cannot be chosen.
        temperature: divides the logits; 0 is greedy, and then top_k, top_p and min_p have no effect.
        top_k: keep the k most probable tokens; 0, or more than the vocabulary, keeps all.
        top_p: keep the smallest set of most probable tokens whose probability reaches p; 1 keeps all.
        min_p: keep the tokens of at least this share of the largest probability; 0 keeps all.
        presence_penalty: taken off the logit of every token that was generated, -2 to 2.
        frequency_penalty: taken off once for each time that it was generated, -2 to 2.
        repetition_penalty: divides the positive and multiplies the negative logits of tokens in the prompt or
            generated; 1 is none.
        stop: texts that end a completion; for the engine, which decodes, and not for `generate`.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # The conditions say what is right, so that NaN is refused too.
        self._need("max_new_tokens", self.max_new_tokens >= 1, "at least 1")
        self._need("min_new_tokens", self.min_new_tokens >= 0, "0 (no minimum) or more")
        if self.min_new_tokens > self.max_new_tokens:
            raise UserError(
                f"sampling.min_new_tokens is {self.min_new_tokens} and max_new_tokens {self.max_new_tokens}; "
                "lower the one or raise the other"
            )
        self._need("temperature", 0 <= self.temperature < math.inf, "0 (greedy) or positive")
        self._need("top_k", self.top_k >= 0, "0 (all) or positive")
        self._need("top_p", 0 < self.top_p <= 1, "above 0 and at most 1 (all)")
        self._need("min_p", 0 <= self.min_p < 1, "0 (all) or more, and below 1")
        self._need("presence_penalty", -2 <= self.presence_penalty <= 2, "between -2 and 2")
        self._need("frequency_penalty", -2 <= self.frequency_penalty <= 2, "between -2 and 2")
        self._need("repetition_penalty", 0 < self.repetition_penalty < math.inf, "positive (1 is none)")
        texts = isinstance(self.stop, tuple) and all(isinstance(text, str) and text for text in self.stop)
        self._need("stop", texts, "a tuple of texts, none of them empty")

    def _need(self, field: str, right: bool, what: str) -> None:
        if not right:
            raise UserError(f"sampling.{field} is {getattr(self, field)!r}; it must be {what}")

    @property
    def penalized(self) -> bool:
        """Whether any penalty is on, so that the sampler must know the tokens so far."""
        return (self.presence_penalty, self.frequency_penalty, self.repetition_penalty) != (0.0, 0.0, 1.0)


def start_seen(cfg: SamplingConfig, prompts_BP: Array, prompt_mask_BP: Array, group: int, vocab: int) -> Seen | None:
    """The tokens so far before anything was generated; None, and no memory, where no penalty is on.

    Args:
        cfg: which penalties.
        prompts_BP: int32.
        prompt_mask_BP: true at real tokens.
        group: G.
        vocab: V.
    """
    if not cfg.penalized:
        return None
    with_prompt = cfg.repetition_penalty != 1.0
    return penalties.start(prompts_BP, prompt_mask_BP, group, vocab, with_prompt=with_prompt)


def add_seen(seen: Seen | None, tokens_BG: Array, alive_BG: Array) -> Seen | None:
    """Count the tokens just generated, of the samples that are alive; None stays None."""
    return None if seen is None else penalties.add(seen, tokens_BG, alive_BG)


def kept_logits(
    logits: Array,
    cfg: SamplingConfig,
    seen: Seen | None = None,
    step: Array | int | None = None,
    eos_ids: tuple[int, ...] = (),
) -> Array:
    """The logits whose softmax is drawn from (or whose largest is taken), `NEVER` at tokens that are cut away.

    In this order, which is that of transformers and vLLM: repetition penalty, frequency and presence penalty,
    min_new_tokens, temperature, top_k, top_p, min_p.  NaN counts as minus infinity, plus infinity as the largest float
    that is safe.  Each row is shifted so that its largest logit is 0, which changes no probability.

    Args:
        logits: float32 ``[..., V]``; ``[B, G, V]`` where a penalty is on.
        cfg: the options (static).
        seen: the tokens so far, from `start_seen` and `add_seen`; needed where a penalty is on.
        step: int32 tokens generated so far, a scalar or ``[...]``; needed where min_new_tokens is on.
        eos_ids: end-of-sequence tokens (static).

    Returns:
        float32 ``[..., V]``.

    Raises:
        UserError: where `seen` or `step` is needed and missing.
    """
    x = _bounded(_penalized(logits.astype(jnp.float32), cfg, seen))
    x = _without_end(x, cfg.min_new_tokens, step, eos_ids)
    if cfg.temperature == 0.0:
        return x
    # Shifted before it is divided, no temperature makes infinities; float32 has none between 0 and 1e-38.
    shifted = (x - jnp.max(x, axis=-1, keepdims=True)) / max(cfg.temperature, 1e-30)
    x = jnp.where(x > NEVER, shifted, NEVER)
    return keep_min_p(keep_top_p(keep_top_k(x, cfg.top_k), cfg.top_p), cfg.min_p)


def sample(
    key: Key,
    logits: Array,
    cfg: SamplingConfig,
    seen: Seen | None = None,
    step: Array | int | None = None,
    eos_ids: tuple[int, ...] = (),
) -> tuple[Array, Array]:
    """Draw one token per row.

    Args:
        key: consumed; one for all rows, or typed keys ``[...]``, one for each row.
        logits: float32 ``[..., V]``; ``[B, G, V]`` where a penalty is on.
        cfg: the options (static).
        seen: the tokens so far, from `start_seen` and `add_seen`; needed where a penalty is on.
        step: int32 tokens generated so far, a scalar or ``[...]``; needed where min_new_tokens is on.
        eos_ids: end-of-sequence tokens (static).

    Returns:
        Tokens int32 ``[...]`` and their log-probabilities under the temperature-divided softmax over the whole
        vocabulary, without penalties, minimum and truncation: what the trainer recomputes, whatever was cut away.
        Greedy decoding reports those of temperature 1.

        Where a logit is NaN it counts as minus infinity when choosing, and the row's log-probability is NaN, so that
        the caller sees it.  Where nothing is left to choose (every logit NaN or minus infinity) the token is 0.

    Raises:
        UserError: where `seen` or `step` is needed and missing.
    """
    kept = kept_logits(logits, cfg, seen, step, eos_ids)
    tokens = best(kept) if cfg.temperature == 0.0 else draw(key, kept)
    scaled = logits.astype(jnp.float32) / (cfg.temperature or 1.0)
    chosen = jnp.take_along_axis(scaled, tokens[..., None], axis=-1)[..., 0]
    return tokens, chosen - jax.nn.logsumexp(scaled, axis=-1)


def _penalized(logits: Array, cfg: SamplingConfig, seen: Seen | None) -> Array:
    if not cfg.penalized:
        return logits
    if seen is None:
        raise UserError("sample: a penalty is on, so that it needs the tokens so far; give it seen=start_seen(...)")
    logits = penalties.repeat_penalty(logits, seen, cfg.repetition_penalty)
    return penalties.count_penalty(logits, seen, cfg.presence_penalty, cfg.frequency_penalty)


def _bounded(x: Array) -> Array:
    return jnp.clip(jnp.where(jnp.isnan(x), NEVER, x), NEVER, -NEVER)


def _without_end(x: Array, minimum: int, step: Array | int | None, eos_ids: tuple[int, ...]) -> Array:
    if minimum == 0 or not eos_ids:
        return x
    if step is None:
        raise UserError("sample: min_new_tokens is on, so that it needs the number of tokens so far; give it step=...")
    early = jnp.broadcast_to(jnp.asarray(step, jnp.int32), x.shape[:-1]) < minimum
    ends = jnp.isin(jnp.arange(x.shape[-1], dtype=jnp.int32), jnp.asarray(eos_ids, jnp.int32))
    return jnp.where(early[..., None] & ends.reshape((1,) * early.ndim + (-1,)), NEVER, x)
