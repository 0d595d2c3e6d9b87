"""The 4-bit matrix: both layouts equal the peer, stacks equal their members, and the bits are counted."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.quant import QuantConfig, bits_per_parameter, check_finite, dequantize, quantize
from lqlm.quant.double import double_quantize

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
CONFIGS = {"single": QuantConfig(double=False), "double": QuantConfig()}
SHAPES = {"rows": (128, 24), "flat": (40, 18)}


def bits(x):
    x = np.asarray(x)
    return x.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[x.itemsize])


def weight(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape) * 0.02


def equal_trees(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("layout", SHAPES)
def test_a_stack_equals_its_members(layout, kind):
    w = weight((3, 2, *SHAPES[layout]))
    q = quantize(w, CONFIGS[kind])
    assert q.lead == (3, 2)
    assert all(leaf.shape[:2] == (3, 2) for leaf in jax.tree.leaves(q))
    whole = dequantize(q)
    for i in range(3):
        for j in range(2):
            one = quantize(w[i, j], CONFIGS[kind])
            equal_trees(jax.tree.map(lambda leaf, at=(i, j): leaf[at], q), one)
            np.testing.assert_array_equal(whole[i, j], dequantize(one))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("layout", SHAPES)
def test_a_scan_slices_a_stack(layout, kind):
    q = quantize(weight((3, *SHAPES[layout])), CONFIGS[kind])

    def body(carry, layer):
        assert layer.shape == SHAPES[layout] and layer.lead == ()
        return carry, dequantize(layer)

    _, scanned = jax.jit(lambda q: jax.lax.scan(body, None, q))(q)
    np.testing.assert_array_equal(scanned, dequantize(q))


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_dequantizes_to_the_asked_dtype_with_one_rounding(dtype):
    q = quantize(weight((64, 8)), dtype=dtype)
    assert dequantize(q).dtype == dtype
    want = np.asarray(dequantize(q, jnp.float32)).astype(dtype)
    np.testing.assert_array_equal(bits(dequantize(q)), bits(want))


@pytest.mark.parametrize(("kind", "expected"), [("double", 4.127), ("single", 4.5)])
def test_bits_per_parameter_of_a_square_matrix(kind, expected):
    w = jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16)
    q = jax.eval_shape(lambda w: quantize(w, CONFIGS[kind]), w)
    assert round(bits_per_parameter(q), 3) == expected


@pytest.mark.parametrize("layout", SHAPES)
def test_bits_are_those_of_the_arrays(layout):
    q = quantize(weight((2, *SHAPES[layout])))
    held = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(q))
    assert bits_per_parameter(q) == 8 * held / (2 * np.prod(SHAPES[layout]))


@pytest.mark.parametrize("layout", SHAPES)
def test_nan_poisons_its_block(layout):
    shape = SHAPES[layout]
    w = np.array(weight(shape))
    w[5, 3] = np.nan
    back = np.asarray(dequantize(quantize(jnp.asarray(w), CONFIGS["single"]))).T.reshape(-1)
    block = (3 * shape[0] + 5) // 64
    np.testing.assert_array_equal(np.isnan(back), np.arange(back.size) // 64 == block)


def test_zero_columns_stay_zero():
    w = weight((128, 8)).at[:, 2].set(0.0)
    np.testing.assert_array_equal(dequantize(quantize(w, CONFIGS["single"]))[:, 2], np.zeros(128))


def test_second_level_blocks_run_along_the_peers_order():
    w = weight((128, 300))
    single, double = (quantize(w, CONFIGS[kind]) for kind in ("single", "double"))
    want = double_quantize(single.maxima.T.reshape(-1))
    assert want.absmax.shape == (3,)
    equal_trees(double.maxima, want)


@pytest.mark.parametrize("wrong", [{"codebook": "fp3"}, {"block": 48}, {"double_block": 0}])
def test_config_rejects_what_it_cannot_do(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        QuantConfig(**wrong)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_check_finite_names_the_tensor(value, dtype):
    good = jnp.ones((3, 4), dtype)
    check_finite("model.q_proj", good)
    with pytest.raises(UserError, match=r"model\.q_proj holds 1 NaN or infinite values, the first at \(1, 2\)"):
        check_finite("model.q_proj", good.at[1, 2].set(value))
