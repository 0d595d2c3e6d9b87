"""The adapters of linear layers against direct formulas, alone and inside the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.adapters.configs import LoraConfig
from lqlm.adapters.init import init_adapters
from lqlm.adapters.lora import Ia3, Lora, apply_dora, apply_ia3, apply_lora, pooled
from lqlm.models.transformer import forward
from lqlm.quant.mixed import mixed_stack
from lqlm.quant.qtensor import QuantConfig, dequantize, quantize
from tests.adapters.cases import CFG, KINDS, MASK, TOKENS, TRACED, dense_base, gradient, random_adapters, run, tuned

OF_EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def base():
    return dense_base()


@OF_EVERY_KIND
def test_it_changes_the_model_and_every_number_of_it_is_trained(base, kind):
    assert np.abs(run(base, tuned(kind)) - run(base, None)).max() > 0.1
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(base, tuned(kind))):
        # What is added to all keys of a query cancels in the softmax.
        constant = ("k_proj" in str(path) and ".bias" in str(path)) or "k_bias" in str(path)
        assert np.abs(leaf).max() > (0 if constant else 1e-4), path


def test_beyond_a_layers_rank_gradients_are_exactly_zero(base):
    for name, grad in gradient(base, tuned("patterns"))["layers"].items():
        assert tuned("patterns")["layers"][name].ranks == (2, 4)
        assert not grad.a[0, :, 2:].any() and not grad.b[0, 2:].any()
        assert (np.abs(grad.a[1]).max(0) > 0).all() and (np.abs(grad.b[1]).max(1) > 0).all()


def test_layers_of_a_larger_rank_do_not_disturb_the_others(base):
    """As if each layer had an adapter of its own rank and scaling, folded into ``b``."""
    layers = tuned("patterns")["layers"]
    plain = {}
    for name, lora in layers.items():
        b = np.array(lora.b) * np.broadcast_to(lora.scalings, 2)[:, None, None]
        plain[name] = Lora(lora.a, jnp.asarray(b), 1.0)
    np.testing.assert_allclose(run(base, {"layers": plain}), run(base, tuned("patterns")), rtol=1e-4, atol=1e-5)
    assert layers["q_proj"].scaling == (3 / 2, 3 / 4) and layers["k_proj"].scaling == (32 / 2, 32 / 4)


def test_rslora_scales_by_the_root_of_the_rank():
    assert (
        LoraConfig(rank=16, alpha=32.0, rslora=True).scaling == 8.0 and LoraConfig(rank=16, alpha=32.0).scaling == 2.0
    )
    cfg = LoraConfig(rank=4, alpha=6.0, rslora=True, rank_pattern=(("layers.1.*", 9),))
    shapes = {"layers": {"q_proj": jax.ShapeDtypeStruct((2, 16, 16), jnp.float32)}}
    lora = init_adapters(jax.random.key(0), shapes, LoraConfig(**{**vars(cfg), "targets": ("q_proj",)}))[1]["layers"]
    assert lora["q_proj"].scaling == (3.0, 2.0)


@OF_EVERY_KIND
def test_dropout_only_in_training_and_keyed(base, kind):
    adapters = tuned(kind)
    off, one, again, other = (run(base, adapters, k) for k in (None, *(jax.random.key(i) for i in (0, 0, 1))))
    np.testing.assert_array_equal(one, again)
    if kind == "ia3":
        np.testing.assert_allclose(one, off, atol=1e-6)
    else:
        assert np.abs(one - off).max() > 1e-2 and np.abs(one - other).max() > 1e-2


@pytest.mark.parametrize("kind", ["dora", "ia3"])
def test_jit_equals_eager(base, kind):
    eager = forward(base, tuned(kind), TOKENS, MASK, CFG)[MASK]
    np.testing.assert_allclose(run(base, tuned(kind)), eager, rtol=1e-4, atol=1e-5)


@OF_EVERY_KIND
def test_an_updated_adapter_compiles_nothing(base, kind):
    stepped = jax.tree.map(lambda x, g: x - 0.01 * g, tuned(kind), gradient(base, tuned(kind)))
    count = len(TRACED)
    again = gradient(base, stepped)
    assert len(TRACED) == count
    assert jax.tree.structure(again) == jax.tree.structure(stepped) == jax.tree.structure(tuned(kind))


@pytest.mark.parametrize("kind", ["dora", "group", "ia3"])
def test_bfloat16_adapters_over_a_float32_base(base, kind):
    cfg = type(KINDS[kind])(**{**vars(KINDS[kind]), "dtype": "bfloat16"})
    adapters = random_adapters(base, cfg)
    assert {x.dtype for x in jax.tree.leaves(adapters)} == {jnp.dtype("bfloat16")}
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), adapters)
    np.testing.assert_allclose(run(base, adapters), run(base, wide), rtol=1e-5, atol=1e-5)
    found = jax.eval_shape(gradient, base, adapters)
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("bfloat16")}


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def test_group_averages_neighbours_and_scales():
    (x,) = arrays((2, 3, 12))
    want = 3 * np.stack([x[..., 4 * g : 4 * g + 4].mean(-1) for g in range(3)], -1)
    np.testing.assert_allclose(pooled(jnp.asarray(x), 4), want, rtol=1e-5, atol=1e-6)
    a, b = arrays((3, 2), (2, 5))
    lora = Lora(jnp.asarray(a), jnp.asarray(b), 1.5, group=4)
    np.testing.assert_allclose(apply_lora(jnp.asarray(x), lora), 1.5 * want @ a @ b, rtol=1e-4, atol=1e-5)


def test_a_bias_is_scaled_with_the_rest():
    x, a, b, bias = arrays((4, 6), (6, 2), (2, 5), (5,))
    lora = Lora(*map(jnp.asarray, (a, b)), 1.5, bias=jnp.asarray(bias))
    np.testing.assert_allclose(apply_lora(jnp.asarray(x), lora), 1.5 * (x @ a @ b + bias), rtol=1e-4, atol=1e-5)


def test_several_scalings_need_the_layers_number():
    lora = Lora(jnp.ones((2, 1)), jnp.ones((1, 2)), (1.0, 2.0))
    with pytest.raises(ValueError, match="say which layer"):
        apply_lora(jnp.ones((1, 2)), lora)
    np.testing.assert_array_equal(apply_lora(jnp.ones((1, 2)), lora, layer=jnp.int32(1)), [[4.0, 4.0]])


DORA_SHAPES = ((3, 4, 8), (8, 6), (8, 2), (2, 6), (6,))


def dora(x, w, a, b, m, scale):
    whole = w + scale * a @ b
    return m / np.linalg.norm(whole, axis=0) * (x @ whole)


def test_dora_is_the_formula():
    x, w, a, b, m = arrays(*DORA_SHAPES)
    lora = Lora(jnp.asarray(a), jnp.asarray(b), 0.7, magnitude=jnp.asarray(m))
    found = x @ w + apply_dora(jnp.asarray(x), jnp.asarray(x @ w), jnp.asarray(w), lora)
    np.testing.assert_allclose(found, dora(x, w, a, b, m, 0.7), rtol=1e-4, atol=1e-4)


def test_no_gradient_flows_through_doras_norm():
    """Finite differences of the formula with the norm frozen, in float64."""
    x, w, a, b, m = (array.astype(np.float64) for array in arrays(*DORA_SHAPES))
    norm = np.linalg.norm(w + 0.7 * a @ b, axis=0)

    def frozen(a, b, m):
        return np.sum(np.sin(m / norm * (x @ (w + 0.7 * a @ b))))

    def loss(a, b, m, x, w):
        lora = Lora(a, b, 0.7, magnitude=m)
        return jnp.sum(jnp.sin(x @ w + apply_dora(x, x @ w, w, lora)))

    single = [jnp.asarray(array, jnp.float32) for array in (a, b, m, x, w)]
    found = jax.grad(loss, argnums=(0, 1, 2))(*single)
    for which, array in enumerate((a, b, m)):
        want = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [part.copy() for part in (a, b, m)]
                moved[which][place] += step
                ends.append(frozen(*moved))
            want[place] = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(found[which], want, rtol=2e-3, atol=2e-3)


def test_dora_in_bfloat16_does_not_lose_small_differences():
    """A magnitude near the norm changes the output by less than bfloat16 tells from 1; it is not rounded away."""
    (w,) = arrays((64, 32))
    norms = np.linalg.norm(w, axis=0)
    lora = Lora(jnp.zeros((64, 1)), jnp.zeros((1, 32)), 1.0, magnitude=jnp.asarray(1.001 * norms))
    x = jnp.ones((1, 64), jnp.bfloat16)
    found = apply_dora(x, jnp.ones((1, 32), jnp.bfloat16), jnp.asarray(w), lora)
    np.testing.assert_allclose(found.astype(jnp.float32), 0.001, rtol=0.02)


@pytest.mark.parametrize("how", ["nf4", "mixed"])
def test_dora_over_quantized_weights(how):
    x, w, a, b, m = arrays((3, 64), (64, 6), (64, 2), (2, 6), (6,))
    q = quantize(jnp.asarray(w), QuantConfig())
    held = q if how == "nf4" else mixed_stack([jnp.asarray(w), q]).at(jnp.int32(1))
    lora = Lora(jnp.asarray(a), jnp.asarray(b), 0.7, magnitude=jnp.asarray(m))
    y = jnp.asarray(x) @ dequantize(q)
    found = jax.jit(apply_dora)(jnp.asarray(x), y, held, lora)
    np.testing.assert_allclose(y + found, dora(x, np.asarray(dequantize(q)), a, b, m, 0.7), rtol=1e-3, atol=1e-3)


def test_doras_dropout_drops_the_bases_share_too():
    """With everything that matters dropped, what is left of the update takes ``x @ w`` away by the ratio's rule."""
    w, a, b, m = arrays(*DORA_SHAPES[1:])
    lora = Lora(jnp.asarray(a), jnp.asarray(b), 0.7, dropout=0.5, magnitude=jnp.asarray(m))
    x, key = jnp.ones((200, 8)), jax.random.key(0)
    kept = np.asarray(apply_lora(x, Lora(jnp.eye(8), jnp.eye(8), 1.0, 0.5), key))  # the dropped input itself
    ratio = m / np.linalg.norm(w + 0.7 * a @ b, axis=0)
    want = (ratio - 1) * (kept @ w) + ratio * 0.7 * (kept @ a @ b)
    np.testing.assert_allclose(apply_dora(x, x @ jnp.asarray(w), jnp.asarray(w), lora, key), want, rtol=1e-3, atol=1e-3)


def test_ia3_scales():
    x, scale = arrays((2, 3, 4), (4,))
    np.testing.assert_allclose(apply_ia3(jnp.asarray(x), Ia3(jnp.asarray(scale))), x * scale, rtol=1e-6)


def test_ia3_scales_outputs_with_their_bias_and_inputs_of_the_rest(base):
    """The same model with the factors in its weights."""
    rng = np.random.default_rng(0)
    out, inp = (jnp.asarray(1 + 0.5 * rng.normal(size=(2, n)), jnp.float32) for n in (12, 24))
    layers = {"k_proj": Ia3(out), "down_proj": Ia3(inp, True)}
    own = dict(base["layers"])
    own["k_proj"], own["k_bias"] = own["k_proj"] * out[:, None], own["k_bias"] * out
    own["down_proj"] = own["down_proj"] * inp[:, :, None]
    found = run(base, {"layers": layers})
    np.testing.assert_allclose(found, run({**base, "layers": own}, None), rtol=1e-4, atol=1e-5)
    assert np.abs(found - run(base, None)).max() > 0.1
