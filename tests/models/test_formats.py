"""Formats of a model: moments against autodiff by hand, and a mixture that computes as its dequantized weights do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.adapters.configs import LINEARS
from lqlm.errors import UserError
from lqlm.models.block import linear
from lqlm.models.formats import apply_formats, formats_of, linear_bytes, moments, output_power, tabulate, uniform
from lqlm.models.perplexity import window_nll
from lqlm.models.transformer import forward
from lqlm.quant.mixed import MixedStack, dense
from lqlm.quant.qtensor import QuantConfig
from tests.tiny import tiny_base, tiny_config

CFG = tiny_config("qwen2", width=32, ffn=64, head_dim=8)
FORMATS = (QuantConfig("nf2", 32), QuantConfig("nf4", 32), QuantConfig("dynamic8", 32, double=False), None)
ROWS = np.random.default_rng(0).integers(0, CFG.vocab_size, (2, 7)).astype(np.int32)


@pytest.fixture(scope="module")
def base():
    return tiny_base(jax.random.key(0), CFG)


@pytest.fixture(scope="module")
def found(base):
    return jax.jit(lambda base, rows: moments(base, rows, CFG))(base, ROWS)


def test_moments_of_inputs_are_mean_squares(base, found, monkeypatch):
    """Against what ``linear`` is really given, layer by layer."""
    seen = {name: [] for name in LINEARS}

    def watched(x, layer, tuned, name, key=None, number=None):
        jax.debug.callback(lambda x: seen[name].append(np.asarray(x, np.float64)), x, ordered=True)
        return linear(x, layer, tuned, name, key, number)

    monkeypatch.setattr("lqlm.models.block.linear", watched)
    jax.block_until_ready(jax.jit(lambda: forward(base, None, ROWS, np.ones(ROWS.shape, bool), CFG))())
    jax.effects_barrier()
    for name in LINEARS:
        squares = [np.square(x).mean(axis=(0, 1)) for x in seen[name]]
        np.testing.assert_allclose(found[name].inputs, np.stack(squares), rtol=2e-4)


@pytest.mark.parametrize("name", ["q_proj", "down_proj"])
def test_moments_of_outputs_are_mean_squared_gradients(base, found, name):
    """Against the gradient with respect to a bias of its own for every token and layer."""
    layers, fan_out = CFG.layers, found[name].outputs.shape[1]

    def loss(shift, monkeypatch):
        def shifted(x, layer, tuned, key, *rest):
            y = linear(x, layer, {}, key, *rest)
            return y + layer["shift"] if key == name else y

        monkeypatch.setattr("lqlm.models.block.linear", shifted)
        with_shift = {**base, "layers": {**base["layers"], "shift": shift}}
        return window_nll(with_shift, None, ROWS, CFG).sum()

    with pytest.MonkeyPatch.context() as patch:
        grads = jax.jit(jax.grad(lambda shift: loss(shift, patch)))(jnp.zeros((layers, *ROWS.shape, fan_out)))
    np.testing.assert_allclose(found[name].outputs, np.square(grads).mean(axis=(1, 2)), rtol=1e-3, atol=1e-9)


@pytest.fixture(scope="module")
def table(base, found):
    return tabulate(base, FORMATS, found)


def test_the_table_chooses_and_the_base_holds_the_choice(base, table):
    assert table.places[0] == ("q_proj", 0) and len(table.places) == len(table.shapes) == CFG.layers * 7
    assert table.errors.shape == table.sizes.shape == (14, 4)
    budget = int(table.sizes.min(axis=1).sum() * 1.7)
    assignment = table.choose(budget)
    held = apply_formats(base, assignment)
    assert formats_of(held) == assignment and linear_bytes(held) <= budget
    assert any(isinstance(held["layers"][name], MixedStack) for name in LINEARS)
    assert held["embed"] is base["embed"] and held["layers"]["q_bias"] is base["layers"]["q_bias"]


def test_a_mixture_computes_as_its_dequantized_weights(base, table):
    held = apply_formats(base, table.choose(int(table.sizes.min(axis=1).sum() * 1.7)))
    plain = {**held, "layers": {n: dense(w, jnp.float32) if n in LINEARS else w for n, w in held["layers"].items()}}
    run = jax.jit(lambda base: window_nll(base, None, ROWS, CFG))
    np.testing.assert_allclose(run(held), run(plain), rtol=1e-5)


def test_weights_of_the_error_matter(base, found):
    plain, by_input = (tabulate(base, FORMATS[1:2], x, outputs=False).errors for x in (None, found))
    both = tabulate(base, FORMATS[1:2], found).errors
    assert not np.allclose(plain, by_input) and not np.allclose(by_input, both)
    ones = jax.tree.map(jnp.ones_like, found)
    np.testing.assert_allclose(tabulate(base, FORMATS[1:2], ones).errors, plain, rtol=1e-5)


def test_inputs_alone_weigh_errors_relative_to_the_outputs(base, found):
    """So that a map with large inputs does not get all the bits."""
    large = {name: dataclasses.replace(tap, inputs=100 * tap.inputs) for name, tap in found.items()}
    one, other = (tabulate(base, FORMATS[1:2], x, outputs=False).errors for x in (found, large))
    np.testing.assert_allclose(one, other, rtol=1e-5)
    w, inputs = base["layers"]["q_proj"], found["q_proj"].inputs
    want = np.einsum("li,lio->l", np.asarray(inputs), np.asarray(w) ** 2)
    np.testing.assert_allclose(output_power(w, inputs), want, rtol=1e-5)


def test_a_quantized_base_is_refused(base):
    held = apply_formats(base, uniform(CFG, QuantConfig("nf4", 32)))
    with pytest.raises(UserError, match="q_proj is quantized already; start from the unquantized model"):
        tabulate(held, FORMATS, None)
