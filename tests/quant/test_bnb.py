"""Exchange with bitsandbytes: both types come back byte for byte, and every damage is named."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.quant import CODEBOOKS, QuantConfig, dequantize, from_bnb, quantize, to_bnb
from lqlm.quant.bnb import STATE, is_bnb_key

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
SHAPES = {"rows": (128, 24), "flat": (40, 18), "odd": (33, 7)}
START = {"nf4": "", "fp4": "fp4/"}


def bits(x):
    x = np.ascontiguousarray(x)
    return x.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[x.itemsize])


def equal_bits(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(bits(found[key]), bits(value), err_msg=key)


def weight(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape) * 0.02


def golden_matrix(goldens, codebook, name, layout, kind):
    """The peer's state dict, its weight [out, in] and what it dequantizes to."""
    prefix = f"{START[codebook]}matrix/{name}/{layout}"
    with np.load(goldens / "bnb.npz") as golden:
        keys = [key for key in golden.files if key.startswith(f"{prefix}/{kind}/weight")]
        tensors = {key.rsplit("/", 1)[1]: golden[key] for key in keys}
        return tensors, golden[f"{prefix}/w"].view(DTYPES[name]), golden[f"{prefix}/{kind}/y"]


@pytest.mark.parametrize("layout", ["rows", "flat"])
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("codebook", START)
def test_quantize_equals_the_peer_bit_for_bit(goldens, codebook, name, layout):
    tensors, w, y = golden_matrix(goldens, codebook, name, layout, "single")
    q = quantize(jnp.asarray(w.T), QuantConfig(codebook, double=False))
    assert q.rows == (layout == "rows") and q.shape == w.T.shape
    equal_bits(to_bnb(q), tensors)
    np.testing.assert_array_equal(bits(dequantize(q)), y.T)


@pytest.mark.parametrize("layout", ["rows", "flat"])
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("codebook", START)
def test_double_quantize_agrees_with_the_peer(goldens, codebook, name, layout):
    """Weight bytes are equal; its 8-bit table on the CPU may be one code off, and torch sums the mean in its order."""
    tensors, w, _ = golden_matrix(goldens, codebook, name, layout, "double")
    ours = to_bnb(quantize(jnp.asarray(w.T), QuantConfig(codebook)))
    np.testing.assert_array_equal(ours["weight"], tensors["weight"])
    np.testing.assert_allclose(ours["weight.nested_absmax"], tensors["weight.nested_absmax"], rtol=1e-6)
    apart = np.abs(ours["weight.absmax"].astype(int) - tensors["weight.absmax"].astype(int))
    assert apart.max() <= 1 and apart.mean() < 0.05


@pytest.mark.parametrize("kind", ["single", "double"])
@pytest.mark.parametrize("layout", ["rows", "flat"])
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("codebook", START)
def test_reads_and_writes_the_peers_state_dict(goldens, codebook, name, layout, kind):
    tensors, _, y = golden_matrix(goldens, codebook, name, layout, kind)
    q = from_bnb(tensors)
    assert q.config.codebook == codebook
    np.testing.assert_array_equal(bits(dequantize(q)), y.T)
    equal_bits(to_bnb(q), tensors)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("block", [64, 4096])
@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("codebook", START)
def test_our_own_state_dict_comes_back(codebook, layout, block, double):
    q = quantize(weight(SHAPES[layout]), QuantConfig(codebook, block, double), jnp.bfloat16)
    back = from_bnb(to_bnb(q))
    assert jax.tree.structure(back) == jax.tree.structure(q)  # static fields too
    jax.tree.map(np.testing.assert_array_equal, back, q)


@pytest.mark.parametrize("storage", [np.float32, ml_dtypes.bfloat16, np.int8])
def test_codes_may_be_stored_as_another_dtype(storage):
    q = quantize(weight((128, 24)))
    tensors = to_bnb(q)
    stored = tensors["weight"].reshape(-1).view(storage).reshape(-1, 1)
    jax.tree.map(np.testing.assert_array_equal, from_bnb(tensors | {"weight": stored}), q)


def test_codes_run_along_the_inputs_high_nibble_first():
    w = weight((128, 6))
    q = quantize(w, QuantConfig(double=False))
    halves = jnp.stack([q.codes >> jnp.uint8(4), q.codes & jnp.uint8(15)], axis=1).reshape(128, 6)
    tensors = to_bnb(q)["weight"].reshape(6, 64)
    np.testing.assert_array_equal(tensors >> 4, halves.T[:, ::2])
    np.testing.assert_array_equal(tensors & 15, halves.T[:, 1::2])


def test_to_bnb_refuses_a_stack():
    with pytest.raises(ValueError, match="one matrix"):
        to_bnb(quantize(weight((2, 64, 4))))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (QuantConfig("nf3"), "codebook nf3"),
        (QuantConfig("dynamic8"), "codebook dynamic8"),
        (QuantConfig(block=96), "block 96"),
        (QuantConfig(double_block=128), "double_block 128"),
    ],
)
def test_to_bnb_refuses_what_the_peer_does_not_read(config, said):
    with pytest.raises(UserError, match=f"^layer 3: .*{said}"):
        to_bnb(quantize(weight((192, 4)), config), "layer 3")


def test_to_bnb_refuses_shifts():
    q = quantize(weight((64, 4)), QuantConfig(double=False))
    with pytest.raises(UserError, match="group-wise adapters"):
        to_bnb(q.replace(shift=jnp.zeros((1, 4))))


def damaged(config=None, remove=(), state=None, **changes):
    """A state dict of [128, 24] with some entries other than they should be."""
    tensors = to_bnb(quantize(weight((128, 24)), config or QuantConfig()))
    key = next(key for key in tensors if key.startswith(STATE))
    if state is not None:
        facts = {**json.loads(tensors[key].tobytes()), **state}
        facts = {name: value for name, value in facts.items() if value is not ...}
        tensors[key] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    tensors |= {name.replace("__", "."): change(tensors) for name, change in changes.items()}
    return {name: value for name, value in tensors.items() if name not in remove}


NF4_STATE = STATE + "nf4"
SINGLE = QuantConfig(double=False)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (lambda: damaged(remove=[NF4_STATE]), "has 0 entries"),
        (lambda: damaged() | {STATE + "fp4": np.zeros(3, np.uint8)}, "has 2 entries"),
        (lambda: damaged() | {NF4_STATE: damaged()[NF4_STATE][:-9]}, "truncated or no JSON"),
        (lambda: damaged() | {NF4_STATE: np.frombuffer(b"\xff\x00", np.uint8)}, "truncated or no JSON"),
        (lambda: damaged() | {NF4_STATE: np.frombuffer(b"[1]", np.uint8)}, "no JSON object"),
        (lambda: damaged(state={"quant_type": "nf3"}), "quant_type is 'nf3'"),
        (lambda: damaged(state={"quant_type": "fp4"}), "quant_type is 'fp4'"),
        (lambda: damaged(state={"blocksize": 48}), "blocksize is 48"),
        (lambda: damaged(state={"blocksize": ...}), "blocksize is None"),
        (lambda: damaged(state={"dtype": "int8"}), "dtype is 'int8'"),
        (lambda: damaged(state={"shape": [3072]}), r"shape is \[3072\]"),
        (lambda: damaged(state={"shape": [24, 64, 2]}), "shape is"),
        (lambda: damaged(state={"shape": [24, -128]}), "shape is"),
        (lambda: damaged(state={"shape": [24, 126]}), "weight has 1536 entries.*need 1512"),
        (lambda: damaged(remove=["weight"]), "weight is missing"),
        (lambda: damaged(weight=lambda t: t["weight"][:-1]), "weight has 1535 entries"),
        (lambda: damaged(remove=["weight.absmax"]), "weight.absmax is missing"),
        (lambda: damaged(weight__absmax=lambda t: t["weight.absmax"][1:]), "weight.absmax has 47 entries.*need 48"),
        (lambda: damaged(weight__absmax=lambda t: t["weight.absmax"].astype(np.float32)), "absmax has dtype float32"),
        (lambda: damaged(SINGLE, weight__absmax=lambda t: t["weight.absmax"][1:]), "weight.absmax has 47 entries"),
        (lambda: damaged(SINGLE, weight__absmax=lambda t: t["weight.absmax"] * np.nan), "absmax holds 48 NaN"),
        (lambda: damaged(remove=["weight.nested_absmax"]), "nested_absmax is missing"),
        (lambda: damaged(remove=["weight.nested_quant_map"]), "nested_quant_map is missing"),
        (lambda: damaged(state={"nested_blocksize": ...}), "nested_blocksize is missing"),
        (lambda: damaged(state={"nested_offset": ...}), "nested_offset is missing"),
        (lambda: damaged(state={"nested_offset": float("nan")}), "nested_offset is nan"),
        (lambda: damaged(state={"nested_blocksize": 0}), "nested_blocksize is 0"),
        (lambda: damaged(state={"nested_blocksize": 16}), "weight.nested_absmax has 1 entries.*need 3"),
        (lambda: damaged(weight__nested_absmax=lambda t: t["weight.nested_absmax"] * np.inf), "nested_absmax holds 1"),
        (lambda: damaged(weight__nested_quant_map=lambda t: np.zeros(256, np.float32)), "nested_quant_map is not"),
        (lambda: damaged(weight__quant_map=lambda t: CODEBOOKS["fp4"]), "weight.quant_map is not"),
        (lambda: damaged(remove=["weight.quant_map"]), "weight.quant_map is missing"),
    ],
)
def test_from_bnb_names_what_is_wrong(tensors, said):
    with pytest.raises(UserError, match=f"^m.safetensors: tensor x.weight.*{said}") as raised:
        from_bnb(tensors(), "m.safetensors: tensor x.weight")
    assert "\n" not in str(raised.value)


def test_a_map_of_another_last_bit_is_the_same_map():
    tensors = damaged(weight__nested_quant_map=lambda t: np.nextafter(t["weight.nested_quant_map"], np.float32(9)))
    tensors["weight.nested_quant_map"][127] = 0
    assert from_bnb(tensors).shape == (128, 24)


def test_keys_beside_a_weight_are_told_from_weights():
    beside = {key for key in damaged() if is_bnb_key(f"model.{key}")}
    assert beside == damaged().keys() - {"weight"}
    assert not any(map(is_bnb_key, ["model.norm.weight", "model.layers.0.self_attn.q_proj.bias"]))
