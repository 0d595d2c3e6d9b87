"""A learned reward beside the functions, in any run on its own samples."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.grpo.algorithm import GRPO
from experiments.grpo.settings import GRPOExperiment
from experiments.rollouts.scoring import load_judge, with_score
from experiments.rollouts.settings import RewardModelSettings
from experiments.rollouts.setup import bind_rewards
from lqlm.errors import UserError
from lqlm.generation.decode import Completions
from lqlm.io.metrics import read_jsonl
from lqlm.models.heads import sequence_scores
from lqlm.rewards.combine import Rewards
from lqlm.tasks.arithmetic import ArithmeticConfig
from tests.experiments.conftest import run_all, run_killed
from tests.experiments.tiny_model import changed, tiny

LENGTHS = np.array([[2, 4], [1, 3]])


def completions(loaded):
    mask = np.arange(4) < LENGTHS[..., None]
    tokens = np.random.default_rng(0).integers(4, loaded.config.vocab_size, mask.shape)
    tokens = jnp.asarray(np.where(mask, tokens, 0), jnp.int32)
    return Completions(tokens, jnp.zeros(mask.shape), jnp.asarray(mask), jnp.int32(4))


def test_a_score_is_that_of_prompt_and_completion(loaded, judged):
    """Read at the last real token, the end of the completion, whatever the padding on either side."""
    tree, folder = judged
    prompts = np.array([[0, 5, 6], [7, 8, 9]], np.int32), np.array([[0, 1, 1], [1, 1, 1]], bool)
    drawn = completions(loaded)
    judge = load_judge(RewardModelSettings(str(folder), 1.0), loaded, None)
    found = judge(loaded.base, prompts, drawn)
    want = []
    for b, g in np.ndindex(2, 2):
        row = np.concatenate([prompts[0][b][prompts[1][b]], np.asarray(drawn.tokens_BGC)[b, g, : LENGTHS[b, g]]])
        tokens = jnp.asarray(np.pad(row, (0, 7 - len(row))), jnp.int32)[None]
        mask = jnp.arange(7)[None] < len(row)
        want.append(float(sequence_scores(loaded.base, tree, tokens, mask, loaded.config)[0]))
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    assert found.dtype == np.float32 and len(set(want)) == 4


def test_a_score_that_is_no_number_ends_the_run(loaded, judged):
    judge = load_judge(RewardModelSettings(str(judged[1]), 1.0), loaded, None)
    broken = dataclasses.replace(judge, score=lambda *args: jnp.array([[1.0, jnp.nan], [0.0, 1.0]]))
    with pytest.raises(UserError, match="1 scores are not finite"):
        broken(loaded.base, (np.zeros((2, 3), np.int32), np.ones((2, 3), bool)), completions(loaded))


def test_it_is_a_component_beside_the_others():
    rewards = Rewards(np.array([1, 2], np.float32), {"correct": np.array([0.5, 1], np.float32)}, 3, "why")
    found = with_score(rewards, np.array([4, -2], np.float32), 0.25)
    np.testing.assert_array_equal(found.total, np.array([2, 1.5], np.float32))
    assert found.total.dtype == np.float32 and list(found.components) == ["correct", "reward_model"]
    assert (found.errors, found.first_error) == (3, "why")
    np.testing.assert_array_equal(found.components["reward_model"], [4, -2])


def test_it_may_be_the_only_one():
    only = GRPOExperiment(task=ArithmeticConfig(), rewards={}, reward_model=RewardModelSettings("somewhere"))
    assert bind_rewards(only, None) == []
    with pytest.raises(UserError, match="at least one"):
        bind_rewards(dataclasses.replace(only, reward_model=RewardModelSettings()), None)


def test_grpo_learns_from_it_too(model, judged, tmp_path):
    """Alone, with no function beside it; nothing in GRPO's own code asks for it."""
    settings = tiny(model, tmp_path, steps=2, eval_every=0)
    learned = RewardModelSettings(str(judged[1]), 2.0)
    run, _ = run_all(dataclasses.replace(settings, rewards={}, reward_model=learned))
    rows = read_jsonl(run.workdir.path / "metrics.jsonl")[1:]
    for row in rows:
        assert row["reward"] == pytest.approx(2 * row["rewards/reward_model/mean"], rel=1e-5) != 0
        assert row["reward_std"] > 0 and row["grad_norm"] > 0
    assert rows[1]["compilations"] == 0
    sample = read_jsonl(run.workdir.path / "samples.jsonl")[0]["rewards"]
    assert sample["total"] == pytest.approx(2 * sample["reward_model"])


def test_a_run_with_reward_workers_is_the_same_run(model, tmp_path):
    """Bit for bit, whoever computes the rewards; a run may go on with another number of them."""
    found = []
    for workers in (0, 2):
        settings = tiny(model, tmp_path / str(workers), steps=2, eval_every=0, checkpoint_every=1)
        if workers:
            run_killed(changed(settings, "run", reward_workers=workers), GRPO, at=1)
            settings = changed(settings, "run", reward_workers=1)
        run, _ = run_all(settings)
        assert (run.setup.pool is not None) == bool(workers)
        found.append((run.workdir.adapter / "adapter_model.safetensors").read_bytes())
    assert found[0] == found[1]
