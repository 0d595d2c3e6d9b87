"""Prompts of a decision: PokerGPT's template, a compact one of a third of its tokens, and a terse one of a tenth.

All can be read back into the state that they show.

The order and the wording of the first follow arXiv 2401.06781; a line of given features comes before the pot.
"""

import re
from collections.abc import Iterable
from decimal import Decimal

from lqlm.poker import cards
from lqlm.poker.compact import plain, read_compact, write_compact
from lqlm.poker.record import Game, HandError, Limit
from lqlm.poker.state import STAGES, Habits, Said, State, View
from lqlm.poker.terse import read_terse, write_terse
from lqlm.poker.told import Features, Spot

__all__ = ["read_compact", "read_prompt", "read_terse", "write_compact", "write_prompt", "write_terse"]

_STREETS = ("preflop", "flop", "turn", "river")
_GAMES = {Game.HOLDEM: "Texas Hold'em"} | {game: game.value for game in Game if game is not Game.HOLDEM}
_ROLE = (
    "You are an experienced gambler. Now you need to assist me to make decisions in {game} {limit} games. "
    "You have been provided with a series of observable information:"
)


def write_prompt(state: State) -> str:
    """PokerGPT's prompt of a state."""
    lines = [_ROLE.format(game=_GAMES[state.game], limit=state.limit.value), _game_line(state), _my_cards(state)]
    lines += [f'Stage: "{state.stage}", Public cards: [{_board(state)}].', _my_line(state)]
    lines += [_view_line(view, state.game.hole_cards) for view in state.views]
    return "\n".join(lines + _features(state.features) + [f"The pot value is [{plain(state.pot)}].", _question(state)])


def _game_line(state: State) -> str:
    order = ", ".join(f"'{seat}'" for seat in state.order)
    small = f"Seat {state.small_blind}" if state.small_blind else "Nobody"
    blinds = f"{plain(state.small)}/{plain(state.big)}"
    return (
        f"Player amount: [{len(state.order)}], Currency: {state.currency or 'chips'}, Blind value: [{blinds}], "
        f"Order: [{order}], {small} is small blind."
    )


def _my_cards(state: State) -> str:
    held = ", ".join(f"'{cards.text([number])}'" for number in state.cards)
    words = ", ".join(f'"{word}"' for word in cards.characteristics(state.cards))
    return f"My cards: [{held}], the characteristics of my cards: [{words}], My seat: [Seat {state.me}]."


def _board(state: State) -> str:
    shown = [cards.text([number]) for number in state.board]
    return ", ".join(f"'{text}'" for text in shown + ["**"] * (5 - len(shown)))


def _my_line(state: State) -> str:
    rank = cards.CATEGORIES[state.rank].capitalize()
    return f'My rank: ["{rank}"], Money: [{plain(state.money)}], Action: [{_actions(state.actions)}].'


def _actions(said: tuple[Said, ...]) -> str:
    return ", ".join(f'"{_said(item)}"' for item in said)


def _said(item: Said) -> str:
    amount = f" {plain(item.amount)}" if item.amount else ""
    return f"{_STREETS[item.street]} {item.word}{amount}"


def _view_line(view: View, hole_cards: int) -> str:
    hidden = ", ".join(["'**'"] * hole_cards)
    habits = f", {_habits(view.habits)}" if view.habits else ""
    return (
        f"Seat {view.seat}: Cards: [{hidden}], Money: [{plain(view.money)}], Action: [{_actions(view.actions)}], "
        f"Discard: [{view.discard}]{habits}."
    )


def _habits(habits: Habits) -> str:
    shown = [("VPIP", habits.vpip), ("PFR", habits.pfr), ("Aggression", habits.aggression)]
    shown += [("Fold to raise", habits.fold_to_raise)]
    parts = [f"{name}: [{'-' if value is None else f'{value}%'}]" for name, value in shown]
    return ", ".join([f"Hands: [{habits.hands}]", *parts])


def _features(features: Features) -> list[str]:
    parts = [f"My equity: [{features.equity}%]"] if features.equity is not None else []
    parts += [f"My equity against ranges: [{features.range_equity}%]"] if features.range_equity is not None else []
    parts += [f"Pot odds: [{features.pot_odds}%]"] if features.pot_odds is not None else []
    parts += [f"Outs: [{features.outs}]"] if features.outs is not None else []
    parts += [f"Draws: [{', '.join(features.draws)}]"] if features.draws else []
    parts += [f"My hand: [{features.made}]"] if features.made else []
    if spot := features.spot:
        parts += [f"Opponents: [{spot.live}], Behind me: [{spot.behind}]"]
        parts += [f"Raises: [{spot.raises}], To call: [{plain(spot.call)}]"]
    lines = [", ".join(parts) + "."] if parts else []
    return lines + ([f"Please play in this style: [{features.style}]."] if features.style else [])


def _question(state: State) -> str:
    words = ", ".join(f'"{word}"' for word in state.legal)
    text = f"The actions can be: [{words}]. What should I do?"
    if not state.choices:
        return text
    amounts = [plain(choice) for choice in state.choices]
    every = amounts + ([f"all-in {plain(state.all_in)}"] if state.all_in else [])
    return f'{text} If I choose to "bet" or "raise", then how much? Choose a number from {{{", ".join(every)}}}.'


_NUMBER = r"(\d+(?:\.\d+)?)"


def _one_of(words: Iterable[str]) -> str:
    """A group of any of these, the longest first ("Omaha Hi/Lo" begins with "Omaha")."""
    return f"({'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))})"


_READ_ROLE = re.compile(
    re.escape(_ROLE).replace(r"\{game\}", _one_of(_GAMES.values())).replace(r"\{limit\}", _one_of(Limit))
)
_READ_GAME = re.compile(
    rf"Player amount: \[\d+\], Currency: (\S+), Blind value: \[{_NUMBER}/{_NUMBER}\], Order: \[(.*)\], "
    r"(?:Seat (\d+)|Nobody) is small blind\."
)
_READ_MINE = re.compile(r"My cards: \[(.*)\], the characteristics of my cards: \[.*\], My seat: \[Seat (\d+)\]\.")
_READ_STAGE = re.compile(r"Stage: \"(\w+)\", Public cards: \[(.*)\]\.")
_READ_MY_LINE = re.compile(rf"My rank: \[.*\], Money: \[{_NUMBER}\], Action: \[(.*)\]\.")
_READ_VIEW = re.compile(
    rf"Seat (\d+): Cards: \[.*?\], Money: \[{_NUMBER}\], Action: \[(.*?)\], Discard: \[(?:True|False)\]"
    r"(?:, (Hands.*))?\."
)
_READ_SAID = re.compile(rf'"(\w+) (\w+)(?: {_NUMBER})?"')
_READ_POT = re.compile(rf"The pot value is \[{_NUMBER}\]\.")
_READ_LEGAL = re.compile(r"The actions can be: \[(.*)\]\. What should I do\?(?: .* from \{(.*)\}\.)?")
_READ_HABITS = re.compile(
    r"Hands: \[(\d+)\], VPIP: \[(\d+%|-)\], PFR: \[(\d+%|-)\], Aggression: \[(\d+%|-)\], Fold to raise: \[(\d+%|-)\]"
)


def read_prompt(prompt: str) -> State:
    """The state that a prompt shows; ``read_prompt(write_prompt(state)) == state``.

    Raises:
        HandError: naming the line that is not as the template has it.
    """
    lines = _Lines(prompt)
    role, game = lines.take(_READ_ROLE), lines.take(_READ_GAME)
    mine, stage, me = lines.take(_READ_MINE), lines.take(_READ_STAGE), lines.take(_READ_MY_LINE)
    views = []
    while found := lines.try_take(_READ_VIEW):
        views.append(View(int(found[1]), Decimal(found[2]), _read_said(found[3]), _read_habits(found[4])))
    features = _read_features(lines)
    pot, legal = lines.take(_READ_POT), lines.take(_READ_LEGAL)
    amounts = (legal[2] or "").split(", ") if legal[2] else []
    everything = amounts.pop().removeprefix("all-in ") if amounts and amounts[-1].startswith("all-in") else "0"
    board = cards.cards("".join(re.findall(r"'(\w\w)'", stage[2])))
    if STAGES.get(len(board)) != stage[1]:
        raise HandError(f"the prompt's stage is {stage[1]} with {len(board)} public cards")
    return State(
        game=next(game for game, words in _GAMES.items() if words == role[1]),
        limit=Limit(role[2]),
        currency="" if game[1] == "chips" else game[1],
        small=Decimal(game[2]),
        big=Decimal(game[3]),
        order=tuple(map(int, re.findall(r"'(\d+)'", game[4]))),
        small_blind=int(game[5] or 0),
        me=int(mine[2]),
        cards=cards.cards("".join(re.findall(r"'(\w\w)'", mine[1]))),
        board=board,
        money=Decimal(me[1]),
        actions=_read_said(me[2]),
        views=tuple(views),
        pot=Decimal(pot[1]),
        legal=tuple(re.findall(r'"(\w+)"', legal[1])),
        choices=tuple(map(Decimal, amounts)),
        all_in=Decimal(everything),
        features=features,
    )


class _Lines:
    """The lines of a prompt, taken one by one."""

    def __init__(self, prompt: str) -> None:
        self.lines, self.at = prompt.split("\n"), 0

    def try_take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        line = self.lines[self.at] if self.at < len(self.lines) else ""
        found = pattern.fullmatch(line)
        self.at += found is not None
        return found

    def take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = self.try_take(pattern)
        if found is None:
            line = self.lines[self.at] if self.at < len(self.lines) else "the end"
            raise HandError(f"prompt line {self.at + 1} is not as the template has it: {line[:80]!r}")
        return found


def _read_said(text: str) -> tuple[Said, ...]:
    return tuple(
        Said(_STREETS.index(street), word, Decimal(amount or 0)) for street, word, amount in _READ_SAID.findall(text)
    )


def _read_habits(text: str | None) -> Habits | None:
    found = _READ_HABITS.fullmatch(text or "")
    if not found:
        return None
    percents = (None if value == "-" else int(value.rstrip("%")) for value in found.groups()[1:])
    return Habits(int(found[1]), *percents)


_READ_FEATURES = re.compile(
    r"(?=.)(?:My equity: \[(\d+)%\])?(?:(?:^|, )?My equity against ranges: \[(\d+)%\])?"
    r"(?:(?:^|, )?Pot odds: \[(\d+)%\])?(?:(?:^|, )?Outs: \[(\d+)\])?"
    r"(?:(?:^|, )?Draws: \[([^\]]*)\])?(?:(?:^|, )?My hand: \[([^\]]*)\])?"
    rf"(?:(?:^|, )?Opponents: \[(\d+)\], Behind me: \[(\d+)\], Raises: \[(\d+)\], To call: \[{_NUMBER}\])?\."
)
_READ_STYLE = re.compile(r"Please play in this style: \[(.*)\]\.")


def _read_features(lines: _Lines) -> Features:
    told, style = lines.try_take(_READ_FEATURES), lines.try_take(_READ_STYLE)
    equity, ranged, odds, outs = (None if told is None or told[i] is None else int(told[i]) for i in (1, 2, 3, 4))
    draws = tuple(told[5].split(", ")) if told and told[5] else ()
    made = told[6] or "" if told else ""
    spot = Spot(int(told[7]), int(told[8]), int(told[9]), Decimal(told[10])) if told and told[7] else None
    return Features(equity, odds, outs, draws, style[1] if style else "", made, spot, ranged)
