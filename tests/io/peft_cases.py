"""What the tests of PEFT directories share: the goldens' cases, random adapters, and ways to damage a directory."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from lqlm.adapters.configs import LINEARS, AdapterConfig, Ia3Config, LoraConfig, PrefixConfig, PromptConfig
from lqlm.adapters.init import init_adapters
from lqlm.adapters.lora import Lora
from lqlm.models.config import ModelConfig
from lqlm.models.convert import from_hf_tensors, layer_tensors
from lqlm.models.hf_config import config_from_hf

WEIGHTS = "adapter_model.safetensors"
SOME = ("q_proj", "v_proj", "down_proj")
# The configs that the cases of make_peft.py are read as.
CONFIG_OF: dict[str, AdapterConfig] = {
    "lora": LoraConfig(rank=3, alpha=5.0, dropout=0.1, targets=LINEARS),
    "rslora": LoraConfig(rank=4, alpha=6.0, rslora=True, targets=SOME),
    "dora": LoraConfig(rank=2, alpha=5.0, dora=True, targets=LINEARS),
    "gaussian": LoraConfig(rank=2, alpha=8.0, init="gaussian", targets=("up_proj",)),
    "lora_bias": LoraConfig(rank=2, alpha=8.0, lora_bias=True, targets=LINEARS),
    "bias_all": LoraConfig(rank=2, alpha=8.0, bias="all", targets=SOME),
    "bias_lora_only": LoraConfig(rank=2, alpha=8.0, bias="lora_only", targets=SOME),
    "qalora": LoraConfig(rank=2, alpha=8.0, group=8, targets=("k_proj", "down_proj")),
    "ia3": Ia3Config(),
    "prompt": PromptConfig(tokens=3, init="random"),
    "p_tuning": PromptConfig(tokens=3, init="random"),
    "prefix": PrefixConfig(tokens=3),
    "pissa": LoraConfig(rank=4, alpha=10.0, targets=("q_proj", "down_proj")),
    "olora": LoraConfig(rank=4, alpha=10.0, targets=("q_proj", "down_proj")),
}
CASES = (*CONFIG_OF, "patterns", "dora_patterns")
FAMILY_OF = dict.fromkeys(("dora_patterns", "lora_bias", "bias_all", "bias_lora_only", "ia3"), "qwen2")


def model_config(golden: pathlib.Path, case: str) -> ModelConfig:
    """The model of a case."""
    family = FAMILY_OF.get(case, "llama")
    return config_from_hf(json.loads((golden / family / "config.json").read_text()))


@functools.cache
def golden_base(golden: pathlib.Path, case: str):
    """The model of a case with its weights: config, base, tokens, logits without an adapter."""
    arrays = np.load(golden / FAMILY_OF.get(case, "llama") / "base.npz")
    names = [name for name in arrays.files if name.endswith((".weight", ".bias"))]
    cfg = model_config(golden, case)
    base = from_hf_tensors(lambda name: arrays[name], names, cfg, quant=None, dtype="float32")
    return cfg, base, jnp.asarray(arrays["tokens"]), arrays["base_logits"]


def random_adapters(cfg: ModelConfig, adapter_cfg: AdapterConfig, seed: int = 0):
    """Fresh adapters with every number drawn; what lies beyond a layer's rank stays zero."""
    rng = np.random.default_rng(seed)
    shape = jax.ShapeDtypeStruct
    layers = {n: shape((cfg.layers, *own[::-1]), jnp.float32) for n, (_, own) in layer_tensors(cfg).items()}
    base = {"layers": layers, "embed": shape((cfg.vocab_size, cfg.width), jnp.float32)}
    fresh = jax.eval_shape(lambda base: init_adapters(jax.random.key(seed), base, adapter_cfg)[1], base)
    drawn = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), fresh)
    if not isinstance(adapter_cfg, LoraConfig):
        return drawn
    return {**drawn, "layers": {name: _cut(lora) for name, lora in drawn["layers"].items()}}


def _cut(lora: Lora) -> Lora:
    ranks = np.array(lora.ranks or [lora.b.shape[1]] * len(lora.b))
    kept = np.arange(lora.b.shape[1])[None] < ranks[:, None]
    zero = jnp.zeros((), lora.a.dtype)
    return lora.replace(a=jnp.where(kept[:, None], lora.a, zero), b=jnp.where(kept[:, :, None], lora.b, zero))


def edit_config(directory: pathlib.Path, **changes) -> None:
    """Changes fields of adapter_config.json."""
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(directory: pathlib.Path, edit) -> None:
    """Lets ``edit`` change the dict of tensors."""
    path = directory / WEIGHTS
    tensors = safetensors.numpy.load_file(path)
    edit(tensors)
    path.write_bytes(safetensors.numpy.save(tensors))


def put(tensors, key, value) -> None:
    """An assignment that a lambda can hold."""
    tensors[key] = value
