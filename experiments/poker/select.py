"""Typed hands to the hands worth learning from: win rates, tiers, known cards, a split by session, pseudonyms.

Written into --out: train.jsonl, valid.jsonl, test.jsonl (a hand, its session, and for each seat whose cards are known
the cards, the win rate and the tier of its player), players.json (win rates with 95% intervals) and key, a secret that
the pseudonyms are made with.  Win rates come from training sessions only.  With --by collected they are means of what
was collected from pots instead.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.poker.arguments import Parser, at_least
from experiments.poker.files import fingerprint, finish, finished, read_rows, shards, stamp, write_rows
from lqlm.errors import UserError
from lqlm.io.disk import write_atomic
from lqlm.poker import cards
from lqlm.poker.codec import from_json, to_json
from lqlm.poker.record import Hand, player_of
from lqlm.poker.select import (
    CARD_FILTERS,
    RESULTS,
    Ledger,
    Split,
    Tiers,
    WinRate,
    anonymise,
    ranked_tiers,
    split_of,
    tier_of,
)

PARTS = ("train", "valid", "test")

ONE_IN = 16
"""Hands that are looked for in other sessions: logs that are there twice share many, and memory stays small."""


def main(argv: Sequence[str]) -> None:
    """Select from the hands of ``parse``."""
    options = _options(argv)
    source, folder = pathlib.Path(options.hands), pathlib.Path(options.out)
    files = shards(source, "hands-*.jsonl")
    split = Split(options.train, options.valid, round(1 - options.train - options.valid, 12), options.seed)
    tiers = Tiers(tuple(options.bounds), tuple(options.tiers))
    if options.by == "collected" and options.top is None and options.bottom is None:
        raise UserError("--by collected: bounds are win rates, nobody collects less than 0; give --top and --bottom")
    digest = fingerprint([vars(options), [stamp(file) for file in files]])
    if summary := finished(folder, digest):
        print(f"{folder} is finished\n{report(summary)}")
        return
    key = _key(folder)
    rates = _rates(files, key, split, options)
    tier = _tiers(rates, tiers, options)
    summary = {
        "cards": options.cards,
        "players": len(rates),
        "hands": {},
        "seats": {},
        "tiers": dict(Counter(tier.values())),
    }
    for part in PARTS:
        seats: Counter[str] = Counter()
        rows = _rows(files, part, split, rates, tier, options.cards, key, seats)
        summary["hands"][part], summary["seats"][part] = write_rows(folder / f"{part}.jsonl", rows), dict(seats)
    write_atomic(folder / "players.json", _players(rates, tier))
    finish(folder, digest, summary)
    print(report(summary))


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("select", __doc__)
    parser.add_argument("hands", help="folder that parse wrote")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--cards", choices=sorted(CARD_FILTERS), default="known", help="which cards count as known")
    parser.add_argument("--by", choices=sorted(RESULTS), default="won", help="what a player's mean is taken of")
    parser.add_argument(
        "--min-hands", type=at_least(0), default=100, help="players with fewer training hands have no tier"
    )
    parser.add_argument("--tiers", nargs="+", default=list(Tiers.names), help="names, worst first")
    parser.add_argument(
        "--bounds", nargs="+", type=float, default=list(Tiers.bounds), help="mbb per hand between tiers"
    )
    parser.add_argument("--top", type=float, help="instead of bounds: the best share of players is high")
    parser.add_argument("--bottom", type=float, help="... and the worst share is negative")
    parser.add_argument("--train", type=float, default=0.8, help="share of the sessions")
    parser.add_argument("--valid", type=float, default=0.1, help="share of the sessions; the rest is for the test")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    return parser.parse_args(argv)


def _key(folder: pathlib.Path) -> bytes:
    """The secret of the pseudonyms: made once, kept for this folder's owner."""
    path = folder / "key"
    if not path.exists():
        write_atomic(path, secrets.token_hex(16))
        os.chmod(path, 0o600)
    return path.read_bytes()


def _hands(files: Sequence[pathlib.Path], key: bytes) -> Iterator[tuple[str, Hand]]:
    """Session and hand under pseudonyms, each hand once though two logs may hold it.

    Raises:
        UserError: for hands that are there in two sessions, as when two forms of the same logs were parsed: a split by
            session would not keep them apart.
    """
    seen, played = set[int](), dict[int, str]()
    for file in files:
        for row in read_rows(file, "session", "hand"):
            hand = from_json(row["hand"])
            if (digest := _play_of(hand)) and played.setdefault(digest, row["session"]) != row["session"]:
                raise UserError(
                    f"sessions {played[digest]!r} and {row['session']!r} hold the same hand; parse one form of these "
                    "logs, or a part of the split would know the other's hands"
                )
            name = hash((hand.site, hand.hand_id, row["session"])) if hand.hand_id else None
            if name is None or name not in seen:
                yield row["session"], anonymise(hand, key)
            seen |= {name} if name is not None else set()


def _play_of(hand: Hand) -> int:
    """A digest of what was played and dealt, of one in `ONE_IN` hands that saw a flop; 0 of all others."""
    if len(hand.boards[0]) < 3:
        return 0
    acts = [[(act.kind.value, round(act.amount / hand.big_blind, 4)) for act in acts] for acts in hand.streets]
    digest = int.from_bytes(hashlib.blake2b(repr((hand.boards, acts)).encode(), digest_size=8).digest())
    return digest if digest % ONE_IN == 0 else 0


def _rates(files: Sequence[pathlib.Path], key: bytes, split: Split, options: argparse.Namespace) -> dict[str, WinRate]:
    ledger = Ledger(options.by)
    for session, hand in _hands(files, key):
        if split_of(session, split) == "train":
            ledger.add(hand)
    return {rate.player: rate for rate in ledger.rates(options.min_hands)}


def _tiers(rates: dict[str, WinRate], tiers: Tiers, options: argparse.Namespace) -> dict[str, str]:
    if options.top is not None or options.bottom is not None:
        return ranked_tiers(rates.values(), options.top or 0.0, options.bottom or 0.0)
    return {player: tier_of(rate.mean, tiers) for player, rate in rates.items()}


def _rows(
    files: Sequence[pathlib.Path],
    part: str,
    split: Split,
    rates: dict[str, WinRate],
    tier: dict[str, str],
    filter_name: str,
    key: bytes,
    seats: Counter[str],
) -> Iterator[dict[str, Any]]:
    for session, hand in _hands(files, key):
        if split_of(session, split) != part:
            continue
        names = player_of(hand)
        known = dict[str, dict[str, Any]]()
        for seat, held in sorted(CARD_FILTERS[filter_name](hand).items()):
            rate = rates.get(names[seat])
            known[str(seat)] = {"cards": cards.text(held, ""), "tier": tier.get(names[seat], "unknown")}
            known[str(seat)] |= {"mbb": round(rate.mean, 3), "hands": rate.hands} if rate else {}
            seats[known[str(seat)]["tier"]] += 1
        if known:
            yield {"session": session, "known": known, "hand": to_json(hand)}


def _players(rates: dict[str, WinRate], tier: dict[str, str]) -> str:
    rows = [dataclasses.asdict(rate) | {"tier": tier[player]} for player, rate in rates.items()]
    return json.dumps(rows, indent=1) + "\n"


def report(summary: dict[str, Any]) -> str:
    """The summary for a person."""
    lines = [f"{summary['players']} players with enough hands: {_counts(summary['tiers'])}"]
    for part in PARTS:
        lines.append(f"  {part:6} {summary['hands'][part]:8} hands; seats by tier: {_counts(summary['seats'][part])}")
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
