"""Weights in few bits: codebooks, blockwise and double quantization, the quantized matrix and its matmul."""

from lqlm.quant.blockwise import dequantize_blockwise, quantize_blockwise
from lqlm.quant.bnb import from_bnb, to_bnb
from lqlm.quant.codebooks import CODEBOOKS, NF4, bits_of, dynamic_map, normal_map, thresholds
from lqlm.quant.double import DoubleQuantized, double_quantize, undo_double
from lqlm.quant.matmul import matmul
from lqlm.quant.packing import pack, unpack
from lqlm.quant.qtensor import QTensor, QuantConfig, bits_per_parameter, check_finite, dequantize, quantize

__all__ = [
    "CODEBOOKS",
    "NF4",
    "DoubleQuantized",
    "QTensor",
    "QuantConfig",
    "bits_of",
    "bits_per_parameter",
    "check_finite",
    "dequantize",
    "dequantize_blockwise",
    "double_quantize",
    "dynamic_map",
    "from_bnb",
    "matmul",
    "normal_map",
    "pack",
    "quantize",
    "quantize_blockwise",
    "thresholds",
    "to_bnb",
    "undo_double",
    "unpack",
]
