"""Double quantization: the block maxima of 4-bit weights, themselves kept in 8 bits.

Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, section 3: 32 / 64 = 0.5 bit per weight of maxima becomes
8 / 64 + 32 / (64 * 256) = 0.127.
"""

import flax.struct
import jax.numpy as jnp
import numpy as np

from lqlm.quant.blockwise import nearest_code, reciprocal
from lqlm.quant.codebooks import dynamic_map
from lqlm.types import Array

LARGEST = np.finfo(np.float32).max


@flax.struct.dataclass
class DoubleQuantized:
    """Positive numbers around a common mean, 8 bits each.

    Attributes:
        codes: uint8 [..., n], indices into the signed dynamic map.
        absmax: float32 [..., ceil(n / block)], largest distance from the mean in each block.
        offset: float32 [...], the mean.
        block: numbers per block (static).
    """

    codes: Array
    absmax: Array
    offset: Array
    block: int = flax.struct.field(pytree_node=False)


def _in_blocks(x: Array, block: int) -> Array:
    """[n] -> [ceil(n / block), block], filled up with zeros."""
    return jnp.pad(x, (0, -x.size % block)).reshape(-1, block)


def _rounded(x: Array) -> Array:
    """Any finite number, unchanged; use it on a product whose sum with another must round twice.

    The compiler contracts ``a * b + c`` to a fused multiply-add with a different last bit.  Neither an optimization
    barrier nor ``reduce_precision`` stops it on the CPU; a clip to the largest float between the two does.
    """
    return jnp.clip(x, -LARGEST, LARGEST)


def _mean(x: Array) -> Array:
    """Mean of [n] by halving: the same bits compiled or not, alone or in a stack, and accurate for any n."""
    total = jnp.pad(x, (0, (1 << (x.size - 1).bit_length()) - x.size))
    while total.size > 1:
        total = total[: total.size // 2] + total[total.size // 2 :]
    # Times the reciprocal, because XLA turns a division by a constant into that, but only where it sees the constant.
    return _rounded(total[0] * np.float32(1 / x.size))


def double_quantize(absmax: Array, block: int = 256) -> DoubleQuantized:
    """Quantize block maxima to 8 bits around their mean.

    ``r_i = absmax_i - mean(absmax)``, ``code_i = argmin_c |r_i / max_b |r| - map_c|``: the exactly nearest code, which
    is bitsandbytes' rule on CUDA (its table on the CPU may be one code off).

    Args:
        absmax: float32 [n].
        block: numbers per block.

    Returns:
        A :class:`DoubleQuantized` of n numbers.
    """
    offset = _mean(absmax)
    rest = _in_blocks(absmax - offset, block)
    tops = jnp.max(jnp.abs(rest), axis=1)
    codes = nearest_code(rest * reciprocal(tops)[:, None], dynamic_map())
    return DoubleQuantized(codes.reshape(-1)[: absmax.size], tops, offset, block)


def undo_double(packed: DoubleQuantized) -> Array:
    """Undo :func:`double_quantize`: ``map[code_i] * absmax_b + offset``, product and sum rounded separately.

    Args:
        packed: the 8-bit maxima of one matrix (no leading axes).

    Returns:
        float32 [n].
    """
    size = packed.codes.size
    values = jnp.asarray(dynamic_map()).at[packed.codes.astype(jnp.int32)].get(mode="promise_in_bounds")
    products = _in_blocks(values, packed.block) * packed.absmax[:, None]
    return (_rounded(products) + packed.offset).reshape(-1)[:size]
