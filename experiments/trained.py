"""Base and adapters of a run: made at its beginning, merged for decoding, and written at its end."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from experiments.hosts import first
from experiments.mesh import compiled
from experiments.run import Run
from experiments.settings import Experiment, ModelSettings, mergeable
from lqlm.adapters.configs import AdapterConfig, FullConfig, LoraConfig
from lqlm.adapters.init import init_adapters
from lqlm.adapters.merge import merge
from lqlm.algorithms.step import TrainState
from lqlm.errors import UserError
from lqlm.io.export import save_hf
from lqlm.io.load import LoadedModel, load_model
from lqlm.io.peft import load_peft, save_peft
from lqlm.models.config import ModelConfig
from lqlm.models.decoding import for_decoding
from lqlm.models.products import with_products
from lqlm.models.transformer import bind
from lqlm.quant.qtensor import QuantConfig
from lqlm.sharding import constrained, whole
from lqlm.types import Key, PyTree

Load = Callable[[str, ModelConfig], tuple[PyTree, AdapterConfig]]
Policy = Callable[[PyTree, PyTree], tuple[PyTree, PyTree | None]]


def load(settings: ModelSettings, adapter: AdapterConfig) -> LoadedModel:
    """The model of a run; dense where the initial adapters are to be made from what quantization would lose."""
    return load_model(settings.source, None if _decomposes(adapter) else _quant(settings), settings.dtype)


def begin(key: Key, base: PyTree, settings: Experiment) -> tuple[PyTree, PyTree]:
    """``(base, adapters)`` before the first step; the key is consumed."""
    quant = _quant(settings.model) if _decomposes(settings.adapter) else None
    base, adapters = init_adapters(key, base, settings.adapter, quant)
    return products(base, settings.model), adapters


def started(adapters: PyTree, settings: Experiment, cfg: ModelConfig, load: Load = load_peft) -> PyTree:
    """The adapters that a run begins with: those of ``settings.start``, if it names any, else the ones given.

    Args:
        adapters: new ones.
        settings: of the run.
        cfg: the model's shape.
        load: reads a directory.

    Raises:
        UserError: when the two are not of one kind, rank and targets.
    """
    if not settings.start:
        return adapters
    found, _ = load(settings.start, cfg)
    ours, theirs = ({name: x.shape for name, x in named_leaves(tree)} for tree in (adapters, found))
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"start={settings.start}: {name} is {theirs.get(name, 'absent')} there and {ours.get(name, 'absent')} "
                "by the settings of adapter; give adapter the kind, rank and targets of what training goes on from"
            )
    return jax.tree.map(lambda new, old: new.astype(old.dtype), found, adapters)


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """Every array of a tree with its path."""
    return [(jax.tree_util.keystr(path), x) for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]]


def products(base: PyTree, settings: object) -> PyTree:
    """The base, multiplying in the type that the settings ask for."""
    dtype = settings.products if isinstance(settings, ModelSettings) else ""
    return with_products(base, dtype) if dtype else base


def _quant(settings: object) -> QuantConfig | None:
    return settings.quant if isinstance(settings, ModelSettings) and settings.quantize else None


def _decomposes(adapter: AdapterConfig) -> bool:
    return isinstance(adapter, LoraConfig) and adapter.decomposes


def kept(adapters: PyTree, adapter: AdapterConfig) -> PyTree | None:
    """A copy of the initial adapters, in host memory, where `save` needs them."""
    return jax.device_get(adapters) if _decomposes(adapter) else None


def has_dropout(adapter: AdapterConfig) -> bool:
    """Whether training draws what it leaves out."""
    return getattr(adapter, "dropout", 0.0) > 0.0


def policy(
    adapter: AdapterConfig,
    merged: bool,
    mesh: Mesh | None = None,
    cfg: ModelConfig | None = None,
    *,
    rows: int = 0,
) -> Policy:
    """``(base, adapters) -> (base, adapters or None)`` to decode with; merged, a dense copy of the linear layers.

    Args:
        adapter: what is trained.
        merged: whether to merge what can be merged.
        mesh: of the run; its copy of the weights is split as they are.
        cfg: of the model, where there is a mesh.
        rows: samples that are decoded at once, for which the copy is laid out; 0 where texts are scored.
    """
    if not (merged and mergeable(adapter)):
        return bind
    if mesh is None:
        return functools.partial(_merged, functools.partial(_copy, rows=rows))
    return functools.partial(_merged, compiled(functools.partial(_split_copy, cfg=cfg), mesh))


def _merged(copy: Callable[[PyTree, PyTree], PyTree], base: PyTree, adapters: PyTree) -> tuple[PyTree, None]:
    """A dense copy of the linear layers for one rollout; embedding and norms are the base's own."""
    read = {name: base[name] for name in ("layers", "head") if name in base}
    return {**base, **copy(read, adapters)}, None


def _split_copy(read: PyTree, adapters: PyTree, cfg: ModelConfig | None) -> PyTree:
    assert cfg is not None
    return constrained({"layers": merge(read, adapters)["layers"]}, cfg)


@functools.partial(jax.jit, static_argnames="rows")
def _copy(read: PyTree, adapters: PyTree, rows: int) -> PyTree:
    copied = for_decoding(merge(read, adapters), rows)
    return {name: w for name, w in copied.items() if w is not read[name]}


def save(run: Run, state: TrainState) -> None:
    """The result of a run: a PEFT directory, or a Hugging Face directory where all weights were trained."""
    settings, model, adapters = run.setup.settings, run.setup.model, whole(state.adapters)
    if not first():
        return
    if isinstance(settings.adapter, FullConfig):
        base, _ = bind(model.base, adapters)
        save_hf(run.workdir.model, base, model.config, model.tokenizer, settings.adapter.dtype)
        return
    names = (settings.adapter, model.config, settings.model.source)
    save_peft(run.workdir.adapter, adapters, *names, initial=run.setup.initial)
