"""Make bnb.npz: what bitsandbytes does to a few arrays (with the peers installed: python tests/goldens/make_bnb.py).

Floats are stored as bits (uint32 or uint16), since numpy has no bfloat16 and equality is meant to the last one.
"""

import json
import pathlib
import sys

import bitsandbytes
import bitsandbytes.functional as bnb
import numpy as np
import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SIZES = (1, 63, 64, 65, 1000, 2113)
MATRICES = {"rows": (40, 128), "flat": (30, 48)}  # (out, in): in divisible by the block, and not


def bits(x: torch.Tensor) -> np.ndarray:
    """The bit pattern of a tensor."""
    x = x.detach().contiguous()
    return x.numpy().view(np.uint32) if x.dtype == torch.float32 else x.view(torch.int16).numpy().view(np.uint16)


def sample(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Normal values whose scale changes from value to value, with a run of zeros where there is room."""
    x = torch.randn(shape, generator=generator) * torch.exp(torch.randn(shape, generator=generator))
    x.view(-1)[64:200] = 0.0  # block 1 all zeros, part of block 2
    if x.numel() == 1000:
        x.view(-1)[960:] = 0.0  # and a partial last block of zeros
    return x.to(dtype)


def flat_cases(generator: torch.Generator) -> dict[str, np.ndarray]:
    """Vectors of ragged sizes."""
    out = {}
    for name, dtype in DTYPES.items():
        for size in SIZES:
            x = sample((size,), dtype, generator)
            packed, state = bnb.quantize_4bit(x, quant_type="nf4", blocksize=64)
            key = f"flat/{name}/{size}"
            out |= {f"{key}/x": bits(x), f"{key}/packed": packed.numpy(), f"{key}/absmax": bits(state.absmax)}
            out[f"{key}/y"] = bits(bnb.dequantize_4bit(packed, state)).reshape(-1)
    return out


def matrix_cases(generator: torch.Generator) -> dict[str, np.ndarray]:
    """Weights [out, in] as a checkpoint holds them, with and without double quantization."""
    out = {}
    for name, dtype in DTYPES.items():
        for layout, shape in MATRICES.items():
            w = sample(shape, dtype, generator)
            out[f"matrix/{name}/{layout}/w"] = bits(w)
            for double in (False, True):
                packed, state = bnb.quantize_4bit(w, quant_type="nf4", blocksize=64, compress_statistics=double)
                key = f"matrix/{name}/{layout}/{'double' if double else 'single'}"
                tensors = {f"weight.{k}": v for k, v in state.as_dict(packed=True).items()} | {"weight": packed}
                out |= {f"{key}/{k}": v.numpy() for k, v in tensors.items()}
                # Flattened first: the peer's CPU kernel takes the maxima of the wrong blocks when the last axis is
                # not a multiple of the block.
                state.shape = torch.Size([w.numel()])
                out[f"{key}/y"] = bits(bnb.dequantize_4bit(packed, state)).reshape(shape)
    return out


def main(out_dir: pathlib.Path) -> None:
    """Write bnb.npz into a folder."""
    generator = torch.Generator().manual_seed(20240531)
    arrays = flat_cases(generator) | matrix_cases(generator)
    arrays["dynamic_map"] = bits(bnb.create_dynamic_map())
    versions = {"bitsandbytes": bitsandbytes.__version__, "torch": torch.__version__, "numpy": np.__version__}
    arrays["versions"] = np.array(json.dumps(versions))
    np.savez_compressed(pathlib.Path(out_dir) / "bnb.npz", **arrays)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
