"""Every codebook at every block size: an independent reference in numpy, both layouts, stacks, dtypes, bits, shifts."""

import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.models.convert import from_hf_tensors, layer_tensors
from lqlm.quant import CODEBOOKS, QTensor, QuantConfig, bits_per_parameter, dequantize, quantize
from tests.tiny import tiny_config

CASES = [*(("rows", block) for block in (32, 64, 96, 4096)), ("flat", 64), ("flat", 4096), ("short", 64)]
DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
LAYOUTS = {"rows": lambda block: (2 * block, 3), "flat": lambda block: (block + 5, 3), "short": lambda block: (7, 3)}
EVERY = pytest.mark.parametrize("codebook", CODEBOOKS)


def weight(shape, seed=0):
    w = np.random.default_rng(seed).standard_normal(shape) * 0.02
    return (w * np.exp(np.random.default_rng(seed + 1).standard_normal(shape))).astype(np.float32)


def reference(w, config, dtype=np.float32):
    """Quantize and dequantize [in, out], value by value in float32: blocks run along the flattened [out, in]."""
    flat, values = np.asarray(w).astype(np.float32).T.reshape(-1), config.values
    order = np.argsort(values, kind="stable")
    middle = (values[order[:-1]] + values[order[1:]]) / np.float32(2)
    out = []
    for start in range(0, flat.size, config.block):
        part = flat[start : start + config.block]
        top = np.abs(part).max()
        scaled = part * (np.float32(1) / top) if part.size == config.block else part / top
        if len(values) <= 16:
            codes = order[(scaled[:, None] > middle).sum(1)]
        else:
            codes = np.abs(scaled[:, None].astype(np.float64) - values).argmin(1)
        out.append(values[codes] * top)
    return np.concatenate(out).reshape(np.asarray(w).T.shape).T.astype(dtype)


@pytest.mark.parametrize(("layout", "block"), CASES)
@EVERY
def test_equals_the_reference(codebook, block, layout):
    config, w = QuantConfig(codebook, block, double=False), weight(LAYOUTS[layout](block))
    q = quantize(jnp.asarray(w), config)
    assert q.rows == (layout == "rows") and q.shape == w.shape
    np.testing.assert_array_equal(dequantize(q), reference(w, config))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["rows", "flat"])
@EVERY
def test_arithmetic_is_float32_whatever_the_input(codebook, layout, dtype):
    """Same codes and maxima as of the input upcast first; one rounding on the way back."""
    config, w = QuantConfig(codebook), jnp.asarray(weight(LAYOUTS[layout](64)).astype(DTYPES[dtype]))
    q, upcast = quantize(w, config), quantize(w.astype(jnp.float32), config)
    assert q.dtype == w.dtype
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(q), jax.tree.leaves(upcast))
    want = np.asarray(dequantize(upcast)).astype(DTYPES[dtype])
    np.testing.assert_array_equal(np.asarray(dequantize(q)).view(np.uint8), want.view(np.uint8))


@pytest.mark.parametrize(
    ("codebook", "layout", "double"), [("nf4", "rows", True), ("nf3", "flat", False), ("dynamic8", "rows", False)]
)
def test_a_stack_equals_its_members_and_jit_equals_eager(codebook, layout, double):
    config, w = QuantConfig(codebook, double=double), jnp.asarray(weight((2, *LAYOUTS[layout](64))))
    q = quantize(w, config)
    with jax.disable_jit():
        alone = [quantize(each, config) for each in w]
        back = [dequantize(each) for each in alone]
    for i, each in enumerate(alone):
        jax.tree.map(lambda whole, one, i=i: np.testing.assert_array_equal(whole[i], one), q, each)
        np.testing.assert_array_equal(dequantize(q)[i], back[i])


def test_no_second_compilation():
    w, config = jnp.asarray(weight((64, 3))), QuantConfig("nf3", 32)
    dequantize(quantize(w, config))
    before = quantize._cache_size(), dequantize._cache_size()
    dequantize(quantize(w + jnp.float32(1), QuantConfig("nf3", 32)))
    assert (quantize._cache_size(), dequantize._cache_size()) == before


PER_WEIGHT = {"nf2": 2, "nf3": 3, "nf4": 4, "fp4": 4, "int4": 4, "dynamic8": 8}


@pytest.mark.parametrize("block", [32, 64, 4096])
@pytest.mark.parametrize("double", [False, True])
@EVERY
def test_bits_are_counted_from_the_arrays(codebook, double, block):
    w = jax.ShapeDtypeStruct((2, 4096, 256), jnp.bfloat16)
    q = jax.eval_shape(lambda w: quantize(w, QuantConfig(codebook, block, double)), w)
    maxima = (8 + 32 / 256) / block + 32 / (4096 * 256) if double else 32 / block
    assert bits_per_parameter(q) == PER_WEIGHT[codebook] + maxima


@pytest.mark.parametrize("layout", ["rows", "flat"])
@EVERY
def test_zeros_come_back_as_zeros(codebook, layout):
    w = jnp.zeros(LAYOUTS[layout](64)).at[:, 1].set(0.5)
    back = np.asarray(dequantize(quantize(w, QuantConfig(codebook, double=False))))
    assert not back[:30, 0].any() and not back[-6:, 2].any() and np.isfinite(back).all()
    rest = np.asarray(w) == 0
    np.testing.assert_array_equal(back[rest], 0.0)


@pytest.mark.parametrize("double", [False, True])
@EVERY
def test_a_shift_is_added_to_its_block(codebook, double):
    w = jnp.asarray(weight((128, 5)))
    q = quantize(w, QuantConfig(codebook, 32, double))
    shift = jnp.asarray(weight((4, 5), 7))
    moved = q.replace(shift=shift)
    want = np.asarray(dequantize(q)) + np.repeat(np.asarray(shift), 32, 0)
    # The sum directly follows the product inside one compiled function and may be fused with it.
    np.testing.assert_allclose(dequantize(moved), want, rtol=2e-7, atol=2e-8)
    np.testing.assert_array_equal(dequantize(q.replace(shift=jnp.zeros((4, 5)))), dequantize(q))
    assert dequantize(moved, jnp.bfloat16).dtype == jnp.bfloat16


def test_a_shift_of_a_stack():
    q = quantize(jnp.asarray(weight((3, 64, 5))), QuantConfig(double=False))
    shift = jnp.asarray(weight((3, 1, 5), 7))
    found = dequantize(q.replace(shift=shift))
    np.testing.assert_allclose(found, dequantize(q) + jnp.repeat(shift, 64, 1), rtol=2e-7, atol=2e-8)


def test_no_shift_costs_nothing():
    q = quantize(jnp.asarray(weight((64, 4))), QuantConfig(double=False))
    assert q.shift is None and len(jax.tree.leaves(q)) == 2
    sums = lambda q: re.findall(r"stablehlo\.add .*f32", jax.jit(dequantize).lower(q).as_text())  # noqa: E731
    assert not sums(q) and len(sums(q.replace(shift=jnp.zeros((1, 4))))) == 1


def test_a_shift_without_whole_blocks_is_a_mistake():
    q = quantize(jnp.asarray(weight((40, 4))), QuantConfig(double=False))
    with pytest.raises(ValueError, match="shift needs blocks"):
        dequantize(q.replace(shift=jnp.zeros((1, 4))))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_model_with_a_bad_weight_is_refused_by_name(value):
    cfg, bad = tiny_config(), "model.layers.1.mlp.down_proj.weight"
    shapes = {"model.embed_tokens.weight": (cfg.vocab_size, cfg.width), "model.norm.weight": (cfg.width,)}
    table = {f"model.layers.{i}.{name}": shape for i in (0, 1) for name, shape in layer_tensors(cfg).values()}
    tensors = {name: np.ones(shape, np.float32) for name, shape in (shapes | table).items()}
    tensors[bad][3, 2] = value
    build = lambda quant: from_hf_tensors(tensors.get, tensors, cfg, quant=quant, dtype="float32")  # noqa: E731
    for quant in (None, QuantConfig("fp4")):
        with pytest.raises(UserError, match=rf"{bad} holds 1 NaN or infinite values, the first at \(3, 2\)"):
            build(quant)
    tensors[bad][3, 2] = 1
    assert isinstance(build(QuantConfig("fp4"))["layers"]["down_proj"], QTensor)
