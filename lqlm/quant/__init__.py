"""4-bit weights: codebooks, blockwise and double quantization, the quantized matrix and its matmul."""

from lqlm.quant.blockwise import dequantize_blockwise, pack_nibbles, quantize_blockwise, unpack_nibbles
from lqlm.quant.bnb import from_bnb, to_bnb
from lqlm.quant.codebooks import NF4, dynamic_map, thresholds
from lqlm.quant.double import DoubleQuantized, double_quantize, undo_double
from lqlm.quant.matmul import matmul
from lqlm.quant.qtensor import QTensor, QuantConfig, bits_per_parameter, check_finite, dequantize, quantize

__all__ = [
    "NF4",
    "DoubleQuantized",
    "QTensor",
    "QuantConfig",
    "bits_per_parameter",
    "check_finite",
    "dequantize",
    "dequantize_blockwise",
    "double_quantize",
    "dynamic_map",
    "from_bnb",
    "matmul",
    "pack_nibbles",
    "quantize",
    "quantize_blockwise",
    "thresholds",
    "to_bnb",
    "undo_double",
    "unpack_nibbles",
]
