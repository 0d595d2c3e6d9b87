"""Draws and outs as a player counts them, and pot odds."""

import pytest

from lqlm.errors import UserError
from lqlm.poker.cards import cards, text
from lqlm.poker.draws import find_draws, pot_odds


@pytest.mark.parametrize(
    ("hole", "board", "names", "outs"),
    [
        ("Ah Kh", "Qh 7h 2c", ("flush draw", "overcards"), {"pair": 6, "flush": 9}),
        ("9c 8d", "7h 6s 2c", ("open-ended straight draw", "overcards"), {"pair": 6, "straight": 8}),
        ("9c 8d", "7h 5s 2c Kd", ("gutshot",), {"pair": 6, "straight": 4}),
        ("9c 7d", "8h 5s Jc 2d", ("open-ended straight draw",), {"pair": 6, "straight": 8}),  # double gutshot: 6, T
        ("Jh Th", "9h 8h 2c", ("flush draw", "open-ended straight draw", "overcards"), None),
        ("7c 7d", "Ah Ks 2c", (), {"three of a kind": 2}),
        ("7c 7d", "7h Ks 2c", (), {"full house": 6, "four of a kind": 1}),
        ("Ah 2h", "Kh 9c 5d", ("backdoor flush draw",), {"pair": 6}),
        ("3c 2d", "Kh Qs Jd Tc", (), {"pair": 6}),  # an ace or a nine gives everyone the straight
        ("Ac Kc", "2c 3c 4c", (), {"straight flush": 1}),
    ],
)
def test_draws_as_a_player_counts_them(hole, board, names, outs):
    found = find_draws(cards(hole), cards(board))
    assert found.names == names
    counts = {name: len(those) for name, those in found.outs.items()}
    if outs is not None:
        assert counts == outs
    assert found.count == sum(counts.values())


def test_outs_are_the_cards():
    found = find_draws(cards("9c 8d"), cards("7h 6s 2c"))
    assert text(found.outs["straight"]).split() == ["5c", "5d", "5h", "5s", "Tc", "Td", "Th", "Ts"]


def test_bad_input():
    with pytest.raises(UserError, match="2 on a board of 3 or 4"):
        find_draws(cards("AcKc"), ())
    with pytest.raises(UserError, match="there twice"):
        find_draws(cards("AcKc"), cards("Ac2d3h"))
    with pytest.raises(UserError, match="pot odds"):
        pot_odds(-1, 3)
    assert pot_odds(0, 10) == 0
