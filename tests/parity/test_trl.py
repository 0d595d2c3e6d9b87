"""TRL itself, against the stored goldens and against lqlm."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("trl")

from lqlm.algorithms.advantages import centered_advantages, group_advantages
from lqlm.algorithms.grpo import GRPOConfig, grpo_loss

GOLDENS = pathlib.Path(__file__).parent.parent / "goldens"


def load_maker():
    spec = importlib.util.spec_from_file_location("make_trl", GOLDENS / "make_trl.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


maker = load_maker()


def test_goldens_are_reproduced():
    stored, made = np.load(GOLDENS / "trl.npz"), maker.make()
    assert set(made) == set(stored.files) - {"versions", "max_length"}
    for name, want in made.items():
        np.testing.assert_allclose(stored[name], want, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_fresh_rollouts_equal_trl(seed):
    rng = np.random.default_rng(seed + 1)
    inputs = maker.make_inputs()
    inputs["mask"] = np.arange(maker.LENGTH)[None] < rng.integers(1, maker.LENGTH + 1, maker.ROWS)[:, None]
    inputs["advantages"] = rng.normal(size=maker.ROWS).astype(np.float32)
    arrays = [jnp.asarray(inputs[name]) for name in ("logp", "old_logp", "ref_logp", "advantages", "mask")]
    reductions = {"grpo": "sequence", "dapo": "token", "dr_grpo": "constant"}
    for loss, reduction in reductions.items():
        cfg = GRPOConfig(0.1, 0.28, 0.04, reduction, maker.MAX_LENGTH, "k3_corrected")
        want = maker.trl_loss(inputs, loss, (0.1, 0.28), (0.04, True))
        (got, _), grad = jax.value_and_grad(grpo_loss, has_aux=True)(*arrays, cfg)
        np.testing.assert_allclose(got, want["loss"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(grad, want["grad"], rtol=1e-5, atol=1e-7)


def test_fresh_advantages_equal_trl():
    rewards = np.random.default_rng(5).integers(0, 3, (6, 8)).astype(np.float32)
    for ours, scale in ((group_advantages, "group"), (centered_advantages, "none")):
        want = maker.trl_advantages(rewards, scale)
        np.testing.assert_allclose(ours(jnp.asarray(rewards)), want, rtol=1e-5, atol=1e-6)
