"""The work: measure, choose, quantize, write, and compare."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments.quantize.report import Report, Row
from experiments.quantize.settings import QuantizeExperiment
from experiments.quantize.texts import calibration_windows, evaluation_windows
from lqlm.adapters.configs import linears_of
from lqlm.adapters.taps import Tap
from lqlm.errors import UserError
from lqlm.io.export import save_hf
from lqlm.io.load import LoadedModel, load_model
from lqlm.io.quantized import METHOD, save_quantized
from lqlm.io.safetensors import read_json
from lqlm.models.formats import Assignment, Table, apply_formats, moments, tabulate, uniform
from lqlm.models.perplexity import make_perplexity
from lqlm.quant.budget import format_bytes, label
from lqlm.quant.mixed import MixedStack, dense, layers_of
from lqlm.quant.qtensor import QTensor
from lqlm.trees import tree_bytes
from lqlm.types import Array, PyTree

GIB = 2**30


def dequantize(settings: QuantizeExperiment) -> str:
    """Write the source as a dense Hugging Face directory; returns a line that says so."""
    model = load_model(settings.source, None, settings.dtype)
    save_hf(settings.dequantize, model.base, model.config, model.tokenizer, settings.dtype)
    return f"{settings.source} is dense in {settings.dequantize}, {settings.dtype}"


def quantize(settings: QuantizeExperiment) -> Report:
    """Quantize the source and write ``model/`` of the workdir; what can be wrong is found before the long part."""
    target = pathlib.Path(settings.workdir) / "model"
    _check_target(target)
    model = load_model(settings.source, None, settings.dtype)
    text = evaluation_windows(settings.text, model.tokenizer)
    perplexity = make_perplexity(model.config)
    assignment = _by_budget(settings, model) if settings.budget.given else uniform(model.config, settings.quant)
    base = apply_formats(model.base, assignment)
    save_quantized(target, base, model.config, model.tokenizer, settings.dtype)
    found = {}
    if text is not None:
        found["before"] = perplexity(model.base, None, text)
        if settings.budget.given:
            other = apply_formats(model.base, uniform(model.config, settings.quant))
            found[f"all {label(settings.quant)}"] = perplexity(other, None, text)
        found["after"] = perplexity(base, None, text)
    return Report(
        source=settings.source,
        checksum=model.checksum,
        rows=_rows(model.base, base, assignment),
        model_bytes=tree_bytes(base),
        perplexity=found,
    )


def _check_target(path: pathlib.Path) -> None:
    """Refuse now what ``save_quantized`` would refuse at the end, and anything that is no quantized model."""
    entries = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    config = read_json(path / "config.json") if "config.json" in entries else {}
    ours = (config.get("quantization_config") or {}).get("quant_method") == METHOD
    if path.is_file() or (entries and not ours):
        raise UserError(
            f"{path} holds other files ({entries[0] if entries else 'it is a file'}); set --config.workdir to a new "
            "folder, or remove them"
        )


def _by_budget(settings: QuantizeExperiment, model: LoadedModel) -> Assignment:
    budget = settings.budget
    linear = tree_bytes([w for name, w in model.base["layers"].items() if name in linears_of(model.base["layers"])])
    others = tree_bytes(model.base) - linear
    sizes = [
        (layers, shape, min(format_bytes(shape, f) for f in budget.formats())) for layers, shape in _shapes(model.base)
    ]
    parameters = sum(layers * shape[0] * shape[1] for layers, shape, _ in sizes)
    least = sum(layers * smallest for layers, _, smallest in sizes)
    if budget.bits is not None:
        room, wanted, needed = int(budget.bits * parameters / 8), f"bits {budget.bits}", f"{least * 8 / parameters:.3f}"
    else:
        assert budget.gib is not None
        room, wanted, needed = int(budget.gib * GIB) - others, f"gib {budget.gib}", f"{(least + others) / GIB:.4f}"
    if room < least:
        raise UserError(
            f"budget.{wanted} cannot be met: the smallest of the allowed formats take {needed}; raise it, or allow "
            "smaller codebooks or larger blocks"
        )
    return _table(settings, model).choose(room)


def _table(settings: QuantizeExperiment, model: LoadedModel) -> Table:
    weighting = settings.budget.weighting
    found = None if weighting == "none" else gather(model, calibration_windows(settings.text, model.tokenizer))
    return tabulate(model.base, settings.budget.formats(), found, outputs=weighting == "fisher")


def gather(model: LoadedModel, windows: np.ndarray) -> dict[str, Tap]:
    """Mean of :func:`lqlm.models.formats.moments` over calibration windows, one at a time."""
    one = jax.jit(functools.partial(moments, cfg=model.config))
    total = one(model.base, windows[:1])
    for i in range(1, len(windows)):
        total = jax.tree.map(jnp.add, total, one(model.base, windows[i : i + 1]))
    return jax.tree.map(lambda x: x / len(windows), total)


def _shapes(base: PyTree) -> list[tuple[int, tuple[int, int]]]:
    """``(L, (in, out))`` of every linear map."""
    found = [layers_of(base["layers"][name]) for name in linears_of(base["layers"])]
    return [(layers, (fan_in, fan_out)) for layers, fan_in, fan_out in found]


def _rows(old: PyTree, new: PyTree, assignment: Assignment) -> tuple[Row, ...]:
    """What became of each matrix, layer by layer."""
    linears = linears_of(old["layers"])
    errors = {name: relative_errors(old["layers"][name], new["layers"][name]) for name in linears}
    shapes = dict(zip(linears, _shapes(old)))
    return tuple(
        Row(layer, name, label(fmt), shapes[name][1], format_bytes(shapes[name][1], fmt), float(errors[name][layer]))
        for layer in range(shapes[linears[0]][0])
        for name, fmt in ((name, assignment[name][layer]) for name in linears)
    )


@jax.jit
def relative_errors(old: Array, new: MixedStack | QTensor | Array) -> Array:
    """``|w' - w| / |w|`` of each layer (Frobenius norms), float32 [L]."""
    old = old.astype(jnp.float32)
    off = jnp.sum(jnp.square(dense(new, jnp.float32) - old), axis=(1, 2))
    return jnp.sqrt(off / jnp.maximum(jnp.sum(jnp.square(old), axis=(1, 2)), 1e-30))
