"""Make bnb.npz and bnb_nf4/, bnb_fp4/ (with the peers installed: python tests/goldens/make_bnb.py).

The arrays are what bitsandbytes does to a few vectors and weights; the folders are tiny checkpoints that transformers
quantized with bitsandbytes and saved, with their logits.  Floats in the arrays are stored as bits (uint32 or uint16),
since numpy has no bfloat16 and equality is meant to the last one.
"""

import json
import pathlib
import sys
import tempfile

import bitsandbytes
import bitsandbytes.functional as bnb
import numpy as np
import torch
import transformers
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

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


def flat_cases(generator: torch.Generator, kind: str = "nf4", start: str = "") -> dict[str, np.ndarray]:
    """Vectors of ragged sizes."""
    out = {}
    for name, dtype in DTYPES.items():
        for size in SIZES:
            x = sample((size,), dtype, generator)
            packed, state = bnb.quantize_4bit(x, quant_type=kind, blocksize=64)
            key = f"{start}flat/{name}/{size}"
            out |= {f"{key}/x": bits(x), f"{key}/packed": packed.numpy(), f"{key}/absmax": bits(state.absmax)}
            out[f"{key}/y"] = bits(bnb.dequantize_4bit(packed, state)).reshape(-1)
    return out


def matrix_cases(generator: torch.Generator, kind: str = "nf4", start: str = "") -> dict[str, np.ndarray]:
    """Weights [out, in] as a checkpoint holds them, with and without double quantization."""
    out = {}
    for name, dtype in DTYPES.items():
        for layout, shape in MATRICES.items():
            w = sample(shape, dtype, generator)
            out[f"{start}matrix/{name}/{layout}/w"] = bits(w)
            for double in (False, True):
                packed, state = bnb.quantize_4bit(w, quant_type=kind, blocksize=64, compress_statistics=double)
                key = f"{start}matrix/{name}/{layout}/{'double' if double else 'single'}"
                tensors = {f"weight.{k}": v for k, v in state.as_dict(packed=True).items()} | {"weight": packed}
                out |= {f"{key}/{k}": v.numpy() for k, v in tensors.items()}
                # Flattened first: the peer's CPU kernel takes the maxima of the wrong blocks when the last axis is
                # not a multiple of the block.
                state.shape = torch.Size([w.numel()])
                out[f"{key}/y"] = bits(bnb.dequantize_4bit(packed, state)).reshape(shape)
    return out


def checkpoint(folder: pathlib.Path, kind: str) -> None:
    """A tiny llama that transformers quantized on loading and saved again, and its logits.

    Its widths are multiples of the block (see the note on maxima above).  The nf4 one has double quantization and a
    linear map that is dense in one layer.
    """
    torch.manual_seed(11)
    sizes = dict(vocab_size=40, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    config = LlamaConfig(**sizes, num_key_value_heads=1, head_dim=32, max_position_embeddings=64)
    dense = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in dense.parameters():
            weight.mul_(4.0 if weight.ndim == 2 else 1.0)  # initialized so small that logits are all alike
    skip = ["lm_head", *(["model.layers.1.mlp.down_proj"] if kind == "nf4" else [])]
    wanted = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=kind == "nf4",
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=skip,
    )
    with tempfile.TemporaryDirectory() as plain:
        dense.save_pretrained(plain)
        model = LlamaForCausalLM.from_pretrained(plain, quantization_config=wanted, dtype=torch.float32)
    model.save_pretrained(folder)
    tokens = torch.arange(24).reshape(2, 12) * 7 % 40
    model.train()  # in eval mode the peer repacks its weights to bfloat16 maxima on some CPUs
    with torch.no_grad():
        np.savez_compressed(folder / "golden.npz", tokens=tokens.int().numpy(), logits=model(tokens).logits.numpy())


def main(out_dir: pathlib.Path) -> None:
    """Write bnb.npz and the checkpoints into a folder."""
    generator = torch.Generator().manual_seed(20240531)
    arrays = flat_cases(generator) | matrix_cases(generator)
    arrays["dynamic_map"] = bits(bnb.create_dynamic_map())
    arrays |= flat_cases(generator, "fp4", "fp4/") | matrix_cases(generator, "fp4", "fp4/")
    arrays["fp4/map"] = bits(bnb.get_4bit_type("fp4", device="cpu"))
    versions = {"bitsandbytes": bitsandbytes.__version__, "torch": torch.__version__, "numpy": np.__version__}
    versions["transformers"] = transformers.__version__
    arrays["versions"] = np.array(json.dumps(versions))
    np.savez_compressed(pathlib.Path(out_dir) / "bnb.npz", **arrays)
    for kind in ("nf4", "fp4"):
        checkpoint(pathlib.Path(out_dir) / f"bnb_{kind}", kind)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
