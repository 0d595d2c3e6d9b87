"""Process supervision and off-policy demonstrations in GRPO: worked by hand, whole runs, and what is refused."""

import dataclasses
import types

import numpy as np
import pytest

from experiments.grpo import supervision
from experiments.grpo.advantages import CentredAdvantage, GroupAdvantage, Process, Zvp
from experiments.grpo.drawn import Drawn
from experiments.grpo.settings import DemonstrationSettings, Dynamic, Growing, OffPolicySettings
from experiments.grpo.step import compare
from experiments.rollouts.sample import Rollout
from lqlm.errors import UserError
from lqlm.generation.decode import Completions
from lqlm.io.metrics import read_jsonl
from lqlm.io.monitor import PhaseTimers
from lqlm.tasks.arithmetic import ArithmeticConfig, arithmetic_task
from lqlm.tasks.base import Item
from tests.experiments.conftest import run_all
from tests.experiments.test_grpo_variants import NOBODY, settings

DIGITS = Process("tests.experiments.rewards.digit_steps", marker="1")
EOS = 0


def bytewise(texts, length):
    """Completions of one token for each byte, an end token after them."""
    tokens, mask = np.full((*np.shape(texts), length), EOS), np.zeros((*np.shape(texts), length), bool)
    for at in np.ndindex(*np.shape(texts)):
        written = [*texts[at[0]][at[1]].encode(), EOS]
        tokens[(*at, slice(len(written)))], mask[(*at, slice(len(written)))] = written, True
    return Completions(tokens, tokens * 0.0, mask, np.int32(1))


def byte_run(advantage, **sections):
    """A run without a model, whose tokens are bytes."""
    made = settings(NOBODY, NOBODY, advantage=advantage, grpo={"beta": 0.0}, **sections)
    task = arithmetic_task(ArithmeticConfig(train=4, heldout=2))
    decode = lambda tokens: bytes(t for t in tokens if t != EOS).decode(errors="replace")  # noqa: E731
    model = types.SimpleNamespace(tokenizer=types.SimpleNamespace(decode=decode, eos_ids=(EOS,)))
    steps = supervision.step_reward(advantage, task) if isinstance(advantage, Process) else None
    return types.SimpleNamespace(
        setup=types.SimpleNamespace(settings=made, model=model, steps=steps), timers=PhaseTimers(), history={}
    )


def advantages_of(run, texts, rewards, length=20, answer="4"):
    """Advantages [B, G, C] of completions of one problem, and what was scored."""
    items, completions = [Item("1 + 1 + 2?", answer, "a")] * len(texts), bytewise(texts, length)
    steps = supervision.scored(run, items, completions)
    found = np.array(rewards, np.float32)
    drawn = Drawn(items, Rollout(None, None, completions), found, {"correct": found}, None, {}, [], steps)
    return np.asarray(compare(run, drawn, {})), steps


def test_by_hand():
    """DeepSeekMath, section 4.1.3: step rewards 1, 1 and 0, 1; mean 3/4, deviation 1/2; so 1/2, 1/2 and -3/2, 1/2."""
    texts = [["1+1=2\n2+2=4", "1+1=3 é\n4"]]
    found, steps = advantages_of(byte_run(Process()), texts, [[1, 1]])
    assert steps.rows == [[1.0, 1.0], [0.0, 1.0]] and steps.errors == 0
    first = [1.0] * 6 + [0.5] * 6 + [0.0] * 8  # up to the newline; then the second equation and the end
    second = [-1.0] * 9 + [0.5] * 2 + [0.0] * 9  # é is of two bytes
    np.testing.assert_allclose(found, [[first, second]], atol=5e-4)  # 1e-4 is added to the deviation
    assert steps.metrics == {
        "steps/reward": 0.75,
        "steps/reward_std": pytest.approx(0.5),
        "steps/mean_count": 2.0,
        "steps/frac_zero_std": 0.0,
    }


def test_the_reward_of_the_whole_is_part_of_the_last_step():
    """Step rewards 1, 1 + 2 and 0, 1: mean 5/4, deviation sqrt(19/12)."""
    found, _ = advantages_of(byte_run(Process(outcome=2.0)), [["1+1=2\n2+2=4", "1+1=3\n4"]], [[1, 0]])
    r = (np.array([1.0, 3.0, 0.0, 1.0]) - 1.25) / (19 / 12) ** 0.5
    np.testing.assert_allclose(found[0, :, 0], [r[0] + r[1], r[2] + r[3]], rtol=1e-3)
    np.testing.assert_allclose(found[0, :, 6], [r[1], r[3]], rtol=1e-3)


def test_silence_is_a_step_worth_nothing():
    """An empty completion loses against one right step, and wins over none; groups of equal steps teach nothing."""
    found, steps = advantages_of(byte_run(Process()), [["2+2=4", ""], ["", ""], ["no", "nor"]], np.zeros((3, 2)))
    np.testing.assert_allclose(found[0, :, 0], [0.5**0.5, -(0.5**0.5)], rtol=1e-3)
    assert not found[1:].any() and not found[0, 1, 1:].any() and steps.rows[1] == []
    assert steps.metrics["steps/frac_zero_std"] == pytest.approx(2 / 3) and steps.metrics["steps/mean_count"] == 1.0


def test_a_run_with_process_supervision(model, tmp_path):
    """Steps end at the digit 1; the tokens after the last step that is better learn nothing."""
    run, _ = run_all(settings(model, tmp_path, advantage=DIGITS, run={"steps": 3, "samples": 8}, grpo={"beta": 0.0}))
    rows = read_jsonl(run.workdir.path / "metrics.jsonl")[1:]
    names = {"steps/reward", "steps/reward_std", "steps/mean_count", "steps/frac_zero_std", "reward", "loss"}
    assert all(np.isfinite([row[name] for name in names]).all() for row in rows)
    assert [row["compilations"] for row in rows[1:]] == [0, 0] and {row["reward_errors"] for row in rows} == {0}
    samples = read_jsonl(run.workdir.path / "samples.jsonl")
    assert len(samples) == 24
    for number, row in enumerate(rows):
        own = samples[8 * number : 8 * number + 8]
        worth = [[float(part.strip()[0].isdigit()) for part in s["completion"].split("1") if part.strip()] for s in own]
        assert [s["steps"] for s in own] == worth
        flat = [score for scores in worth for score in scores or [0.0]]
        assert row["steps/reward"] == pytest.approx(np.mean(flat)) and row["steps/mean_count"] == len(flat) / 8
        for group in (own[:4], own[4:]):
            each = np.array([score for s in group for score in s["steps"] or [0.0]])
            spread = each.std(ddof=1)
            for s in group:  # the first token's advantage is the sum of all steps'
                z = [(score - each.mean()) / (spread + 1e-4) if spread else 0.0 for score in s["steps"] or [0.0]]
                assert s["advantage"][0] == pytest.approx(sum(z), abs=2e-3)
                assert len(s["advantage"]) == len(s["tokens"])


def test_a_step_reward_that_fails_is_counted(model, tmp_path, caplog):
    some = Process("tests.experiments.rewards.digit_steps_of_some", marker="1")
    run, _ = run_all(settings(model, tmp_path, advantage=some, run={"steps": 2}, grpo={"beta": 0.0}))
    rows = read_jsonl(run.workdir.path / "metrics.jsonl")[1:]
    assert all(0 < row["reward_errors"] < 8 for row in rows)
    said = [record.message for record in caplog.records if "step reward" in record.message]
    assert len(said) == 1 and "ValueError: lower case" in said[0] and "\n" not in said[0]


def test_a_demonstration_is_a_member_of_its_group():
    """LUFFY: rewards 0, 0 and the demonstration's 1; mean 1/3."""
    run = byte_run(CentredAdvantage(), demonstrations=OffPolicySettings())
    drawn = Drawn([], Rollout(None, None, bytewise([["a", "b"]], 3)), np.zeros((1, 2), np.float32), {}, None, {}, [])
    drawn = drawn._replace(components={"correct": drawn.rewards_BG})
    np.testing.assert_allclose(compare(run, drawn, {}), [[-1 / 3, -1 / 3, 2 / 3]], rtol=1e-6)


def test_a_run_with_demonstrations_in_the_groups(model, tmp_path):
    """Their tokens become likelier; those of the supervised mix-in are not in the same metric."""
    made = settings(
        model,
        tmp_path,
        advantage=GroupAdvantage(),
        demonstrations=OffPolicySettings(reward=3.0),
        grpo={"beta": 0.0},
        run={"steps": 12},
    )
    run, _ = run_all(
        dataclasses.replace(made, task=ArithmeticConfig(operands=(0, 1), train=2, heldout=2, template="{expression}="))
    )
    rows = read_jsonl(run.workdir.path / "metrics.jsonl")[1:]
    assert all("sft_loss" not in row and np.isfinite(row["loss"]) for row in rows)
    assert rows[0]["off_policy_loss"] < 0 and [row["compilations"] for row in rows[1:]] == [0] * 11
    losses = [row["off_policy_loss"] for row in rows]
    assert np.mean(losses[-3:]) < 1.5 * np.mean(losses[:3]), losses


REFUSED = {
    "resampling.kind 'dynamic'": {"advantage": DIGITS, "resampling": Dynamic()},
    "grpo.kl_place 'reward'": {"advantage": DIGITS, "grpo": {"kl": "k1", "kl_place": "reward", "beta": 0.1}},
    "resampling.kind 'growing' makes": {"advantage": DIGITS, "resampling": Growing()},
    "advantage.kind 'process' with": {"advantage": DIGITS, "demonstrations": OffPolicySettings()},
    "advantage.kind 'zvp' with": {"advantage": Zvp(), "demonstrations": OffPolicySettings()},
    "resampling.kind 'growing' is": {"resampling": Growing(), "demonstrations": OffPolicySettings()},
}


@pytest.mark.parametrize("words", REFUSED)
def test_sections_that_contradict_each_other(words):
    with pytest.raises(UserError, match=words):
        settings(NOBODY, NOBODY, **REFUSED[words])


def test_constants_without_a_meaning():
    for make in (lambda: Process(marker=""), lambda: Process(outcome=float("nan"))):
        with pytest.raises(UserError, match=r"advantage\.marker"):
            make()
    with pytest.raises(UserError, match=r"demonstrations\.gamma is 0"):
        OffPolicySettings(gamma=0.0)
    assert not DemonstrationSettings().used and DemonstrationSettings(0.1).used and OffPolicySettings().used
    with pytest.raises(UserError, match="does not ask for steps"):
        supervision.step_reward(Process("tests.experiments.rewards.digits"), arithmetic_task(ArithmeticConfig()))
