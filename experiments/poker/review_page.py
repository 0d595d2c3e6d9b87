"""The report of reviewed decisions as one HTML file that loads nothing and runs nothing."""

import html
import itertools
import os
import pathlib
from collections.abc import Iterable, Sequence

from experiments.poker.advice import ETHICS, Adviser
from experiments.poker.play_game import bb, name_of
from experiments.poker.play_text import signed
from experiments.poker.review_grade import GRADES, Reviewed, Rule, Totals
from experiments.poker.review_playout import ASSUMED, PlayedOn
from lqlm.io.disk import write_atomic
from lqlm.io.report.page import POLICY, STYLE
from lqlm.poker.explain import show_cards
from lqlm.poker.facts import STREETS
from lqlm.poker.record import Act, Hand, player_of
from lqlm.poker.replay import BOARD_CARDS
from lqlm.poker.select import net_mbb
from lqlm.poker.stream import Tally

MOST_OPEN, WORST = 3, 12
OWN = "You"
_STYLE = pathlib.Path(__file__).with_name("review.css")


def write_review(
    out: str | os.PathLike[str],
    found: Sequence[Reviewed],
    rated: Totals,
    adviser: Adviser,
    rule: Rule,
    player: str,
    *,
    names: bool,
    tally: Tally,
    playouts: int = 0,
    cut: bool = False,
) -> None:
    """Write the report.

    Args:
        out: path of the page.
        found: the decisions, hand after hand.
        rated: their totals.
        adviser: who was asked.
        rule: of the grades.
        player: whose decisions they are.
        names: show players' names; else opponents are numbered and the player is "You".
        tally: of the hands that were read.
        playouts: times that alternatives were played on.
        cut: whether there were more decisions than these.
    """
    called = _names(found, player, names)
    title = f"Review of {player}" if names else "Review"
    parts = [
        f"<h1>{html.escape(title)}</h1><p>{_heading(rated, tally, cut)}</p><p>{html.escape(ETHICS)}</p>",
        _section("Totals", _totals(rated)),
        _section("How it is graded", _method(adviser, rule, playouts)),
        _section("Look at these first", _worst(found)),
        _section("Decisions", "".join(_hands(found, called, player, names))),
    ]
    write_atomic(out, _page(title, "".join(parts)))


def _page(title: str, body: str) -> str:
    style = STYLE.read_text(encoding="utf-8") + _STYLE.read_text(encoding="utf-8")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>'
        f"<body>{body}</body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _names(found: Iterable[Reviewed], player: str, names: bool) -> dict[str, str]:
    """Player -> what the report calls him."""
    every = dict.fromkeys(name for row in found for name in player_of(row.hand).values())
    if names:
        return {name: name for name in every}
    others = [name for name in every if name != player]
    return {player: OWN} | {name: f"Opponent {number}" for number, name in enumerate(others, 1)}


def _heading(rated: Totals, tally: Tally, cut: bool) -> str:
    facts = [
        f"{rated.decisions} decisions in {rated.hands} hands",
        f"result {rated.won:+.1f} bb",
        f"{rated.ungraded} not graded (cards not known, or split games)",
        f"{tally.read} hands read, {tally.skipped.total()} skipped",
    ]
    facts += ["later decisions are left out (--limit)"] if cut else []
    return " · ".join(facts)


def _totals(rated: Totals) -> str:
    rows = "".join(
        f"<tr><th>{STREETS[street].removeprefix('the ').capitalize()}</th>"
        + "".join(f"<td>{counts.get(name, 0)}</td>" for name in GRADES)
        + f"<td>{sum(counts.values())}</td></tr>"
        for street, counts in rated.by_street.items()
        if counts
    )
    marks = "".join(f'<td><span class="grade {name}">{name}</span></td>' for name in GRADES)
    graded = sum(rated.grades.values())
    all_of = "".join(
        f'<span class="{name}" style="width:{100 * count / graded:.2f}%" title="{name}: {count}">{name} {count}</span>'
        for name, count in rated.grades.items()
    )
    lost = (
        f"<p>Folds and calls gave up {rated.given_up:.1f} bb in {rated.compared} decisions, under the assumption below "
        "and if nobody bets any more.  Of bets, raises and checks no such sum is made.</p>"
    )
    table = f"<table><tr><th></th>{marks}<td>graded</td></tr>{rows}</table>"
    return f'<div class="all">{all_of}</div><h3>By street</h3>{table}{lost}'


def _method(adviser: Adviser, rule: Rule, playouts: int) -> str:
    bounds = ", ".join(f"{name} from {bound:.0%}" for name, bound in zip(GRADES, rule.bounds))
    told = (
        "a model's probabilities of the legal actions"
        if adviser.agent
        else (
            "the equity baseline: with equity e against n opponents it bets or raises with s(e - 1/(n+1) - "
            f"{rule.edge:g}), calls with s(e - needed) of the rest, s(x) = 1/(1 + exp(-x / {rule.width:g})), "
            f"its size is {rule.size:g} of the pot"
        )
    )
    lines = [
        f"Adviser: {told}.",
        "Grade: the probability of the kind of decision that was taken (whatever its size), over that of the adviser's "
        f"most probable kind: {bounds}, D below.  It measures agreement with the adviser, not truth.",
        f"Equity: the share of the pot in {adviser.samples:,} random deals against everyone who is in; those who bet "
        f"or raised in the hand hold the range {adviser.assumption.raisers}, the others {adviser.assumption.others} "
        '(in Omaha all hold random hands); "give or take" is half a 95% interval of the deals, not of the assumption.',
        "Call against fold: e (pot + call) - call, with the part of the pot that the call can win; exact under the "
        "assumption only where nobody can bet any more.",
        f"Played on: {playouts} times for each alternative on the same cards; {ASSUMED}.  A difference is named as one "
        "only where its 95% interval leaves out 0; the best of several is flattered by chance."
        if playouts
        else "Bets, raises and checks are not valued in chips (--playouts plays them on).",
        "Limits: ranges do not follow the line of play, later bets are not played out, rake, bounties and the value of "
        "chips in tournaments are not counted.  Nothing here is a solution of the game.",
    ]
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def _worst(found: Sequence[Reviewed]) -> str:
    """Links to the decisions farthest from the adviser, those that cost most first."""
    poor = [row for row in found if row.grade in ("C", "D")]
    poor.sort(key=lambda row: (-(row.given_up or 0.0), row.ratio))
    items = [
        f'<li><a href="#{_anchor(row)}">Hand {row.number}, {STREETS[row.decision.street]}</a> '
        f'<span class="grade {row.grade}">{row.grade}</span> {_did(row.decision.act, row.hand)}{_loss(row)}</li>'
        for row in poor[:WORST]
    ]
    return f"<ol>{''.join(items)}</ol>" if items else "<p>No decision is a C or a D.</p>"


def _anchor(row: Reviewed) -> str:
    return f"d{row.number}-{row.decision.index}"


def _did(act: Act, hand: Hand) -> str:
    return html.escape(name_of(act, hand.big_blind) + (", all-in" if act.all_in else ""))


def _loss(row: Reviewed) -> str:
    return f' <span class="loss">gave up {row.given_up:.2f} bb</span>' if row.given_up else ""


def _hands(found: Sequence[Reviewed], called: dict[str, str], player: str, names: bool) -> Iterable[str]:
    for number, group in itertools.groupby(found, key=lambda row: row.number):
        rows = list(group)
        hand, seat = rows[0].hand, rows[0].decision.seat
        grades = "".join(f' <span class="grade {row.grade or ""}">{row.grade or "-"}</span>' for row in rows)
        held = f' <span class="cards">{show_cards(rows[0].cards)}</span>' if rows[0].cards else ""
        told = f" #{html.escape(hand.hand_id)}" if names else ""
        won = signed(round(net_mbb(hand)[seat] / 10), 100)
        opened = " open" if number <= MOST_OPEN else ""
        yield (
            f"<details{opened}><summary>Hand {number}{told} (line {rows[0].line}){held} {won} bb{grades}</summary>"
            f"{''.join(_article(row, called) for row in rows)}</details>"
        )


def _article(row: Reviewed, called: dict[str, str]) -> str:
    board = f'<span class="cards">{show_cards(row.decision.board)}</span>' if row.decision.board else ""
    head = (
        f'<span class="grade {row.grade or ""}">{row.grade or "-"}</span> {STREETS[row.decision.street].capitalize()} '
        f"{board} <span>{_did(row.decision.act, row.hand)}</span>{_loss(row)}"
    )
    return (
        f'<article id="{_anchor(row)}"><h3>{head}</h3><div class="what">{_before(row, called)}</div>'
        f"{_chances(row)}{_said(row)}{_played(row)}</article>"
    )


def _before(row: Reviewed, called: dict[str, str]) -> str:
    """What everybody did before, street by street."""
    names, left, lines = player_of(row.hand), row.decision.index, []
    for street, acts in enumerate(row.hand.streets[: row.decision.street + 1]):
        shown = show_cards(row.hand.boards[0][: BOARD_CARDS[street]]) if street else ""
        said = ", ".join(_told(act, called[names[act.seat]], row) for act in acts[:left])
        left -= min(left, len(acts))
        where = STREETS[street].removeprefix("the ").capitalize()
        lines.append(html.escape(f"{where} {shown}: {said or 'first to decide'}".replace(" :", ":")))
    return "<br>".join(lines)


def _told(act: Act, name: str, row: Reviewed) -> str:
    """A decision of somebody in a list of them."""
    size = bb(round(100 * act.amount / row.hand.big_blind), 100)
    amount = {"raises": f" to {size} bb", "folds": "", "checks": ""}.get(act.kind.value, f" {size} bb")
    if act.seat == row.decision.seat:
        return f"{name} {act.kind.value.removesuffix('s') if name == OWN else act.kind.value}{amount}"
    return f"{name} (seat {act.seat}) {act.kind.value}{amount}"


def _chances(row: Reviewed) -> str:
    lines = "".join(
        f"<tr{' class=took' if act.kind is row.decision.act.kind else ''}><td>{_did(act, row.hand)}</td>"
        f'<td>{chance:.0%}</td><td class="bar"><i style="width:{100 * chance:.1f}%"></i></td></tr>'
        for act, chance in row.chances
    )
    return f'<table class="chances">{lines}</table>' if lines else ""


def _said(row: Reviewed) -> str:
    if row.advice is None:
        return '<p class="said">The log does not tell the cards: not graded.</p>'
    value = row.advice.call_value
    worth = [] if value is None else [f"A call is worth {value / row.hand.big_blind:+.2f} bb more than a fold."]
    return f'<p class="said">{html.escape(" ".join([*row.advice.sentences, *worth]))}</p>'


def _played(row: Reviewed) -> str:
    """What the alternatives won when the hand was played on, against the decision taken."""
    said = (
        f"{_did(one.act, row.hand)} {one.gain:+.2f} ± {one.half:.2f} bb{_told_apart(one)}" for one in row.played[1:]
    )
    told = ", ".join(said)
    return f'<p class="what">Played on, against {_did(row.decision.act, row.hand)}: {told}.</p>' if told else ""


def _told_apart(one: PlayedOn) -> str:
    return "" if abs(one.gain) > one.half else " (no telling)"
