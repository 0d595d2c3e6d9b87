"""``train-small``: a tiny run of Kuhn, killed and gone on with, and what it leaves; and what a step does."""

import dataclasses
import json
import types

import numpy as np
import pytest

from experiments.command import load_config
from experiments.configdict import as_config, from_config
from experiments.poker import small_games_step
from experiments.poker.small_games import SMALL_GAMES
from experiments.poker.small_games_player import open_small_game_policy
from experiments.poker.small_games_settings import (
    EstimateSettings,
    LeagueSettings,
    MagnetSettings,
    SmallGamesExperiment,
    SmallRunSettings,
)
from experiments.settings import ModelSettings
from experiments.sft.settings import ScratchSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.mirror_objective import MirrorConfig
from lqlm.errors import UserError
from lqlm.io.metrics import read_jsonl
from lqlm.optim.chains import OptimConfig
from lqlm.poker.arena.game_tree import game_tree, table_of
from lqlm.poker.arena.small_games import exploitability, uniform
from lqlm.poker.arena.values import action_values, average_policy
from tests.experiments.conftest import run_all, run_killed
from tests.experiments.test_resume import values
from tests.experiments.tiny_model import save_model


def tiny(workdir, **changes):
    """Kuhn by a model of two small layers, against a league, in minibatches of two parts."""
    run = SmallRunSettings(
        steps=30, updates=2, rows=8, micro_batches=2, eval_every=15, checkpoint_every=4, reference=30, logprob_chunk=64
    )
    settings = SmallGamesExperiment(
        workdir=str(workdir),
        game="kuhn",
        rules=False,
        model=ScratchSettings(vocab_size=300, layers=2, width=32, ffn=48, kv_heads=4, max_positions=96),
        mirror=MirrorConfig(legal=0.1),
        magnet=MagnetSettings(0.5, 0.1),
        league=LeagueSettings("draw", share=0.25, every=2, members=3),
        optim=OptimConfig(learning_rate=3e-3, paging="none"),
        run=run,
    )
    return dataclasses.replace(settings, **changes)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    settings = tiny(tmp_path_factory.mktemp("small") / "alone")
    return settings, run_all(settings, SMALL_GAMES)


def test_killed_it_ends_as_if_left_alone(alone, tmp_path):
    """At a step behind its last checkpoint, so that lines are taken back and the league is as it was."""
    settings, (run, _) = alone
    again, folder = dataclasses.replace(settings, workdir=str(tmp_path)), tmp_path
    run_killed(again, SMALL_GAMES, 6)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    run_all(again, SMALL_GAMES)
    left = run.workdir.path
    assert values(folder, "metrics.jsonl") == values(left, "metrics.jsonl")
    for name in ("model/model.safetensors", "policies.json"):
        assert (folder / name).read_bytes() == (left / name).read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in left.iterdir())


def test_what_a_run_leaves(alone):
    settings, (run, state) = alone
    rows, folder = values(run.workdir.path, "metrics.jsonl"), run.workdir.path
    assert [row["step"] for row in rows] == list(range(31))
    assert all(row["compilations"] == 0 for row in read_jsonl(folder / "metrics.jsonl")[2:])
    summary, found = (json.loads((folder / name).read_text()) for name in ("summary.json", "policies.json"))
    assert summary["compilations_after_first_step"] == 0 and (folder / "curves.png").stat().st_size > 10_000
    assert rows[-1]["eval/exploitability"] == summary["after"]["eval/exploitability"]
    played = open_small_game_policy("kuhn", ModelSettings(str(folder / "model"), quantize=False), rules=settings.rules)
    assert exploitability("kuhn", played) == pytest.approx(found["last"]["exploitability"], abs=1e-5)
    now = small_games_step.table(run.setup, state)
    np.testing.assert_allclose(table_of(run.setup.tree, played), now.policy_SA, atol=1e-5)
    assert len(found["policies"]) == 12 and found["most that can be won"]["always-calls"] == pytest.approx(1 / 3)
    assert rows[0]["eval/against/cfr+"] < 0 < rows[-1]["eval/legal"]


def test_learning_lowers_exploitability(alone):
    _, (run, _) = alone
    rows = values(run.workdir.path, "metrics.jsonl")
    before, after = rows[0], rows[-1]
    assert after["eval/exploitability"] < 0.8 * before["eval/exploitability"]
    assert after["eval/average/exploitability"] < 0.8 * before["eval/exploitability"]
    assert after["eval/against/cfr+"] > before["eval/against/cfr+"] and after["eval/legal"] > before["eval/legal"]
    assert rows[-1]["alpha"] == pytest.approx(0.5 * 0.2 ** (29 / 30))


def random_tables(tree, count):
    rng = np.random.default_rng(0)
    draws = np.where(tree.legal_SA, rng.gamma(1.0, 1.0, (count, *tree.legal_SA.shape)), 0.0)
    return draws / draws.sum(axis=2, keepdims=True)


def test_the_average_and_the_league():
    tree, history, league = game_tree("kuhn"), {}, LeagueSettings("draw", share=0.25, every=1, members=3)
    tables = random_tables(tree, 5)
    first = small_games_step.opponent(tree, league, history, tables[0], 0, seed=0)
    np.testing.assert_array_equal(first, tables[0])
    for step, table in enumerate(tables):
        small_games_step.remember(tree, league, history, table, step)
    history = json.loads(json.dumps(history))  # as a checkpoint has it
    np.testing.assert_array_equal(history["members"], tables[[0, 3, 4]])
    mean = average_policy(tree, list(tables), [1, 2, 3, 4, 5])
    np.testing.assert_allclose(small_games_step.average(tree, history), mean)
    met = {small_games_step.opponent(tree, league, history, tables[1], step, 0).tobytes() for step in range(30)}
    assert met == {average_policy(tree, [tables[1], tables[i]], [0.75, 0.25]).tobytes() for i in (0, 3, 4)}
    against = small_games_step.opponent(tree, LeagueSettings("mean"), history, tables[1], 9, seed=0)
    np.testing.assert_allclose(against, mean)


@pytest.mark.parametrize("kind", ["grpo", "reinforce"])
def test_sampled_values_only_know_what_was_drawn(kind):
    tree = game_tree("kuhn")
    policy = table_of(tree, uniform)
    settings = SmallGamesExperiment(game="kuhn", estimate=EstimateSettings(kind, group=400))
    setup = types.SimpleNamespace(tree=tree, settings=settings)
    now = small_games_step.Table(policy, np.log(policy, where=policy > 0, out=np.zeros_like(policy)), policy)
    found, weights = small_games_step.targets(setup, now, policy, np.random.default_rng(0))
    exact = action_values(tree, policy).values_SA
    centred = exact - (exact * policy).sum(axis=1, keepdims=True)
    if kind == "grpo":
        centred /= np.abs(centred).max(axis=1, keepdims=True)  # two answers, equally likely: z-scores are 1 and -1
    np.testing.assert_allclose(found, centred, atol=0.35)
    assert np.mean(np.abs(found - centred)) < 0.1
    np.testing.assert_array_equal(weights, 1.0)


def test_weights_by_reach_sum_to_the_decisions_of_a_hand():
    tree = game_tree("kuhn")
    policy = table_of(tree, uniform)
    settings = SmallGamesExperiment(game="kuhn", estimate=EstimateSettings(weights="reach"))
    now = small_games_step.Table(policy, policy, policy)
    setup = types.SimpleNamespace(tree=tree, settings=settings)
    weights = small_games_step.targets(setup, now, policy, np.random.default_rng(0))[1]
    assert weights.sum() == pytest.approx(2.25)  # two decisions, and a third in half of the hands that begin with check


def test_minibatches_are_whole_passes():
    setup = types.SimpleNamespace(tree=game_tree("kuhn"), rows=8, settings=tiny("nowhere"))
    setup.settings = tiny("nowhere", run=SmallRunSettings(updates=3, rows=8))
    found = list(small_games_step.minibatches(setup, 4))
    assert [len(rows) for rows in found] == [8, 8, 8]
    assert sorted(np.concatenate(found)[:12]) == list(range(12))
    assert [r.tolist() for r in small_games_step.minibatches(setup, 4)] == [r.tolist() for r in found]


@pytest.mark.parametrize("game", ["leduc", "kuhn"])
def test_the_config(game):
    config = load_config(f"configs/poker_leduc.py:{game}")
    settings = from_config(SmallGamesExperiment, config)
    assert settings.game == game and from_config(SmallGamesExperiment, as_config(settings)) == settings


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: tiny("x", adapter=LoraConfig()), "nothing to adapt"),
        (lambda: tiny("x", mesh="data=2"), "mesh is 'data=2'"),
        (lambda: LeagueSettings(share=0.0), "share 0.0"),
        (lambda: MagnetSettings(first=0.0), "magnet: first 0.0"),
        (lambda: EstimateSettings(group=1), "estimate.group is 1"),
        (lambda: SmallRunSettings(rows=7, micro_batches=2), "does not divide run.rows 7"),
        (lambda: SmallRunSettings(patience=2), "run.patience"),
        (lambda: SMALL_GAMES.build(tiny("x", run=SmallRunSettings(rows=13))), "kuhn has 12 states"),
        (lambda: SMALL_GAMES.build(tiny("x", run=SmallRunSettings(micro_batches=5))), "does not divide the 12"),
    ],
)
def test_what_has_no_meaning_is_refused(change, said):
    with pytest.raises(UserError, match=said):
        change()


def test_a_model_in_four_bits_with_an_adapter(tmp_path):
    model = save_model(tmp_path / "base", max_position_embeddings=256, num_hidden_layers=1)
    run = SmallRunSettings(steps=2, rows=4, eval_every=0, reference=2)
    settings = tiny(tmp_path / "run", model=ModelSettings(str(model)), adapter=LoraConfig(rank=4, alpha=8.0), run=run)
    left, state = run_all(settings, SMALL_GAMES)
    played = open_small_game_policy("kuhn", settings.model, str(tmp_path / "run/adapter"), rules=False)
    now = small_games_step.table(left.setup, state).policy_SA
    np.testing.assert_allclose(table_of(left.setup.tree, played), now, atol=1e-4)
    assert int(state.step) == 2
