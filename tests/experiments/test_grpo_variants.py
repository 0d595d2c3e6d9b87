"""Runs of GRPO beside the default one: what they sample again, what they add, and that they resume."""

import dataclasses
import json
import pathlib
import types

import jax
import numpy as np
import pytest

from configs import grpo_variants
from experiments.command import load_config
from experiments.configdict import from_config
from experiments.grpo import drawn as drawing
from experiments.grpo import iterative
from experiments.grpo.advantages import GroupAdvantage, LeaveOneOut, Mixed
from experiments.grpo.settings import DemonstrationSettings, Dynamic, Growing, GRPOExperiment
from experiments.grpo.step import compare
from experiments.rollouts.sample import Rollout
from lqlm.algorithms.grpo import GRPOConfig
from lqlm.algorithms.step import TrainState
from lqlm.algorithms.surrogates import SequenceClip
from lqlm.errors import UserError
from lqlm.generation.decode import Completions
from lqlm.io.metrics import read_jsonl
from tests.experiments.conftest import run_all
from tests.experiments.tiny_model import changed, tiny

NOBODY = pathlib.Path("nowhere")
SMALL = {"updates": 1, "micro_batches": 1, "remat": "none", "eval_every": 0}


def settings(model, path, *, grpo=None, run=types.MappingProxyType({}), **sections):
    """The tiny run with sections replaced."""
    made = tiny(model, path, **{**SMALL, **{k: v for k, v in run.items() if k != "reference_every"}})
    made = dataclasses.replace(changed(made, "grpo", **grpo or {}), **sections)
    return changed(made, "run", reference_every=run.get("reference_every", 0))


@pytest.mark.parametrize("name", grpo_variants.VARIANTS)
def test_every_variant_is_a_run(name):
    made = from_config(GRPOExperiment, load_config(f"configs/grpo_variants.py:{name}"))
    assert made.workdir == f"runs/grpo_variants_{name}"
    with pytest.raises(UserError, match="no variant"):
        grpo_variants.get_config("unknown")


def test_fresh_prompts_a_sequence_ratio_and_the_divergence_in_the_reward(model, tmp_path):
    run, state = run_all(
        settings(
            model,
            tmp_path,
            grpo={"kl": "k1", "kl_place": "reward", "beta": 0.1, "surrogate": SequenceClip(), "entropy_coef": 0.01},
            advantage=LeaveOneOut(),
            resampling=Dynamic(1),
            run={"mask_truncated_completions": True, "steps": 3},
        )
    )
    rows = read_jsonl(run.workdir.path / "metrics.jsonl")[1:]
    assert [row["compilations"] for row in rows[1:]] == [0, 0]
    total = 0
    for row in rows:
        assert row["rollouts"] in (8, 16) and row["frac_update_zero_std"] <= row["frac_reward_zero_std"]
        total += row["rollouts"]
        assert row["rollouts_total"] == total == sum(r["rollouts"] for r in rows[: rows.index(row) + 1])
        assert np.isfinite([row[n] for n in ("loss", "kl", "clip_ratio/low_min", "clip_ratio/high_max")]).all()
    assert int(state.step) == 3


def test_samples_through_slots_are_the_same_whatever_their_number(model, tmp_path):
    found = []
    for slots in (1, 3):
        made = settings(model, tmp_path / str(slots), run={"slots": slots, "steps": 2}, resampling=Dynamic(1))
        run, _ = run_all(made)
        rows = read_jsonl(run.workdir.path / "metrics.jsonl")[1:]
        assert rows[1]["compilations"] == 0 and rows[0]["kl"] == pytest.approx(0, abs=1e-6)
        found.append([(row["reward"], row["completions/mean_length"], row["num_tokens"]) for row in rows])
    assert found[0] == found[1]


def test_dynamic_sampling_compares_what_it_is_told_to(model, tmp_path):
    """As DAPO compares accuracy: a penalty of length does not make a group of wrong answers worth learning from."""
    part = types.SimpleNamespace(components={"right": np.zeros((1, 2))}, rewards_BG=np.array([[0.0, -0.5]]))
    assert np.ptp(drawing._compared(part, Dynamic(1, component="right"))) == 0
    assert np.ptp(drawing._compared(part, Dynamic(1))) == 0.5
    settings(model, tmp_path, resampling=Dynamic(1, component="digits"))
    with pytest.raises(UserError, match=r"resampling\.component 'right' is none of the rewards \(digits\)"):
        settings(model, tmp_path, resampling=Dynamic(1, component="right"))


def test_growing_groups_demonstrations_and_a_reference_that_follows(model, tmp_path):
    """And it resumes: the reference is in the checkpoint, the number of samples in the history."""
    make = lambda path, steps: settings(  # noqa: E731
        model,
        path,
        grpo={"beta": 0.05},
        advantage=GroupAdvantage(),
        resampling=Growing(1),
        demonstrations=DemonstrationSettings(0.5, right=99.0),  # which no sample earns
        run={"steps": steps, "reference_every": 2},
    )
    alone, expected = run_all(make(tmp_path / "a", 3))
    run_all(make(tmp_path / "b", 2))
    resumed, state = run_all(make(tmp_path / "b", 3))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(expected))
    rows = [read_jsonl(run.workdir.path / "metrics.jsonl")[1:] for run in (alone, resumed)]
    assert [row["rollouts_total"] for row in rows[0]] == [row["rollouts_total"] for row in rows[1]]
    assert all(row["sft_loss"] > 0 for row in rows[0])
    assert rows[0][0]["kl"] == pytest.approx(0.0, abs=1e-6) and rows[0][1]["kl"] > 1e-6
    assert rows[0][2]["kl"] < rows[0][1]["kl"]  # the third step begins with a new reference
    assert isinstance(state, iterative.IterativeState)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.adapters, state.reference)
    assert any(jax.tree.leaves(moved))


def part(rewards, first, width=2):
    """A rollout of two prompts in groups of two; each sample's token is its number."""
    tokens = np.arange(first, first + 4).reshape(2, 2, 1)
    completions = Completions(tokens, tokens * 0.0, np.ones((2, 2, 1), bool), np.int32(1))
    prompts = np.arange(first, first + 2)[:, None] * np.ones((1, width), int)
    found = np.array(rewards, np.float32)
    return drawing.Drawn(
        [f"item {first}", f"item {first + 1}"],
        Rollout(prompts, prompts > -1, completions),
        found,
        {"correct": found},
        None,
        {"rollouts": 4},
        [],
    )


def test_a_running_anchor_is_remembered():
    """Each step is compared with the anchor before it."""
    made = settings(NOBODY, NOBODY, advantage=Mixed(weight=0.0, anchor=0.5, decay=0.5), grpo={"beta": 0.0})
    run = types.SimpleNamespace(setup=types.SimpleNamespace(settings=made), history={})
    first = compare(run, part([[0, 0], [1, 0]], 0), {})
    np.testing.assert_allclose(first, [[-0.5, -0.5], [0.5, -0.5]])
    run.history = json.loads(json.dumps(run.history))
    second = compare(run, part([[0, 0], [1, 1]], 0), {})
    np.testing.assert_allclose(second, [[-0.375, -0.375], [0.625, 0.625]])  # 0.5 x 0.5 + 0.5 x 0.25
    assert run.history["anchor"] == 0.4375


def test_the_batch_is_gathered_from_all_rollouts():
    """Prompt 1 of the first rollout and prompt 0 of the second; the wider prompts decide the width."""
    parts = [part([[0, 0], [1, 0]], 0), part([[0, 1], [1, 1]], 10, width=3)]
    places = np.array([[[1, 0], [1, 1]], [[2, 0], [2, 1]]])
    got = drawing._gathered(parts, [1, 2], places, 8)
    assert got.items == ["item 1", "item 10"] and got.metrics["rollouts"] == 8
    np.testing.assert_array_equal(got.rewards_BG, [[1, 0], [0, 1]])
    np.testing.assert_array_equal(got.rollout.completions.tokens_BGC[..., 0], [[2, 3], [10, 11]])
    np.testing.assert_array_equal(got.rollout.mask_BP, [[False, True, True], [True, True, True]])


def test_fresh_prompts_come_until_the_batch_is_full_of_groups_that_differ(monkeypatch):
    """Two groups are wanted: one rollout has one, the next none, the third one; the fourth is not drawn."""
    rewards = [[[0, 0], [1, 0]], [[0, 0], [1, 1]], [[0, 1], [1, 1]], [[0, 1], [1, 0]]]
    made = settings(NOBODY, NOBODY, resampling=Dynamic(3), run={"group": 2, "prompts": 2})
    run = types.SimpleNamespace(
        setup=types.SimpleNamespace(settings=made, task=types.SimpleNamespace(train=list(range(100)))), history={}
    )
    asked, keys = [], []

    def once(run, adapters, items, key):
        asked.append(list(items))
        keys.append(tuple(jax.random.key_data(key).tolist()))
        return part(rewards[len(asked) - 1], 10 * len(asked))

    monkeypatch.setattr(drawing, "_once", once)
    got = drawing.draw(run, None, 5, jax.random.key(0))
    assert len(asked) == len(set(keys)) == 3 and len({item for items in asked for item in items}) == 6
    assert got.items == ["item 11", "item 30"] and got.metrics["rollouts"] == run.history["rollouts"] == 12
    assert got.metrics["frac_update_zero_std"] == 0.0
    asked.clear()
    rewards[2] = [[0, 0], [0, 0]]
    rewards[3] = [[0, 0], [0, 0]]
    got = drawing.draw(run, None, 6, jax.random.key(1))
    assert len(asked) == 4 and got.items == ["item 10", "item 11"]  # filled up with the first that cannot teach
    assert run.history["rollouts"] == 28 and got.metrics["frac_update_zero_std"] == 0.5


def test_a_grown_group_learns_from_its_only_success():
    parts = [part([[0, 0], [1, 0]], 0), part([[0, 0], [0, 1]], 10)]
    got = drawing._kept(parts, [[0, 2, 3], [1]], 2, 3, scaled=False)
    assert got.rollout.completions.tokens_BGC[0, :, 0].tolist() == [0, 13]
    # One right of six, mean 1/6: advantages -1/6 and 5/6; five stand behind the one failure, and 2/6 of all are kept.
    np.testing.assert_allclose(got.advantages_BG, [[-1 / 6 * 5 / 3, 5 / 6 / 3], [0.5, -0.5]], rtol=1e-5)
    assert got.items == ["item 0", "item 1"]


REFUSED = {
    "growing groups for a kind that has none": ({"advantage": LeaveOneOut(), "resampling": Growing()}, "growing"),
    "an iterative run without a divergence": (
        {"grpo_config": GRPOConfig(beta=0.0), "run": {"reference_every": 3}},
        "reference_every",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_sections_that_contradict_each_other(name):
    sections, word = REFUSED[name]
    sections = dict(sections)
    config = sections.pop("grpo_config", None)
    with pytest.raises(UserError, match=word):
        settings(NOBODY, NOBODY, grpo={"beta": config.beta} if config else None, **sections)


def test_the_plain_state_has_no_reference():
    state = TrainState({"a": np.ones(2)}, (), *(np.int32(n) for n in range(3)))
    begun = iterative.begin(state)
    assert type(begun.plain) is TrainState and begun.reference["a"] is not state.adapters["a"]
    later = iterative.renewed(begun.replace(adapters={"a": np.zeros(2)}), 4, 2)
    np.testing.assert_array_equal(later.reference["a"], 0.0)
    assert iterative.renewed(begun, 3, 2) is begun and iterative.renewed(begun, 0, 2) is begun
