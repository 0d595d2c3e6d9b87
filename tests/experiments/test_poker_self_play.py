"""``self-play``: a tiny run at a table of three, killed and gone on with; what a step values, and whom it plays."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.poker import self_play_step
from experiments.poker.ask import AskSettings
from experiments.poker.self_play import SELF_PLAY
from experiments.poker.self_play_settings import (
    LeagueSettings,
    MatchSettings,
    PullSettings,
    SelfPlayExperiment,
    SelfPlayRun,
    TableSettings,
)
from experiments.poker.self_play_setup import build
from experiments.settings import ModelSettings
from lqlm.adapters.configs import FullConfig, LoraConfig
from lqlm.algorithms.mirror import answer_logp
from lqlm.errors import UserError
from lqlm.io.metrics import read_jsonl
from lqlm.io.peft import load_peft
from lqlm.optim.chains import OptimConfig
from lqlm.poker.arena.bots import BOTS
from lqlm.poker.arena.playout import PlayoutConfig, play_on
from lqlm.poker.policy import Shapes
from lqlm.poker.record import ActKind, Game
from tests.experiments.conftest import run_all, run_killed
from tests.experiments.test_resume import values
from tests.experiments.tiny_model import save_model

STEPS = 5


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A random model of characters that can hold a prompt."""
    folder = tmp_path_factory.mktemp("chars") / "model"
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "max_position_embeddings": 320}
    return save_model(folder, **sizes)


def tiny(source, workdir, **changes):
    run = SelfPlayRun(steps=STEPS, rows=4, updates=2, micro_batches=2, eval_every=0, checkpoint_every=2, samples=0)
    settings = SelfPlayExperiment(
        workdir=str(workdir),
        model=ModelSettings(source=str(source), quantize=False),
        adapter=LoraConfig(rank=2, alpha=4.0),
        ask=AskSettings(template="terse"),
        table=TableSettings(seats=3, hands=3, playouts=2),
        league=LeagueSettings(selves=1, members=2, every=2, bots=("call",)),
        optim=OptimConfig(learning_rate=0.02, paging="none"),
        shapes=Shapes(rows=16, prompt=64, answers=4, tokens=16),
        match=MatchSettings(opponents=("call",), hands=6),
        run=run,
    )
    return dataclasses.replace(settings, **changes)


@pytest.fixture(scope="module")
def alone(source, tmp_path_factory):
    settings = tiny(source, tmp_path_factory.mktemp("self_play") / "alone")
    return settings, run_all(settings, SELF_PLAY)


def test_killed_it_ends_as_if_left_alone(alone, tmp_path):
    """At a step behind its last checkpoint, with policies of the league on disk."""
    settings, (run, _) = alone
    again = dataclasses.replace(settings, workdir=str(tmp_path))
    run_killed(again, SELF_PLAY, 3)
    run_all(again, SELF_PLAY)
    left = run.workdir.path
    assert values(tmp_path, "metrics.jsonl") == values(left, "metrics.jsonl")
    adapter = "adapter/adapter_model.safetensors"
    assert (tmp_path / adapter).read_bytes() == (left / adapter).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in left.iterdir())


def test_what_a_run_leaves(alone):
    _, (run, state) = alone
    folder = run.workdir.path
    assert run.history["members"] == [0, 4]  # the first one stays, the others go round
    assert sorted(p.name for p in (folder / "league").iterdir()) == ["000000", "000002", "000004"]
    first, _ = load_peft(folder / "league/000000", run.setup.model.config)
    last, _ = load_peft(folder / "adapter", run.setup.model.config)
    jax.tree.map(np.testing.assert_array_equal, first, run.setup.first)
    jax.tree.map(np.testing.assert_array_equal, last, jax.device_get(state.adapters))
    rows = read_jsonl(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    for row in rows[1:]:
        assert 0 < row["play/learned_from"] <= 4 and row["values/spread"] >= 0 and row["entropy"] > 0
    for row in (rows[0], rows[-1]):
        assert row["eval/mean"] == row["eval/against/call"] and row["eval/against/call/half"] >= 0
    assert rows[0]["eval/against/start"] == 0  # it is the same policy, which wins exactly nothing


def test_no_program_is_made_late(alone):
    run, _ = alone[1]
    assert run.compiled_late <= 3  # a prompt, an answer or a group that is longer than any before


def asked(source, tmp_path, **changes):
    """A setup, the policy that it begins with, and the decisions of a step."""
    settings = tiny(source, tmp_path, **changes)
    setup = build(settings)
    me = setup.agent(setup.first)
    others = [BOTS["tight"], me]
    hands = list(self_play_step.play_hands(setup.rules, self_play_step.seatings(setup, me, others, 1)))
    return setup, me, others, hands, self_play_step.decisions(settings, me, hands, 1)


def test_values_are_those_of_playing_on_one_by_one(source, tmp_path):
    setup, me, others, _, chosen = asked(source, tmp_path)
    assert len(chosen) == 4 and all(one.seen.cards for one in chosen)
    names = {seat.number: seat.player for one in chosen for seat in one.hand.seats if one.seen.seat == seat.number}
    assert set(names.values()) == {"Hero"}
    found = self_play_step.valued(setup.settings, chosen, me, others, 1)
    again = self_play_step.valued(setup.settings, chosen, me, others, 1)
    later = self_play_step.valued(setup.settings, chosen, me, others, 2)
    assert all(np.array_equal(*pair) for pair in zip(found, again))
    assert not all(np.array_equal(*pair) for pair in zip(found, later))
    seeds = np.random.default_rng([0, 1, self_play_step.PLAYOUTS]).integers(2**62, size=4).tolist()
    for (hand, seen, acts), won, seed in zip(chosen, found, seeds):
        config = PlayoutConfig(2, seed, logged=False, boards=64)
        np.testing.assert_allclose(won, play_on(hand, seen.index, acts, me, others, config).mean(1))
        assert all(worth == 0 for act, worth in zip(acts, won) if act.kind is ActKind.FOLD)


def test_the_batch_is_what_the_policy_says_of_its_menus(source, tmp_path):
    setup, me, _, _, chosen = asked(source, tmp_path)
    values = [np.arange(len(one.acts), dtype=float) * 7 for one in chosen[:3]]
    batch = self_play_step.whole_batch(setup, setup.first, chosen[:3], values, me)
    np.testing.assert_array_equal(batch.weights_B, [1, 1, 1, 0])
    mixed = me.act_many([one.seen for one in chosen[:3]], [None] * 3)
    for row, (one, says) in enumerate(zip(chosen, mixed)):
        count = len(one.acts)
        assert says.acts == one.acts and int(batch.mask_BA[row].sum()) == count
        chances = np.array(says.probabilities)
        np.testing.assert_allclose(np.exp(batch.old_logp_BA[row, :count]), chances, atol=1e-4)
        gains = np.clip((values[row] - chances @ values[row]) / 10.0, -3.0, 3.0)
        np.testing.assert_allclose(batch.values_BA[row, :count], gains, atol=1e-4)
    np.testing.assert_array_equal(batch.magnet_BA, batch.old_logp_BA)  # at the beginning
    moved = jax.tree.map(lambda x: x + 0.3, setup.first)
    later = self_play_step.whole_batch(setup, moved, chosen[:3], values, me)
    np.testing.assert_array_equal(later.magnet_BA, batch.magnet_BA)
    assert np.abs(later.old_logp_BA - batch.old_logp_BA).max() > 0.01
    uniform = dataclasses.replace(setup.settings, pull=PullSettings("uniform", 0.5))
    other = self_play_step.whole_batch(
        dataclasses.replace(setup, settings=uniform), setup.first, chosen[:3], values, me
    )
    np.testing.assert_array_equal(other.magnet_BA, answer_logp(jnp.zeros(batch.mask_BA.shape), batch.mask_BA))
    assert float(other.alpha) == 0.5


def test_what_is_told_of_the_hands(source, tmp_path):
    """The player who learns sits in each seat in turn, so that chips can be looked up by the number of the hand."""
    _, _, _, hands, chosen = asked(source, tmp_path, table=TableSettings(seats=3, hands=9, playouts=1))
    found = self_play_step.told(hands, chosen, [np.array([0.0, 5.0, -2.0]), np.array([1.0, 2.0])])
    won = [played.chips[number % 3] / 100 for number, played in enumerate(hands)]
    assert any(won) and found["play/big_blinds"] == pytest.approx(np.mean(won))
    assert found["play/decisions"] == sum(played.decisions[number % 3] for number, played in enumerate(hands))
    assert (found["play/learned_from"], found["values/spread"]) == (4.0, 4.0)


def test_an_update_moves_towards_what_wins(source, tmp_path):
    setup, me, _, _, chosen = asked(source, tmp_path)
    values = [np.where(np.arange(len(one.acts)) == 0, 30.0, 0.0) for one in chosen]
    batch = self_play_step.whole_batch(setup, setup.first, chosen, values, me)
    state = setup.state
    for step in range(4):
        state, _ = setup.functions.update(state, setup.model.base, batch, jax.random.key(step))
    after = answer_logp(setup.functions.scores(setup.model.base, state.adapters, batch), batch.mask_BA)
    assert (after[:, 0] > batch.old_logp_BA[:, 0]).all()


@pytest.mark.parametrize("game", ["holdem", "omaha"])
def test_whom_it_plays(source, tmp_path, game):
    league = LeagueSettings(selves=0, members=0, bots=("call", "tight"))
    table = TableSettings(game=game, seats=4, hands=8, playouts=1)
    setup, me, *_ = asked(source, tmp_path, league=league, table=table)
    run = types.SimpleNamespace(setup=setup, history={})
    others = self_play_step.league(run, me)
    assert others == [self_play_step.AGENTS["call"], self_play_step.AGENTS["tight"]]
    seated = list(self_play_step.seatings(setup, me, others, 0))
    assert [seating.names.index("Hero") for seating in seated] == [0, 1, 2, 3] * 2
    assert {id(agent) for seating in seated for agent in seating.agents} == {*map(id, others), id(me)}
    assert setup.rules.game is {"holdem": Game.HOLDEM, "omaha": Game.OMAHA}[game]
    assert len(seated[0].dealt.holes[0]) == {"holdem": 2, "omaha": 4}[game]
    later = list(self_play_step.seatings(setup, me, others, 1))
    assert not {seating.dealt for seating in seated} & {seating.dealt for seating in later}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (lambda: {"adapter": FullConfig()}, "over one base"),
        (lambda: {"ask": AskSettings(features=("habits",))}, "habits need the hands before"),
        (lambda: {"mesh": "data=2"}, "one device"),
        (lambda: {"table": TableSettings(seats=6, hands=5)}, "6 seats, 5 hands"),
        (lambda: {"table": TableSettings(playouts=0)}, "playouts 0"),
        (lambda: {"league": LeagueSettings(bots=("nobody",))}, "no bot 'nobody'"),
        (lambda: {"league": LeagueSettings(selves=0, members=0)}, "nobody sits there"),
        (lambda: {"league": LeagueSettings(members=1)}, "members 1"),
        (lambda: {"pull": PullSettings(alpha=-1.0)}, "pull.alpha is -1.0"),
        (lambda: {"match": MatchSettings(hands=2)}, "match.hands is 2"),
        (lambda: {"run": SelfPlayRun(rows=3, micro_batches=2)}, "does not divide run.rows 3"),
        (lambda: {"run": SelfPlayRun(updates=0)}, "run.updates is 0"),
    ],
)
def test_bad_settings_end_in_one_line(source, tmp_path, changes, words):
    with pytest.raises(UserError) as error:
        tiny(source, tmp_path, **changes())
    assert words in str(error.value) and "\n" not in str(error.value)
