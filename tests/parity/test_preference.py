"""TRL's DPOTrainer and RewardTrainer themselves, against the stored goldens and against lqlm."""

import importlib.util
import pathlib

import numpy as np
import pytest

pytest.importorskip("trl")

from tests.algorithms.preference_cases import REWARD, dpo_config, our_dpo, our_reward

GOLDENS = pathlib.Path(__file__).parent.parent / "goldens"


def load_maker():
    spec = importlib.util.spec_from_file_location("make_preference", GOLDENS / "make_preference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


maker = load_maker()


def check(found, want, case):
    for name, value in want.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=f"{case}: {name}")


def test_goldens_are_reproduced():
    stored, made = np.load(GOLDENS / "preference.npz"), maker.make()
    assert set(made) == set(stored.files) - {"versions"}
    for name, want in made.items():
        np.testing.assert_allclose(stored[name], want, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("seed", [1, 2])
def test_fresh_pairs_equal_trl(seed):
    inputs = maker.make_inputs(seed)
    for case, changes in maker.DPO:
        check(our_dpo(inputs, dpo_config(case)), maker.trl_dpo(inputs, changes), case)
    for name, case in maker.REWARD.items():
        check(our_reward(inputs, *REWARD[name]), maker.trl_reward(inputs, *case), name)


def test_smoothing_is_not_among_trls_losses_but_its_parts_are():
    """cDPO is the mean of DPO and of DPO with the sides exchanged, weighted by the share of wrong labels."""
    inputs = maker.make_inputs(3)
    turned = inputs | {name: inputs[name][:, ::-1].copy() for name in ("logp", "ref_logp", "mask")}
    straight, back = (maker.trl_dpo(found, {})["loss"] for found in (inputs, turned))
    found = our_dpo(inputs, dpo_config("cdpo|label_smoothing=0.3"))["loss"]
    np.testing.assert_allclose(found, 0.7 * straight + 0.3 * back, rtol=1e-5)
