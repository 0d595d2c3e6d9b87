import dataclasses
import json

import numpy as np
import pytest
from sklearn import metrics

from experiments.poker.__main__ import dispatch
from lqlm.errors import UserError
from lqlm.poker import cards
from lqlm.poker.arena.agreement import (
    agreement,
    best_power,
    boosted_sizes,
    boosted_trees,
    frequencies,
    macro_f1,
    majority,
    prior_corrected,
)
from lqlm.poker.arena.bots import EquityBot, RandomBot
from lqlm.poker.arena.features import CARDS, CLASSES, EQUITY, PUBLIC, Known, decision_table, joined
from lqlm.poker.arena.rules import Rules
from lqlm.poker.arena.table import deal, play_hand
from lqlm.poker.codec import to_json
from lqlm.poker.record import known_cards
from tests.experiments.tiny_model import save_model


def rank_equity(hole, board):
    """A stand-in that costs nothing."""
    return sum(card // 4 for card in hole) / 24


@dataclasses.dataclass(frozen=True)
class ByRank:
    """Folds low cards, raises high ones: what trees must find out from the cards."""

    def act(self, observation, rng):
        value = rank_equity(observation.cards, ())
        menu = RandomBot().menu(observation)
        return menu[0] if value < 0.4 else menu[-2] if value > 0.6 else menu[min(1, len(menu) - 1)]


def known(count, agent, seed=0, players=3):
    hands = []
    for number in range(count):
        rngs = [np.random.default_rng([seed, number, at]) for at in range(players)]
        played = play_hand(Rules(), [agent] * players, deal(np.random.default_rng([seed, number]), players, 2), rngs)
        hands.append(Known(f"session {number % 8}", played.hand, known_cards(played.hand)))
    return hands


@pytest.fixture(scope="module")
def table():
    return decision_table(known(120, ByRank()), rank_equity)


def some(table, rows):
    fields = ("features", "labels", "legal", "sessions", "sizes")
    return dataclasses.replace(table, **{name: getattr(table, name)[rows] for name in fields})


def random_predictions(table, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(len(CLASSES)), len(table.labels))


def test_the_table_has_every_decision_and_its_legal_actions(table):
    assert table.names == (*PUBLIC, *CARDS, *EQUITY) and np.isfinite(table.features).all()
    assert table.legal[np.arange(len(table.labels)), table.labels].all()
    raises = np.isin(table.labels, [CLASSES.index("bet"), CLASSES.index("raise")])
    assert (np.isfinite(table.sizes) == raises).all() and (table.sizes[raises] > 0).all()


def test_features_of_a_known_decision():
    hand = known(1, RandomBot())[0].hand
    first = decision_table([Known("s", hand, {3: cards.cards("AsKs")})], rank_equity)
    row = dict(zip(first.names, first.features[0]))
    expected = {
        "street": 0,
        "live": 3,
        "seats": 3,
        "pot": 1.5,
        "call": 1,
        "pot odds": 0.4,
        "stack": 100,
        "position": 2 / 3,
    }
    expected |= {"own bet": 0, "to act after": 0, "high": 12, "low": 11, "suited": 1, "pair": 0, "own suit": 2}
    expected |= {"equity against one": 23 / 24, "equity against all": (23 / 24) ** 2}
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    other = decision_table([Known("s", hand, {3: cards.cards("2d7h")})], rank_equity)
    np.testing.assert_array_equal(first.columns("public"), other.columns("public"))


def test_measures_are_those_of_scikit_learn(table):
    given = random_predictions(table)
    found = agreement(given, table, np.random.default_rng(0), samples=50)
    guess = given.argmax(1)
    assert found.measures["accuracy"].value == pytest.approx(metrics.accuracy_score(table.labels, guess))
    assert found.measures["macro F1"].value == pytest.approx(metrics.f1_score(table.labels, guess, average="macro"))
    assert found.measures["log loss"].value == pytest.approx(metrics.log_loss(table.labels, given, labels=range(5)))
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(table.labels, guess, labels=range(5)))
    assert "sizing error" not in found.measures and found.sessions == 8
    for measure in found.measures.values():
        assert measure.low <= measure.value <= measure.high or measure.high - measure.low < 0.2


def test_calibration_by_hand(table):
    """Sure by 0.75 and right in half of the cases: off by 0.25."""
    four = some(table, np.arange(4))
    given = np.full((4, 5), 0.0625)
    wrong = (four.labels + 1) % 5
    given[np.arange(4), np.where(np.arange(4) < 2, four.labels, wrong)] = 0.75
    found = agreement(given, four, np.random.default_rng(0), samples=10)
    assert found.measures["calibration error"].value == pytest.approx(0.25)


def test_calibration_keeps_tenths_apart(table):
    """0.79 and right beside 0.81 and wrong: (0.21 + 0.81) / 2, not |0.8 - 0.5|."""
    two = some(table, np.arange(2))
    given = np.full((2, 5), [[0.21 / 4], [0.19 / 4]])
    given[[0, 1], [two.labels[0], (two.labels[1] + 1) % 5]] = 0.79, 0.81
    found = agreement(given, two, np.random.default_rng(0), samples=10)
    assert found.measures["calibration error"].value == pytest.approx(0.51)


def test_sizing_error_is_in_factors_of_two(table):
    sizes = np.where(np.isfinite(table.sizes), 2 * table.sizes, 1.0)
    found = agreement(random_predictions(table), table, np.random.default_rng(0), sizes, samples=20)
    assert found.measures["sizing error"].value == pytest.approx(1)
    assert agreement(random_predictions(table), table, np.random.default_rng(0), sizes / 2, 20).measures[
        "sizing error"
    ].value == pytest.approx(0, abs=0.01)


def test_intervals_are_wider_where_sessions_differ(table):
    """Predictions that are right in half of the sessions."""
    right = np.isin(table.sessions, [f"session {i}" for i in range(4)])
    labels = np.where(right, table.labels, (table.labels + 1) % 5)
    measure = agreement(np.eye(5)[labels], table, np.random.default_rng(0), samples=300).measures["accuracy"]
    one_by_one = dataclasses.replace(table, sessions=np.arange(len(table.labels)).astype(str))
    alone = agreement(np.eye(5)[labels], one_by_one, np.random.default_rng(0), samples=300).measures["accuracy"]
    assert measure.high - measure.low > 3 * (alone.high - alone.low)


def test_the_majority_knows_what_is_legal(table):
    given = majority(table, table)
    assert (given[~table.legal] == 0).all()
    for legal in np.unique(table.legal, axis=0):
        rows = (table.legal == legal).all(1)
        frequencies = np.array([np.mean(table.labels[rows] == label) for label in range(5)])
        np.testing.assert_allclose(given[rows], np.tile(frequencies, (rows.sum(), 1)))


def test_trees_find_the_cards_and_the_sizes(table):
    train, test = (
        some(table, np.isin(table.sessions, [f"session {i}" for i in part])) for part in ((0, 1, 2, 3, 4, 5), (6, 7))
    )
    scores = [
        macro_f1(agreement(given, test, np.random.default_rng(0), samples=5).confusion)
        for given in (majority(train, test), boosted_trees(train, test, ("public", "cards", "equity"), rounds=20))
    ]
    assert scores[1] > scores[0] + 0.2
    sizes = boosted_sizes(train, test, ("public", "cards"), rounds=5)
    assert sizes.shape == test.labels.shape and (sizes > 0).all()


def test_predictions_that_do_not_fit_are_named(table):
    with pytest.raises(UserError, match="decisions of 5 actions"):
        agreement(np.ones((2, 5)) / 5, table, np.random.default_rng(0))
    with pytest.raises(UserError, match=r"row 3: .* is no distribution"):
        bad = np.full((len(table.labels), 5), 0.2)
        bad[3] = 1
        agreement(bad, table, np.random.default_rng(0))


def write_selected(folder):
    folder.mkdir()
    for part, count, seed in (("train", 40, 0), ("test", 16, 1)):
        rows = [
            {
                "session": item.session,
                "known": {str(seat): {"cards": cards.text(held, "")} for seat, held in item.cards.items()},
                "hand": to_json(item.hand),
            }
            for item in known(count, EquityBot(samples=8), seed)
        ]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_command_writes_a_table_numbers_and_plots_and_goes_on_where_it_was(tmp_path, capsys):
    write_selected(tmp_path / "selected")
    out = tmp_path / "out"
    command = ["evaluate", "--out", str(out), "--heroes", "call", "--opponents", "random", "folds-too-much"]
    command += ["--hands", "12", "--seats", "2", "3", "--iterations", "5", "--samples", "8", "--rounds", "2"]
    command += ["--selected", str(tmp_path / "selected")]
    assert dispatch(command) == 0
    found = json.loads((out / "evaluate.json").read_text())
    assert [row["hands"] for row in found["matches"]] == [12] * 4 and len(found["small games"]) == 6
    assert found["agreement"][0]["predictor"] == "majority" and len(found["agreement"]) == 4
    printed = capsys.readouterr().out
    assert "call - 2 x random" in printed and "2.37361" in printed and "trees: public + cards" in printed
    assert {"matches.png", "small_games.png", "agreement.png", "table.txt"} <= {path.name for path in out.iterdir()}
    before = {path: path.stat().st_mtime_ns for path in (out / "matches").iterdir()}
    assert dispatch([*command, "--seed", "0"]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (out / "matches").iterdir()}
    assert json.loads((out / "evaluate.json").read_text()) == found


def test_models_are_judged_on_the_same_decisions(tmp_path):
    write_selected(tmp_path / "selected")
    model = save_model(tmp_path / "model", max_position_embeddings=512, num_hidden_layers=1)
    command = ["evaluate", "--out", str(tmp_path / "out"), "--models", f"small={model}", "--opponents"]
    command += ["--iterations", "0", "--samples", "8", "--rounds", "2", "--selected", str(tmp_path / "selected")]
    assert dispatch(command) == 0
    rows = json.loads((tmp_path / "out" / "evaluate.json").read_text())["agreement"]
    assert [row["predictor"] for row in rows][-1] == "small" and len(rows) == 5
    assert rows[-1]["decisions"] == rows[0]["decisions"] and 0 < rows[-1]["accuracy"][0] < 1
    (kept,) = (tmp_path / "out" / "predictions").iterdir()
    before = kept.stat().st_mtime_ns
    assert dispatch(command) == 0 and kept.stat().st_mtime_ns == before


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert dispatch(["evaluate", "--out", str(tmp_path), "--heroes", "nobody"]) == 2
    assert "no bot or model 'nobody'; it is one of random, call" in capsys.readouterr().err
    command = ["evaluate", "--out", str(tmp_path), "--heroes", "--iterations", "0", "--selected", str(tmp_path)]
    assert dispatch(command) == 2
    assert "train.jsonl is missing" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # nothing was played for it


def test_a_prior_correction_weighs_rare_actions_more(table):
    given, shares = random_predictions(table), frequencies(table)
    np.testing.assert_allclose(shares.sum(), 1)
    np.testing.assert_allclose(prior_corrected(given, shares, 0.0), given)
    found = prior_corrected(given, shares, 0.5)
    np.testing.assert_allclose(found.sum(1), 1)
    odds = (found[:, 0] / found[:, 4]) / (given[:, 0] / given[:, 4])
    np.testing.assert_allclose(odds, (shares[4] / shares[0]) ** 0.5)
    impossible = prior_corrected(np.where(table.legal, given, 0.0) + 0.0, shares, 1.0)
    assert (impossible[~table.legal] == 0).all()  # what is not legal stays so


def test_the_power_is_the_best_of_those_tried_for_macro_f1(table):
    """Predictions that lean to the frequent actions as those of a model do; scikit-learn's F1 is the judge."""
    shares = frequencies(table)
    truth = np.eye(len(CLASSES))[table.labels]
    leaning = (0.4 * truth + random_predictions(table)) * shares
    leaning /= leaning.sum(1, keepdims=True)
    power = best_power(leaning, table, shares)

    def judged(power):
        chosen = prior_corrected(leaning, shares, power).argmax(1)
        return metrics.f1_score(table.labels, chosen, average="macro")

    tried = {step / 20: judged(step / 20) for step in range(21)}
    assert tried[power] == max(tried.values()) > tried[0.0]
    assert best_power(truth, table, shares) == 0.0  # nothing to gain: nothing is changed


def test_tables_below_each_other(table):
    both = joined(some(table, slice(0, 5)), some(table, slice(5, 12)))
    assert both.names == table.names
    np.testing.assert_array_equal(both.features, table.features[:12])
    np.testing.assert_array_equal(both.labels, table.labels[:12])
    np.testing.assert_array_equal(both.sessions, table.sessions[:12])
