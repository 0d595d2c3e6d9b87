"""Faults that other libraries were found to have, and the test that would have caught each here.

Those without a test elsewhere have theirs below.
"""

import ast
import contextlib
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.grpo import step as grpo_step
from experiments.online_dpo import step as online_step
from experiments.ppo import step as ppo_step
from experiments.rollouts import sample
from lqlm.algorithms.grpo import GRPOBatch, GRPOConfig, grpo_objective
from lqlm.algorithms.step import init_state, make_update
from lqlm.algorithms.surrogates import Cispo
from lqlm.generation.decode import Completions
from lqlm.models import score
from lqlm.rewards.combine import Rewards
from lqlm.rewards.functions import soft_overlong
from lqlm.tasks.base import Item

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HERE = "tests/experiments/test_faults.py"
FAULTS = {
    "max instead of min for negative advantages": "tests/algorithms/test_policy.py::test_clipping_at_every_corner",
    "an integer reward tensor turns 0.5 into 0": (
        "tests/algorithms/test_advantages.py::test_integer_rewards_are_not_rounded"
    ),
    "the overlong penalty counts characters": f"{HERE}::test_lengths_are_counted_in_tokens",
    "the same key at every rollout": f"{HERE}::test_no_two_rollouts_share_a_key",
    "pad keys are attended to": "tests/models/test_transformer.py::test_left_right_more_and_no_padding_agree",
    "what stands in the padding changes log-probabilities": (
        "tests/models/test_score.py::test_what_stands_in_the_padding_changes_nothing"
    ),
    "division by the batch twice": "tests/algorithms/test_grpo.py::test_duplicating_the_batch_changes_no_loss",
    "a loss that depends on how the batch is split": "tests/algorithms/test_grpo.py::test_parts_add_up_to_the_whole",
    "the train step is compiled twice": "tests/experiments/test_run.py::test_the_second_step_compiles_nothing",
    "rope_theta of the config is ignored": "tests/models/test_layers.py::test_rope_theta_is_used",
    "any other key of the config is ignored": (
        "tests/models/test_transformer.py::test_every_setting_of_the_config_is_used"
    ),
    "temperature 1 without top_p is silently greedy": "tests/generation/test_sampling.py::test_distribution",
    "the same samples at every call": (
        "tests/generation/test_decode.py::test_samples_follow_the_key_and_differ_within_a_group_and_between_rows"
    ),
    "the head runs over prompt positions": f"{HERE}::test_the_head_sees_completions_only",
    "the entropy is always computed": "tests/test_logprobs.py::test_no_entropy_unless_asked",
    "the prompt is prefilled once for each sample": (
        "tests/generation/test_decode.py::test_one_prefill_serves_the_group"
    ),
    "remat saves almost nothing": "tests/models/test_transformer.py::test_remat_saves_most_of_the_activations",
    "optional outputs crash": f"{HERE}::test_what_is_optional_may_be_absent",
    "the cap of CISPO is taken for an epsilon": f"{HERE}::test_the_cap_of_cispo_is_the_ratio_itself",
    "an end at the first token is taken for none": "tests/generation/test_decode.py::test_an_end_at_the_first_token",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_test(fault):
    file, name = FAULTS[fault].split("::")
    tree = ast.parse((ROOT / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_lengths_are_counted_in_tokens(monkeypatch):
    """One token of many characters, and many tokens of one."""
    texts, counts = [["a very long word", "1 2"]], np.array([[[True, False, False], [True, True, True]]])
    tokens = np.where(counts, 5, 0)
    seen = []

    def rewards(score, samples):
        seen.extend(samples)
        penalty = np.array([soft_overlong(s.n_tokens, limit=3, buffer=2) for s in samples], np.float32)
        return Rewards(penalty, {}, 0, None)

    monkeypatch.setattr(sample, "texts_of", lambda tokenizer, completions: texts)
    monkeypatch.setattr(sample, "shared_rewards", rewards)
    setup = types.SimpleNamespace(
        model=types.SimpleNamespace(tokenizer=types.SimpleNamespace(eos_ids=(9,))),
        rewards=[],
        task=None,
        settings=types.SimpleNamespace(run=types.SimpleNamespace(reward_timeout=1.0)),
        sampling=types.SimpleNamespace(judge=None),
        pool=None,
    )
    timers = types.SimpleNamespace(phase=lambda name: contextlib.nullcontext())
    run = types.SimpleNamespace(setup=setup, warned=False, timers=timers)
    found, _ = sample.reward(run, [Item("?", "1", "a")], Completions(tokens, tokens * 0.0, counts, np.int32(3)))
    assert [s.n_tokens for s in seen] == [1, 3]
    np.testing.assert_array_equal(found.total, [0.0, -1.0])


def test_no_two_rollouts_share_a_key(monkeypatch):
    """Neither of two steps, nor of two seeds, nor rollout and update of one step."""
    seen = []

    class Stop(Exception):
        pass

    def draw(run, adapters, step, key):
        seen.append(jax.random.key_data(key).tolist())
        return types.SimpleNamespace(metrics={})

    def updates(run, state, batch, key):
        seen.append(jax.random.key_data(key).tolist())
        raise Stop

    monkeypatch.setattr(grpo_step, "draw", draw)
    monkeypatch.setattr(grpo_step, "make_batch", lambda *_: None)
    monkeypatch.setattr(grpo_step, "show", lambda *_: None)
    monkeypatch.setattr(grpo_step, "updates", updates)
    for seed in range(3):
        run = types.SimpleNamespace(setup=types.SimpleNamespace(settings=types.SimpleNamespace(seed=seed)))
        for step in range(5):
            with pytest.raises(Stop):
                grpo_step.one_step(run, types.SimpleNamespace(adapters=None), step)
    assert len({tuple(key) for key in seen}) == len(seen) == 30


@pytest.mark.parametrize("module", [ppo_step, online_step], ids=["ppo and a2c", "online_dpo"])
def test_rollouts_of_other_algorithms_do_not_either(module, monkeypatch):
    seen = []

    class Stop(Exception):
        pass

    def rollout(run, adapters, items, key):
        seen.append(jax.random.key_data(key).tolist())
        raise Stop

    monkeypatch.setattr(module, "batch_at", lambda *_: [])
    monkeypatch.setattr(module, "rollout", rollout)
    for seed in range(3):
        settings = types.SimpleNamespace(seed=seed, run=types.SimpleNamespace(prompts=4))
        setup = types.SimpleNamespace(settings=settings, task=types.SimpleNamespace(train=[]))
        for step in range(5):
            with pytest.raises(Stop):
                module.one_step(
                    types.SimpleNamespace(setup=setup), types.SimpleNamespace(adapters={"policy": None}), step
                )
    assert len({tuple(key) for key in seen}) == len(seen) == 15


def test_the_head_sees_completions_only(monkeypatch):
    """Of prompts of 7 tokens and 2 x 3 completions of 4, the vocabulary is computed for 24 positions."""
    seen = []

    def hidden_states(base, adapters, prompts, prompt_mask, completions, mask, cfg, **_):
        return jnp.zeros((*completions.shape, 8))

    def logprobs(hidden, head, targets, **_):
        seen.append(hidden.shape)
        return jnp.zeros(targets.shape), None

    monkeypatch.setattr(score, "forward_groups", hidden_states)
    monkeypatch.setattr(score, "chunked_token_logprobs", logprobs)
    prompts, completions = jnp.zeros((2, 7), jnp.int32), jnp.zeros((2, 3, 4), jnp.int32)
    score.completion_logprobs({}, None, prompts, prompts == 0, completions, completions == 0, None)
    assert seen == [(24, 8)]


@pytest.mark.parametrize("reference", [False, True])
def test_what_is_optional_may_be_absent(reference):
    """No old policy, no reference, no demonstration, no entropy: a step is a step."""
    logp = jnp.log(jnp.full((2, 3, 4), 0.5))
    prompt, mask = jnp.zeros((2, 1), jnp.int32), jnp.ones(logp.shape, bool)
    batch = GRPOBatch(prompt, prompt == 0, jnp.zeros(logp.shape, jnp.int32), mask, jnp.ones((2, 3)))
    batch = batch.replace(ref_logp_BGC=logp - 0.1) if reference else batch
    cfg = GRPOConfig(beta=0.04 if reference else 0.0)
    objective = grpo_objective(lambda x, base, part, key: (x, jnp.zeros_like(x)), cfg)
    update = jax.jit(make_update(objective, optax.sgd(0.1)))
    state, metrics = update(init_state(logp, optax.sgd(0.1)), {}, batch, None)
    assert float(metrics["finite"]) == 1.0 and float(state.adapters[0, 0, 0]) > float(logp[0, 0, 0])


def test_the_cap_of_cispo_is_the_ratio_itself():
    logp, old = jnp.log(jnp.array([[0.9, 0.9]])), jnp.log(jnp.array([[0.1, 0.5]]))
    gradient = jax.grad(lambda x: jnp.sum(Cispo(2.0)(x, old, jnp.ones((1, 1)), old < 0, (0.2, 0.2)).objective))(logp)
    np.testing.assert_allclose(gradient, [[2.0, 1.8]], rtol=1e-6)  # 9 is capped at 2, not at 3, and still teaches
