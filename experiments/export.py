"""Merge an adapter into its model, and write the result for other tools.

usage: python -m experiments.export [--config FILE] [--config.KEY=VALUE ...]

  python -m experiments.export --config.adapter=runs/sft_smollm2_arithmetic/adapter --config.out=runs/merged
  python -m experiments.export --config.adapter=runs/sft_smollm2_arithmetic/adapter --config.out=merged.gguf \\
      --config.gguf=Q8_0
  python -m experiments.export --config.out=runs/nf4 --config.bitsandbytes=True
  python -m experiments.export --config.adapter=runs/qa/adapter --config.out=runs/qa_merged --config.quantized=True

The adapter is a PEFT directory; it is added, in float32, to the base that it was trained on: dequantized, where that
was held in 4 bits.  --config.out is a GGUF file if it ends in .gguf, else a Hugging Face directory.  Of each linear map
it is said how much of what the adapter changed is lost to rounding (to float16 before Q8_0, which loses more).  A
group-wise adapter (QA-LoRA, lora.group) merges with --config.quantized=True into the shifts of the quantized base,
where nothing is lost; the directory is lqlm's own, as experiments.quantize writes it.
"""

import dataclasses
import pathlib
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from experiments import command
from experiments.configdict import from_config
from experiments.settings import ModelSettings
from lqlm.adapters.merge import merge_groups, merge_reported
from lqlm.errors import UserError
from lqlm.io.bnb_checkpoint import save_bnb
from lqlm.io.export import save_hf
from lqlm.io.gguf_writer import save_gguf
from lqlm.io.load import LoadedModel, load_model
from lqlm.io.peft import load_peft
from lqlm.io.quantized import save_quantized
from lqlm.types import PyTree

DEFAULT = "configs/export_smollm2.py"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What is written, and where.

    Attributes:
        out: a new directory, or a file that ends in ``.gguf``.
        adapter: a PEFT directory; empty: the model as it is.
        model: the base, held as it was when the adapter was trained.
        dtype: of the written weights (a directory's).
        gguf: the type of a GGUF file's matrices.
        bitsandbytes: write the linear layers in 4 bits, as bitsandbytes does; not together with an adapter.
        quantized: write the base's own codes, with a group-wise adapter merged into the shifts beside them.
    """

    out: str
    adapter: str = ""
    model: ModelSettings = ModelSettings()
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    gguf: Literal["F32", "F16", "Q8_0"] = "F16"
    bitsandbytes: bool = False
    quantized: bool = False

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if not self.out:
            raise UserError("out is empty; name a new directory, or a file that ends in .gguf")
        if self.bitsandbytes and (self.adapter or self.out.endswith(".gguf")):
            raise UserError("bitsandbytes is True; it goes with neither an adapter nor a .gguf file")
        if self.quantized and (not self.model.quantize or self.bitsandbytes or self.out.endswith(".gguf")):
            raise UserError("quantized is True; it needs model.quantize, and goes with neither bitsandbytes nor .gguf")


def main(config: Any) -> None:
    """Load, merge, write, and say what was lost."""
    settings = from_config(ExportSettings, config)
    command.use_compilation_cache()
    quant = settings.model.quant if settings.model.quantize else None
    model = load_model(settings.model.source, quant, settings.model.dtype)
    base = model.base if not settings.adapter else _merged(settings, model)
    write(settings, model, base)
    print(f"{settings.model.source} {f'with {settings.adapter} ' if settings.adapter else ''}is in {settings.out}")


def _merged(settings: ExportSettings, model: LoadedModel) -> PyTree:
    adapters, _ = load_peft(settings.adapter, model.config)
    if settings.quantized:
        return merge_groups(model.base, adapters)
    stored = {"F32": "float32", "F16": "float16", "Q8_0": "float16"}[settings.gguf]
    dtype = stored if settings.out.endswith(".gguf") else settings.dtype
    merged = merge_reported(model.base, adapters, jnp.dtype(dtype))
    print(f"of what the adapter changed, rounding to {dtype} loses (RMS, worst layer):")
    for name, error in merged.error.items():
        print(f"  {name:10} {np.max(np.asarray(error)):.2e}")
    return merged.base


def write(settings: ExportSettings, model: LoadedModel, base: PyTree) -> None:
    """The model in the wanted form."""
    if settings.out.endswith(".gguf"):
        save_gguf(settings.out, base, model.config, model.tokenizer, settings.gguf, pathlib.Path(settings.out).stem)
    elif settings.quantized:
        save_quantized(settings.out, base, model.config, model.tokenizer, settings.dtype)
    elif settings.bitsandbytes:
        save_bnb(settings.out, base, model.config, model.tokenizer, settings.dtype)
    else:
        save_hf(settings.out, base, model.config, model.tokenizer, settings.dtype)


if __name__ == "__main__":
    command.run(main, ExportSettings, __doc__ or "", DEFAULT)
