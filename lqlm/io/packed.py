"""What checkpoints with quantized weights have in common, whoever wrote them."""

import abc
import dataclasses
import pathlib

import numpy as np

from lqlm.io.safetensors import SafeTensors
from lqlm.quant.qtensor import QTensor, dequantize
from lqlm.types import Array


@dataclasses.dataclass(frozen=True)
class PackedWeights(abc.ABC):
    """An open checkpoint some of whose weights are quantized; numbers are read when asked for.

    Attributes:
      inner: the safetensors files.
    """

    inner: SafeTensors

    @property
    def files(self) -> tuple[pathlib.Path, ...]:
        """The files that hold the weights."""
        return self.inner.files

    def describe(self, name: str) -> str:
        """Where a tensor lies, for messages."""
        return self.inner.describe(name)

    def get(self, name: str) -> np.ndarray:
        """A tensor under its name; one that is quantized is dequantized to float32 ``[out, in]``."""
        found = self.packed(name)
        return (
            np.asarray(dequantize(found, np.dtype(np.float32))).T
            if isinstance(found, QTensor)
            else self.inner.get(name)
        )

    @abc.abstractmethod
    def packed(self, name: str) -> QTensor | Array | None:
        """A linear map as ``[in, out]``, as it was saved; None for any other tensor."""
