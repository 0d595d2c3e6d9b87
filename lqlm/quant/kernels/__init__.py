"""Kernels for accelerators: products with 4-bit weights that are never dequantized into memory."""

from lqlm.quant.kernels.fused import fused_matmul, fused_transposed, fusible
from lqlm.quant.kernels.tiles import MOST_ROWS, Tiles, tiles_for

__all__ = ["MOST_ROWS", "Tiles", "fused_matmul", "fused_transposed", "fusible", "tiles_for"]
