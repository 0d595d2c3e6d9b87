"""Values, gradients and metrics of TRL's DPO losses and reward model, from stored arrays."""

import numpy as np
import pytest

from tests.algorithms.preference_cases import REWARD, dpo_config, our_dpo, our_reward


@pytest.fixture(scope="module")
def trl(goldens):
    return dict(np.load(goldens / "preference.npz"))


def outputs(trl, case):
    """What stands under ``case/output``; metrics have a slash of their own."""
    return {name.removeprefix(f"{case}/"): x for name, x in trl.items() if name.startswith(f"{case}/")}


def inputs(trl):
    return outputs(trl, "inputs")


def dpo_cases(trl):
    return sorted({name.removesuffix("/grad").removeprefix("dpo|") for name in trl if name.endswith("/grad")})


def check(found, want, case):
    assert want.keys() <= found.keys(), case
    for name, value in want.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=f"{case}: {name}")


def test_the_cases_are_there_and_differ(trl):
    assert "trl 1.16" in str(trl["versions"])
    found = [case for case in dpo_cases(trl) if not case.startswith("reward|")]
    assert len(found) == 24 and len({float(trl[f"dpo|{case}/loss"]) for case in found}) == 24
    lengths = trl["inputs/mask"].sum(-1)
    assert (lengths[:, 0] > lengths[:, 1]).any() and (lengths[:, 0] < lengths[:, 1]).any()


def test_every_loss_of_dpo_equals_trl(trl):
    for case in dpo_cases(trl):
        if not case.startswith("reward|"):
            check(our_dpo(inputs(trl), dpo_config(case)), outputs(trl, f"dpo|{case}"), case)


@pytest.mark.parametrize("case", REWARD)
def test_the_reward_model_equals_trl(trl, case):
    check(our_reward(inputs(trl), *REWARD[case]), outputs(trl, f"reward|{case}"), case)
