import itertools

import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.poker.arena.bots import CallBot
from lqlm.poker.arena.language import (
    LanguageAgent,
    TextAgent,
    action_probabilities,
    small_game_answers,
    small_game_policy,
    small_game_prompt,
)
from lqlm.poker.arena.rules import Rules
from lqlm.poker.arena.small_games import (
    always_call,
    cfr_plus,
    expected_value,
    exploitability,
    information_states,
    uniform,
)
from lqlm.poker.arena.table import deal, play_hand
from lqlm.poker.record import ActKind


@pytest.mark.parametrize(
    ("game", "policy", "known"),
    [("kuhn", uniform, 0.9167 / 2), ("leduc", uniform, 2.374), ("leduc", always_call, 1.467)],
)
def test_exploitability_is_what_is_known(game, policy, known):
    assert exploitability(game, policy) == pytest.approx(known, abs=5e-4)


def kuhn_value(policies, cards, past=()):
    """The first player's chips, by the rules written down again."""
    bets = [1, 1]
    for i, word in enumerate(past):
        bets[i % 2] += word in ("bet", "call")
    if past[-2:] in (("check", "check"), ("bet", "call")):
        return bets[0] * (1 if cards[0] > cards[1] else -1)
    if past and past[-1] == "fold":
        return bets[1] if len(past) % 2 == 0 else -bets[0]
    player = len(past) % 2
    words = ("fold", "call") if past and past[-1] == "bet" else ("check", "bet")
    chances = policies[player](cards[player], past)
    return sum(p * kuhn_value(policies, cards, (*past, word)) for p, word in zip(chances, words))


def test_kuhn_by_hand():
    """Best response by going through all 64 pure strategies of a player."""
    deals = list(itertools.permutations(range(3), 2))

    def uniformly(card, past):
        return (0.5, 0.5)

    best = [-np.inf, -np.inf]
    for choices in itertools.product((0, 1), repeat=6):

        def pure(card, past, choices=choices):
            at = choices[2 * card + (bool(past) and past[-1] == "bet")]
            return (1 - at, at)

        first = np.mean([kuhn_value((pure, uniformly), cards) for cards in deals])
        second = -np.mean([kuhn_value((uniformly, pure), cards) for cards in deals])
        best = [max(best[0], first), max(best[1], second)]
    assert exploitability("kuhn", uniform) == pytest.approx(sum(best) / 2)


def test_cfr_plus_nears_the_equilibrium():
    found = [exploitability("leduc", cfr_plus("leduc", iterations)) for iterations in (5, 40)]
    assert found[1] < 0.06 < found[0]
    solved = cfr_plus("kuhn", 500)
    assert exploitability("kuhn", solved) < 1e-3
    assert expected_value("kuhn", solved, uniform) > 0.1


def test_expected_value_is_antisymmetric_and_bounded_by_the_best_response():
    won = expected_value("leduc", always_call, uniform)
    assert won == pytest.approx(-expected_value("leduc", uniform, always_call))
    assert abs(expected_value("leduc", uniform, uniform)) < 1e-12
    assert won <= exploitability("leduc", uniform)


def test_information_states_say_what_was_done():
    states = information_states("leduc")
    assert len(states) == 936 and len({small_game_prompt(state) for state in states}) == 288
    for state in (*states, *information_states("kuhn")):
        assert len(state.actions) == len(state.words) == len(small_game_answers(state))
        facing = any(past == "bet" for past in state.rounds[-1])
        assert ("fold" in state.words) == facing == ("check" not in state.words)


def test_a_policy_that_is_none_is_named():
    with pytest.raises(UserError, match=r"kuhn '0': .* is no distribution over check, bet"):
        exploitability("kuhn", lambda state: np.array([0.5, 0.6]))
    with pytest.raises(UserError, match="no small game 'go'"):
        information_states("go")


def test_a_models_scores_become_its_policy():
    def score(prompts, answers):
        return [np.array([0.0 if text in (" check.", " call.") else -1e9 for text in some]) for some in answers]

    assert exploitability("leduc", small_game_policy("leduc", score)) == pytest.approx(1.467, abs=5e-4)
    flat = small_game_policy("leduc", lambda prompts, answers: [np.zeros(len(some)) for some in answers])
    assert exploitability("leduc", flat) == pytest.approx(2.374, abs=5e-4)


def test_probabilities_of_actions():
    np.testing.assert_allclose(action_probabilities(np.array([-1e4, -1e4 + np.log(3)])), [0.25, 0.75])
    np.testing.assert_allclose(action_probabilities(np.array([-np.inf, -5.0])), [0, 1])
    np.testing.assert_allclose(action_probabilities(np.array([-np.inf, -np.inf])), [0.5, 0.5])
    np.testing.assert_allclose(action_probabilities(np.log([0.2, 0.8]), 0.5), [1 / 17, 16 / 17])


def test_a_model_sits_at_the_table():
    asked = []

    def score(prompts, answers):
        asked.append((prompts[0], answers[0]))
        return [np.array([0.0 if "raise" in text or "bet" in text else -1e9 for text in answers[0]])]

    rngs = [np.random.default_rng(i) for i in range(2)]
    played = play_hand(Rules(), [CallBot(), LanguageAgent(score)], deal(rngs[0], 2, 2), rngs)
    assert played.illegal == (0, 0) and played.hand.streets[0][0].kind is ActKind.RAISE
    prompt, answers = asked[0]
    assert prompt.startswith("You are an experienced gambler") and prompt.endswith(
        "{300, 600, 1000, 2000, 5000, 10000, all-in 10000}."
    )
    assert answers[:3] == ("You should fold.", "You should call.", "You should raise to 300.")
    assert answers[-1] == "You should go all-in."


@pytest.mark.parametrize(
    ("text", "first", "illegal"),
    [
        ("You should raise to 300.", (ActKind.RAISE, 300), False),
        ("You should raise to 110.", (ActKind.RAISE, 200), True),  # the least raise
        ("You should bet 300.", (ActKind.RAISE, 300), True),
        ("You should go all-in.", (ActKind.RAISE, 10_000), False),
        ("You should call.", (ActKind.CALL, 50), False),
        ("You should check.", (ActKind.FOLD, 0), True),
        ("You should fold.", (ActKind.FOLD, 0), False),
        ("What a hand!", (ActKind.FOLD, 0), True),
    ],
)
def test_a_written_answer_is_read_mapped_and_counted(text, first, illegal):
    rngs = [np.random.default_rng([i, 1]) for i in range(3)]
    model = TextAgent(lambda prompt: text if "PREFLOP" in prompt else "check")
    played = play_hand(Rules(), [CallBot(), model], deal(rngs[2], 2, 2), rngs[:2])
    act = played.hand.streets[0][0]
    assert (act.kind, act.amount) == first
    assert played.illegal == (0, int(illegal))


def test_all_in_is_the_call_where_the_stack_does_not_cover_the_bet():
    rngs = [np.random.default_rng([i, 1]) for i in range(3)]
    shoves = TextAgent(lambda prompt: "all-in")
    played = play_hand(Rules(), [shoves, shoves], deal(rngs[2], 2, 2), rngs[:2], stacks=[400, 9000])
    kinds = [(act.kind, act.amount, act.all_in) for act in played.hand.streets[0]]
    assert kinds == [(ActKind.RAISE, 9000, True), (ActKind.CALL, 300, True)] and played.illegal == (0, 0)
