"""How adapters begin: no-ops, the decompositions that change the base, and what PEFT makes of the same matrix."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.adapters.configs import LINEARS, FullConfig, Ia3Config, LoraConfig, PrefixConfig, PromptConfig
from lqlm.adapters.decompose import loftq, olora, pissa
from lqlm.adapters.init import init_adapters
from lqlm.adapters.lora import product
from lqlm.errors import UserError
from lqlm.models.transformer import forward
from lqlm.quant.codebooks import CODEBOOKS
from lqlm.quant.qtensor import QTensor, QuantConfig, dequantize, quantize
from tests.tiny import pad, ragged, tiny_base, tiny_config

CFG = tiny_config(width=64, ffn=64, head_dim=16)
QUANT = QuantConfig()
TOKENS, MASK = pad(ragged(0, (2, 5), CFG.vocab_size), 5, "left")
make = jax.jit(init_adapters, static_argnames=("cfg", "quant"))
hidden = jax.jit(lambda base, adapters: forward(base, adapters, TOKENS, MASK, CFG)[MASK])


@pytest.fixture(scope="module")
def base():
    return tiny_base(jax.random.key(0), CFG)


def total(base, adapters, name):
    """What base and adapter are together, float64 [L, in, out]."""
    w, lora = base["layers"][name], adapters["layers"][name]
    dense = dequantize(w, jnp.float32) if isinstance(w, QTensor) else w
    scalings = np.broadcast_to(lora.scalings, len(lora.a)).astype(np.float64)
    return np.asarray(dense, np.float64) + scalings[:, None, None] * np.asarray(product(lora), np.float64)


NO_OPS = {
    "kaiming": LoraConfig(rank=2, dropout=0.3),
    "gaussian": LoraConfig(rank=2, init="gaussian"),
    "rslora": LoraConfig(rank=2, rslora=True),
    "dora": LoraConfig(rank=2, dora=True),
    "patterns": LoraConfig(rank=2, rank_pattern=(("q_proj", 4), ("layers.1.*", 1)), alpha_pattern=(("k_proj", 3.0),)),
    "lora_bias": LoraConfig(rank=2, lora_bias=True),
    "group": LoraConfig(rank=1, group=16),
    "ia3": Ia3Config(),
    "ia3 of all": Ia3Config(targets=("all-linear",), feedforward=("o_proj", "down_proj")),
}


@pytest.mark.parametrize(
    ("kind", "quant"), [*((kind, None) for kind in NO_OPS), ("kaiming", QUANT), ("dora", QUANT), ("ia3", QUANT)]
)
def test_a_fresh_adapter_changes_nothing(base, kind, quant):
    adapter_cfg = NO_OPS[kind]
    own, adapters = make(jax.random.key(1), base, adapter_cfg, quant)
    assert isinstance(own["layers"]["up_proj"], QTensor) == (quant is not None)
    np.testing.assert_allclose(hidden(own, adapters), hidden(own, None), rtol=1e-5, atol=2e-6)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(adapters))


def shapes_of(base, adapter_cfg):
    return jax.eval_shape(lambda base: init_adapters(jax.random.key(0), base, adapter_cfg)[1], base)


def test_shapes(base):
    cfg = LoraConfig(rank=3, rank_pattern=(("layers.1.mlp.*", 5),), targets=("q_proj", "up_proj"), lora_bias=True)
    layers = shapes_of(base, cfg)["layers"]
    chex.assert_shape(
        [layers["q_proj"].a, layers["q_proj"].b, layers["q_proj"].bias], [(2, 64, 3), (2, 3, 64), (2, 64)]
    )
    chex.assert_shape([layers["up_proj"].a, layers["up_proj"].b], [(2, 64, 5), (2, 5, 64)])
    assert layers["q_proj"].ranks is None and layers["up_proj"].ranks == (3, 5)
    assert layers["up_proj"].scaling == (32 / 3, 32 / 5) and layers["q_proj"].scaling == 32 / 3
    grouped = shapes_of(base, LoraConfig(rank=2, group=16, dtype="bfloat16"))["layers"]
    chex.assert_shape([grouped["k_proj"].a, grouped["k_proj"].b], [(2, 4, 2), (2, 2, 32)])
    assert grouped["k_proj"].a.dtype == jnp.bfloat16
    ia3 = shapes_of(base, Ia3Config(dtype="bfloat16"))["layers"]
    chex.assert_shape([ia3["k_proj"].scale, ia3["down_proj"].scale], [(2, 32), (2, 64)])
    assert ia3["k_proj"].scale.dtype == jnp.bfloat16 and ia3["down_proj"].on_input


def test_virtual_tokens_begin_as_words_or_as_noise(base):
    prompt = init_adapters(jax.random.key(0), base, PromptConfig(tokens=3))[1]["prompt"]
    assert all((np.asarray(row) == np.asarray(base["embed"])).all(1).any() for row in prompt)
    drawn = init_adapters(jax.random.key(0), base, PromptConfig(tokens=50, init="random", std=0.5))[1]["prompt"]
    assert drawn.shape == (50, 64) and abs(np.std(drawn) - 0.5) < 0.05
    prefix = init_adapters(jax.random.key(0), base, PrefixConfig(tokens=30))[1]["prefix"]
    chex.assert_shape([prefix["k"], prefix["v"]], (2, 30, 32))
    assert abs(np.std(prefix["k"]) - 0.02) < 0.003 and not (prefix["k"] == prefix["v"]).any()


def test_trained_biases_are_copies():
    """The update step donates the adapters; the base must outlive it."""
    base = {"layers": {"q_proj": jnp.ones((2, 16, 16)), "q_bias": jnp.ones((2, 16)), "k_bias": jnp.ones((2, 8))}}
    for bias, names in (("lora_only", {"q_bias"}), ("all", {"q_bias", "k_bias"})):
        cfg = LoraConfig(rank=2, targets=("q_proj",), bias=bias)
        found = init_adapters(jax.random.key(0), base, cfg)[1]["biases"]
        assert set(found) == names
        for name, x in found.items():
            np.testing.assert_array_equal(x, base["layers"][name])
            assert x.unsafe_buffer_pointer() != base["layers"][name].unsafe_buffer_pointer()


def test_gaussian_has_the_standard_deviation_of_each_rank():
    shapes = {"layers": {"q_proj": jax.ShapeDtypeStruct((2, 3000, 64), jnp.float32)}}
    cfg = LoraConfig(rank=4, init="gaussian", targets=("q_proj",), rank_pattern=(("layers.1.*", 8),))
    lora = init_adapters(jax.random.key(0), shapes, cfg)[1]["layers"]["q_proj"]
    np.testing.assert_allclose([np.std(lora.a[0, :, :4]), np.std(lora.a[1])], [1 / 4, 1 / 8], rtol=0.03)
    assert not lora.a[0, :, 4:].any() and not lora.b.any()


def test_full_training_moves_a_dense_base(base):
    rest, adapters = make(jax.random.key(0), base, FullConfig(dtype="bfloat16"))
    assert rest == {} and {x.dtype for x in jax.tree.leaves(adapters)} == {jnp.dtype("bfloat16")}
    with pytest.raises(UserError, match=r"full training needs a dense base, but .* is quantized"):
        make(jax.random.key(0), tiny_base(jax.random.key(0), CFG, QUANT), FullConfig())


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_factors_equal_those_of_peft(goldens, init):
    """Up to the sign of each component, which two linear algebra libraries choose differently."""
    arrays = np.load(goldens / "peft" / "inits.npz")
    w, scale = jnp.asarray(arrays["weight"]).T, 2.0
    a, b = pissa(w, 3, scale) if init == "pissa" else olora(w, 3)
    their_a, their_b = arrays[f"{init}.A"].T, arrays[f"{init}.B"].T
    signs = np.sign(np.sum(np.asarray(a) * their_a, axis=0))
    np.testing.assert_allclose(a * signs[None], their_a, atol=2e-5)
    np.testing.assert_allclose(b * signs[:, None], their_b, atol=2e-5)
    np.testing.assert_allclose(w - scale * a @ b, arrays[f"{init}.rest"].T, atol=2e-5)


SETTINGS = {
    "plain": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "ranks": {"rank_pattern": (("layers.1.*", 5),), "alpha_pattern": (("layers.1.*", 3.0),)},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_rest_and_adapter_are_the_weight(base, init, settings):
    cfg = LoraConfig(rank=3, alpha=7.0, init=init, targets=("q_proj", "down_proj"), **settings)
    rest, adapters = make(jax.random.key(0), base, cfg)
    assert rest["layers"].keys() == base["layers"].keys()
    for name in ("q_proj", "down_proj"):
        np.testing.assert_allclose(total(rest, adapters, name), base["layers"][name], atol=1e-5)
        assert np.abs(rest["layers"][name] - base["layers"][name]).max() > 0.05
    np.testing.assert_array_equal(rest["layers"]["k_proj"], base["layers"]["k_proj"])
    np.testing.assert_allclose(hidden(rest, adapters), hidden(base, None), rtol=1e-3, atol=1e-4)


def test_pissa_takes_what_matters_most(base):
    cfg = LoraConfig(rank=3, alpha=7.0, init="pissa", targets=("q_proj",))
    rest, _ = make(jax.random.key(0), base, cfg)
    before, after = (np.linalg.svd(np.asarray(tree["layers"]["q_proj"]), compute_uv=False) for tree in (base, rest))
    np.testing.assert_allclose(after[:, :-3], before[:, 3:], atol=1e-4)


def test_the_rest_is_what_the_stored_factors_leave(base):
    """With bfloat16 adapters the rounding of the factors goes into the rest too."""
    cfg = LoraConfig(rank=3, alpha=7.0, init="pissa", targets=("q_proj",), dtype="bfloat16")
    rest, adapters = make(jax.random.key(0), base, cfg)
    assert adapters["layers"]["q_proj"].a.dtype == jnp.bfloat16
    np.testing.assert_allclose(total(rest, adapters, "q_proj"), base["layers"]["q_proj"], atol=1e-5)


def test_a_quantized_rest_loses_less_than_a_quantized_weight(base):
    """QPiSSA: the rest has no large singular values."""
    cfg = LoraConfig(rank=16, alpha=16.0, init="pissa", targets=("q_proj",))
    rest, adapters = make(jax.random.key(0), base, cfg, QUANT)
    plain, _ = make(jax.random.key(0), base, LoraConfig(), QUANT)
    w = np.asarray(base["layers"]["q_proj"])
    lost = np.linalg.norm(total(rest, adapters, "q_proj") - w)
    assert lost < 0.9 * np.linalg.norm(dequantize(plain["layers"]["q_proj"]) - w)


def numpy_loftq(w, rank, iterations, block=64):
    """Algorithm 1 of arXiv:2310.08659, with blocks along the inputs; only the codebook is the library's."""
    code, left = np.sort(CODEBOOKS["nf4"].astype(np.float64)), w
    for _ in range(iterations):
        blocks = left.T.reshape(-1, block)
        top = np.abs(blocks).max(1, keepdims=True)
        nearest = np.abs(blocks[:, :, None] / top[:, :, None] - code).argmin(-1)
        q = (code[nearest] * top).reshape(w.T.shape).T
        u, s, vt = np.linalg.svd(w - q, full_matrices=False)
        ab = u[:, :rank] * s[:rank] @ vt[:rank]
        left = w - ab
    return q, ab


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_loftq_is_the_algorithm_of_the_paper(iterations):
    w = np.random.default_rng(0).normal(size=(128, 48))
    q, a, b = loftq(jnp.asarray(w, jnp.float32), 8, 2.0, QuantConfig(double=False), iterations)
    want_q, want_ab = numpy_loftq(w, 8, iterations)
    # A value on the edge between two codes may fall either way; none does here.
    np.testing.assert_allclose(dequantize(q), want_q, atol=1e-4)
    np.testing.assert_allclose(2.0 * a @ b, want_ab, atol=1e-4)


@pytest.mark.parametrize("quant", [QUANT, QuantConfig("nf2", double=False)], ids=str)
def test_loftq_loses_less_with_every_iteration(quant):
    w = jnp.asarray(np.random.default_rng(1).normal(size=(128, 96)), jnp.float32)
    run = jax.jit(loftq, static_argnums=(1, 3, 4))

    def lost(iterations):
        q, a, b = run(w, 16, 0.5, quant, iterations)
        return np.linalg.norm(w - dequantize(q) - 0.5 * np.asarray(a) @ np.asarray(b))

    # Of 2 bits it is not so from the fifth on: the algorithm promises no descent.
    errors = [np.linalg.norm(w - dequantize(quantize(w, quant))), *map(lost, (1, 2, 3))]
    assert errors == sorted(errors, reverse=True) and errors[1] < 0.95 * errors[0], errors


def test_loftq_of_a_base(base):
    """The base is quantized throughout; adapted layers lose less than without adapters, layers of any rank."""
    cfg = LoraConfig(rank=4, alpha=8.0, init="loftq", loftq_iterations=2, targets=("q_proj",))
    cfg = LoraConfig(**{**vars(cfg), "rank_pattern": (("layers.1.*", 12),)})
    own, adapters = make(jax.random.key(0), base, cfg, QUANT)
    plain, _ = make(jax.random.key(0), base, LoraConfig(), QUANT)
    assert all(isinstance(own["layers"][name], QTensor) for name in LINEARS)
    w = np.asarray(base["layers"]["q_proj"])
    lost = np.linalg.norm(total(own, adapters, "q_proj") - w, axis=(1, 2))
    before = np.linalg.norm(dequantize(plain["layers"]["q_proj"]) - w, axis=(1, 2))
    assert (lost < before).all() and lost[1] < lost[0]
    alone = loftq(jnp.asarray(w[0]), 4, 2.0, QUANT, 2)[0]  # the smaller rank sees nothing of the larger one
    np.testing.assert_array_equal(own["layers"]["q_proj"].codes[0], alone.codes)


def test_dora_begins_with_the_norms_of_the_base_as_it_is_held(base):
    for init in ("kaiming", "loftq"):
        cfg = LoraConfig(rank=3, alpha=6.0, dora=True, init=init, targets=("q_proj",))
        own, adapters = make(jax.random.key(0), base, cfg, QUANT)
        norms = np.linalg.norm(total(own, adapters, "q_proj"), axis=1)
        np.testing.assert_allclose(adapters["layers"]["q_proj"].magnitude, norms, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "quant", "words"),
    [
        ({"init": "loftq"}, None, "'loftq' makes up for quantization; give a quantization"),
        ({"group": 5}, None, "lora.group 5 does not divide the 64 inputs"),
        ({"group": 16, "rank": 5}, None, "rank 5 does not fit q_proj, 64 x 64; choose 1 to 4"),
        ({"rank_pattern": (("layers.1.*", 99),)}, None, "rank 99 does not fit q_proj"),
        ({"rank": 65, "init": "pissa"}, None, "rank 65 does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(base, settings, quant, words):
    with pytest.raises(UserError, match=words):
        make(jax.random.key(0), base, LoraConfig(**settings), quant)


@pytest.mark.parametrize("init", ["pissa", "olora", "loftq"])
def test_decompositions_need_a_dense_base(init):
    base = tiny_base(jax.random.key(0), CFG, QUANT)
    with pytest.raises(UserError, match="decomposes weights, but q_proj is quantized; give the dense base"):
        make(jax.random.key(0), base, LoraConfig(rank=2, init=init), QUANT)


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 0.0},
        {"alpha": float("nan")},
        {"group": -2},
        {"group": 2, "dora": True},
        {"group": 2, "init": "pissa"},
        {"lora_bias": True, "dora": True},
        {"loftq_iterations": 0},
        {"rank_pattern": (("(", 2),)},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(UserError, match=r"alpha|group|lora_bias|loftq_iterations|regular expression"):
        LoraConfig(**settings)
