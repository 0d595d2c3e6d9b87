"""Abstract models: shapes without arrays, by name or from what describes a model before its weights are there."""

import dataclasses
import pathlib
import re

import jax
import jax.numpy as jnp

from lqlm.adapters.configs import LINEARS, AdapterConfig, FullConfig, LoraConfig
from lqlm.adapters.init import init_adapters
from lqlm.errors import UserError
from lqlm.io.gguf import read_gguf
from lqlm.io.load import DEFAULT_MODEL, default_model_path
from lqlm.io.safetensors import read_json
from lqlm.models.config import ModelConfig
from lqlm.models.convert import layer_tensors, outer_tensors
from lqlm.models.hf_config import config_from_hf
from lqlm.quant.qtensor import QuantConfig, quantize
from lqlm.types import PyTree

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def llama(layers: int, width: int, ffn: int, heads: int, vocab_size: int = 32000) -> ModelConfig:
    """A Llama of the first generation: no grouped queries, a head of its own."""
    return ModelConfig(
        family="llama",
        vocab_size=vocab_size,
        width=width,
        ffn=ffn,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        rope_theta=10000.0,
        rope_scaling=None,
        norm_eps=1e-5,
        tied=False,
        qkv_bias=False,
        qk_norm=False,
        max_positions=2048,
        sliding_window=None,
    )


def opt(layers: int, width: int, heads: int) -> ModelConfig:
    """An OPT (arXiv:2205.01068, table 1), the feed-forward layer four times as wide as the residual stream."""
    changes = {"family": "opt", "norm_eps": 1e-5, "tied": True, "qkv_bias": True, "max_positions": 2048}
    return dataclasses.replace(llama(layers, width, 4 * width, heads, 50272), **changes)  # type: ignore[arg-type]


SHAPES = {
    "7B": llama(32, 4096, 11008, 32),
    "13B": llama(40, 5120, 13824, 40),
    "33B": llama(60, 6656, 17920, 52),
    "65B": llama(80, 8192, 22016, 64),
    "OPT-125M": opt(12, 768, 12),
    "OPT-1.3B": opt(24, 2048, 32),
}


def read_shape(model: str) -> ModelConfig:
    """The shape of a model; of its weights nothing is read.

    Args:
        model: ``7B``, ``13B``, ``33B`` or ``65B`` (Llama), ``OPT-125M``, ``OPT-1.3B``, ``smollm2-135m-instruct``, a
            ``.gguf`` file (its header is read), a ``config.json`` or the directory of one, or a hub id (``config.json``
            alone is fetched).

    Raises:
        UserError: for anything else, or a model that lqlm does not compute.
    """
    if model in SHAPES:
        return SHAPES[model]
    path = default_model_path() if model == DEFAULT_MODEL else pathlib.Path(model).expanduser()
    if path.suffix == ".gguf":
        raw, where = read_gguf(path).config, path
    else:
        where = _config_file(model, path)
        raw = read_json(where)
    try:
        return config_from_hf(raw)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _config_file(model: str, path: pathlib.Path) -> pathlib.Path:
    if path.exists():
        return path / "config.json" if path.is_dir() else path
    if not _HUB_ID.fullmatch(model):
        raise UserError(
            f"{model!r} is no shape ({', '.join(SHAPES)}), no file or directory, and no hub id owner/name; name one"
        )
    from huggingface_hub import hf_hub_download

    try:
        return pathlib.Path(hf_hub_download(model, "config.json"))
    except Exception as error:  # the hub's client lets errors of several libraries through
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{model}: no such path here, and the hub gave no config.json ({cause})") from error


def abstract_base(cfg: ModelConfig, quant: QuantConfig | None, dtype: str = "bfloat16") -> PyTree:
    """Shapes of a base whose linear maps are quantized, unless ``quant`` is None."""

    def build() -> PyTree:
        def tensor(name: str, shape: tuple[int, ...]) -> PyTree:
            w = jnp.zeros((cfg.layers, *reversed(shape)), dtype)
            return quantize(w, quant) if quant is not None and name in LINEARS else w

        layers = {name: tensor(name, shape) for name, (_, shape) in layer_tensors(cfg).items()}
        outer = {name: jnp.zeros(shape, dtype) for name, (_, shape) in outer_tensors(cfg).items()}
        return {name: x.T if name == "head" else x for name, x in outer.items()} | {"layers": layers}

    return jax.eval_shape(build)


def abstract_adapters(base: PyTree, adapter: AdapterConfig) -> tuple[PyTree, PyTree]:
    """Shapes of ``(base, adapters)``; what decomposes the weights has the shapes of what does not."""
    if isinstance(adapter, LoraConfig):
        adapter = dataclasses.replace(adapter, init="kaiming")
    adapters = jax.eval_shape(lambda key, base: init_adapters(key, base, adapter)[1], jax.random.key(0), base)
    return {} if isinstance(adapter, FullConfig) else base, adapters
