"""The logs of real games: read, equal to their ground truth, and to the replay of pokerkit."""

import collections
import dataclasses
import pathlib
import tarfile

import pytest

from lqlm.poker import phh, phh_writer
from lqlm.poker.pokerstars import parse, render
from lqlm.poker.record import Shown, collected, known_cards, player_of
from lqlm.poker.replay import outcome
from lqlm.poker.stream import Read, Skipped, read_hands
from lqlm.poker.units import with_decimals
from tests.poker.referee import final_stacks, without_rake

DATA = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data" / "poker"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real logs in {DATA}")
SESSIONS = 6844  # hands of Pluribus


@pytest.fixture(scope="module")
def logs():
    return list(read_hands([DATA / "pokerstars"]))


@pytest.fixture(scope="module")
def truth():
    """(session, number) -> hand."""
    found = {}
    for item in read_hands([DATA / "pluribus" / "phh.tar.gz"]):
        assert isinstance(item, Read), str(item)
        session, number = item.file.split(":")[1].removesuffix(".phh").split("/")[-2:]
        found[session, int(number)] = item.hand
    return found


@pytest.fixture(scope="module")
def told(truth):
    """(session, number) -> the same hands from the texts."""
    numbers = collections.defaultdict(list)
    for session, number in sorted(truth):
        numbers[session].append(number)
    found, count = {}, collections.Counter()
    for item in read_hands([DATA / "pluribus" / "pokerstars_text.tar.gz"]):
        assert isinstance(item, Read), str(item)
        session = item.file.split(":")[1].removeprefix("pluribus_").removesuffix(".txt")
        found[session, numbers[session][count[session]]] = item.hand
        count[session] += 1
    return found


def essence(hand, decimals):
    """What both formats tell, by name of the player."""
    hand, name = with_decimals(hand, decimals), player_of(hand)
    return {
        "big blind": hand.big_blind,
        "stacks": {seat.player: seat.stack for seat in hand.seats},
        "posts": [(name[post.seat], post.kind, post.amount, post.all_in) for post in hand.posts],
        "acts": [[(name[a.seat], a.kind, a.amount, a.all_in) for a in acts] for acts in hand.streets],
        "boards": hand.boards,
        "won": {name[seat]: amount for seat, amount in collected(hand).items()},
        "final": {name[seat]: stack for seat, stack in outcome(hand).stacks.items()},
        "rake": hand.rake,
    }


def test_every_text_of_pluribus_equals_its_ground_truth(truth, told):
    assert len(truth) == len(told) == SESSIONS
    for key, hand in truth.items():
        text = told[key]
        assert essence(hand, 1) == essence(text, 3), key  # chips and dollars of 100 chips
        dealt = {player_of(hand)[seat]: set(held) for seat, held in known_cards(hand).items()}
        shown = {player_of(text)[r.seat]: set(r.cards) for r in text.results if isinstance(r, Shown)}
        assert all(dealt[player] == held for player, held in shown.items()), key
        names = {player_of(hand)[r.seat] for r in hand.results if isinstance(r, Shown)}
        assert names <= set(shown), key


def test_the_hands_of_pluribus_go_round(truth, told):
    for key in list(truth)[::12]:
        hand, text = truth[key], told[key]
        assert phh.parse(phh_writer.render(hand)) == hand, key
        assert parse(render(hand)) == dataclasses.replace(hand, site="PokerStars"), key
        assert parse(render(text)) == text, key
        assert phh.parse(phh_writer.render(text)) == text, key


def test_the_texts_of_pluribus_come_back_as_they_were():
    """Line by line, but for the zero before an hour, which the site does not write."""
    with tarfile.open(DATA / "pluribus" / "pokerstars_text.tar.gz") as archive:
        member = next(name for name in archive.getnames() if "pluribus_30" in name)
        text = archive.extractfile(member).read().decode()
    for one in text.strip().split("\n\n\n")[:200]:
        lines = render(parse(one)).splitlines()
        assert lines[1:] == one.splitlines()[1:], one
        assert lines[0] == one.splitlines()[0].replace(" 08:", " 8:").replace(" 09:", " 9:")


def test_pokerkit_ends_with_the_same_stacks_on_pluribus(truth):
    for key in list(truth)[::40]:
        stacks = final_stacks(with_decimals(truth[key], 1))
        ours = outcome(with_decimals(truth[key], 1)).stacks
        assert all(abs(ours[seat] - stack) <= 5 for seat, stack in stacks.items()), key  # half a chip


def test_every_hand_of_the_site_is_read_or_named(logs):
    """5 of 138: a log that was changed by hand, a cancelled hand, one that was cut, and text that is no hand."""
    skipped = {pathlib.Path(item.file).name: item.reason for item in logs if isinstance(item, Skipped)}
    assert sum(isinstance(item, Read) for item in logs) == 133
    fragments = {name for name, reason in skipped.items() if reason.startswith("no header")}
    assert fragments == {"Ante.txt", "Ignore.txt", "AllinFlop.txt", "RunItTwice.txt", "Wins.txt"}
    named = {name: reason for name, reason in skipped.items() if name not in fragments}
    assert named == {
        "AnteTable.txt": "17372 chips before the hand, 17332 after it (with 0 of rake)",
        "WithSittingOut.txt": "line not understood: 'Blahdieblah: posts big blind $0.16'",
        "River.txt": "a card is there twice",
        "CancelledHand.txt": "the hand was cancelled",
        "InValidHand.txt": "the hand has no summary with a total pot: the log was cut",
    }


def test_the_hands_of_the_site_go_round(logs):
    for item in logs:
        if isinstance(item, Read):
            assert parse(render(item.hand)) == item.hand, f"{item.file}:{item.line}"


def test_pokerkit_ends_with_the_same_stacks_on_the_site(logs):
    compared = 0
    for item in logs:
        try:
            stacks = final_stacks(item.hand)
        except ValueError as error:
            assert "PHH has no" in str(error), f"{item.file}:{item.line}: {error}"
            continue
        except AttributeError:
            continue  # skipped
        ours = without_rake(item.hand, outcome(item.hand).stacks)
        if ours is not None:
            assert {seat: ours[seat] for seat in stacks} == stacks, f"{item.file}:{item.line}"
            compared += 1
    assert compared >= 110


def test_holdem_and_omaha_of_a_world_series():
    items = list(read_hands([DATA / "wsop"]))
    assert sum(isinstance(item, Read) for item in items) == 39
    for item in items:
        if isinstance(item, Read):
            assert phh.parse(phh_writer.render(item.hand)) == item.hand
            assert parse(render(item.hand)) == dataclasses.replace(item.hand, site="PokerStars")
            assert final_stacks(item.hand) == outcome(item.hand).stacks, item.file
        else:
            assert "game not read" in item.reason
