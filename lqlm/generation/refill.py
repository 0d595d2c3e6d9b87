"""A padded batch through the engine: samples of many prompts with fewer under way at once."""

import jax
import numpy as np

from lqlm.generation.decode import Completions
from lqlm.generation.engine import Engine
from lqlm.generation.requests import Request
from lqlm.types import Key


def complete(engine: Engine, prompts_BP: np.ndarray, prompt_mask_BP: np.ndarray, key: Key) -> Completions:
    """Sample a group of completions of every prompt, as :func:`lqlm.generation.decode.generate` does, slot by slot.

    Keys and values are held for ``slots * G`` samples, not for ``B * G``, and a slot whose samples have all ended goes
    on with the next prompt instead of waiting for the longest of the batch.  The samples of a prompt depend on the key
    and on the prompt's row, not on the number of slots (but for the rounding of sums); greedy ones are those of
    ``generate``, sampled ones are others from the same distribution.

    Args:
        engine: its largest bucket holds the prompts.
        prompts_BP: int32, padded on either side.
        prompt_mask_BP: true at real tokens.
        key: consumed; the same key gives the same samples.

    Returns:
        ``steps`` are the engine's, of all slots in turn.

    Raises:
        UserError: for a prompt without a token, and what the engine refuses.
    """
    program = engine.program
    rows = zip(np.asarray(prompts_BP), np.asarray(prompt_mask_BP), strict=True)
    requests = [Request(str(b), tuple(tokens[mask].tolist())) for b, (tokens, mask) in enumerate(rows)]
    shape = (len(requests), program.engine.group, program.sampling.max_new_tokens)
    tokens, logp = np.full(shape, program.pad_id, np.int32), np.zeros(shape, np.float32)
    count = np.zeros(shape[:2], int)
    for event in engine.run(requests, key):
        b, g = int(event.id), event.sample
        place = slice(count[b, g], count[b, g] + len(event.tokens))
        tokens[b, g, place], logp[b, g, place] = event.tokens, event.logp
        count[b, g] = place.stop
    mask = np.arange(shape[2]) < count[..., None]
    return Completions(*map(jax.device_put, (tokens, logp, mask, np.int32(engine.stats.steps))))
