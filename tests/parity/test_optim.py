"""8-bit Adam against the installed bitsandbytes: the goldens are recomputed, and a larger trajectory compared."""

import importlib.util
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lqlm.optim.adam8 import adamw8bit
from tests.parity.remade import assert_remade

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    bitsandbytes = pytest.importorskip("bitsandbytes")

pytestmark = pytest.mark.filterwarnings("ignore")  # the peers' own
RATE = 1e-3


def test_goldens_are_what_the_peer_makes(goldens, tmp_path):
    spec = importlib.util.spec_from_file_location("make_optim", goldens / "make_optim.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    make.main(tmp_path)
    with np.load(tmp_path / "optim.npz") as new, np.load(goldens / "optim.npz") as old:
        assert_remade(new, old)


def ours(optimizer, start, grads):
    @jax.jit
    def step(params, state, g):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(g, state, params)
            return optax.apply_updates(params, updates), state

    params, state = jnp.asarray(start), optimizer.init(jnp.asarray(start))
    for g in grads:
        params, state = step(params, state, jnp.asarray(g))
    return np.asarray(params), state


def theirs(start, grads):
    parameter = torch.nn.Parameter(torch.tensor(start))
    optimizer = bitsandbytes.optim.AdamW8bit([parameter], lr=RATE, weight_decay=0.01)
    for g in grads:
        parameter.grad = torch.tensor(g)
        optimizer.step()
    return parameter.detach().numpy(), optimizer.state[parameter]


@pytest.mark.parametrize("shape", [(96, 100), (64, 512)])
def test_ten_steps_stay_as_near_to_32_bits_as_the_peer(shape):
    """Its codes on the CPU are not the nearest, so that the two agree within what 8 bits cost, not to the bit."""
    rng = np.random.default_rng(3)
    start = rng.normal(size=shape).astype(np.float32)
    grads = [(np.exp(rng.normal(size=shape)) * rng.normal(size=shape)).astype(np.float32) for _ in range(10)]
    found, _ = ours(adamw8bit(RATE, weight_decay=0.01), start, grads)
    exact, _ = ours(optax.adamw(RATE, weight_decay=0.01), start, grads)
    peer, _ = theirs(start, grads)
    mine, other, apart = (np.abs(x - y).mean() for x, y in ((found, exact), (peer, exact), (found, peer)))
    moved = np.abs(exact - start).mean()
    assert mine < 1.05 * other and other < 0.06 * moved and apart < 1.5 * other


def test_one_step_is_the_peers_and_so_are_the_maxima():
    """Nothing has been rounded before the first update."""
    rng = np.random.default_rng(4)
    start, g = (rng.normal(size=(64, 100)).astype(np.float32) for _ in range(2))
    found, state = ours(adamw8bit(RATE, weight_decay=0.01), start, [g])
    peer, peer_state = theirs(start, [g])
    np.testing.assert_allclose(found, peer, rtol=0, atol=1e-6)
    np.testing.assert_allclose(state[0].mu.absmax, peer_state["absmax1"].numpy(), rtol=1e-6)
    np.testing.assert_allclose(state[0].nu.absmax, peer_state["absmax2"].numpy(), rtol=1e-6)
    for mine, other in ((state[0].mu, "state1"), (state[0].nu, "state2")):
        apart = np.abs(np.asarray(mine.codes).astype(int) - peer_state[other].numpy().astype(int))
        assert np.mean(apart > 0) < 0.1 and np.mean(apart > 1) < 0.02
