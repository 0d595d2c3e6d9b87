"""Decisions of poker hands as problems: the prompt of a decision is the question, what its answer wins is the reward.

The source holds rows of ``experiments.poker select``: hands in which every player's cards are known, or with ``cards``
"own" at least those of the player who decides.  A question is the
prompt of the decision and nothing else, so that its tokens are those that supervised fine-tuning on the same prompts,
as conversations, has seen.  What an answer is worth is found by playing on from the decision
(:mod:`lqlm.poker.arena.playout`, :mod:`lqlm.rewards.poker`).
"""

import dataclasses
import json
from collections.abc import Iterable
from typing import Literal

from lqlm.errors import UserError
from lqlm.poker import answers
from lqlm.poker.arena.assumed import USUAL, Assumption
from lqlm.poker.codec import from_json
from lqlm.poker.record import HandError, known_cards
from lqlm.poker.replay import replay
from lqlm.poker.state import CHOICES, ViewConfig, state_of, word_of
from lqlm.poker.templates import TEMPLATES
from lqlm.tasks.base import Item, Task
from lqlm.tasks.poker_source import STREETS, Balance, Cards, Choice, Found, choose
from lqlm.tasks.poker_values import AGENTS, Place, Playing, judged, worth


@dataclasses.dataclass(frozen=True, kw_only=True)
class PokerConfig:
    """Which decisions are asked, in which words, and how their answers are paid.

    Attributes:
        source: .jsonl file of ``experiments.poker select`` whose decisions are trained on.
        heldout_source: another one, of other sessions.
        limit: decisions to train on, at most, spread over the source (0: all).
        heldout: held-out decisions, at most, as they come in play (0: all).
        template: words of a decision: ``terse``, ``compact``, or the ``paper``'s.
        round_up: show amounts in whole big blinds, as in the paper.
        choices: bets to choose from, in big blinds.
        features: what is told besides, of :data:`lqlm.poker.told.NAMES`; no habits, which need the hands before.
        style: a request such as "aggressive".
        raisers: for the feature range-equity, what those hold who bet or raised (:mod:`lqlm.poker.ranges`).
        others: and what the others hold who are in.
        canonical: cards in one order with suits by one rule (:func:`lqlm.poker.cards.canonical`), not as dealt.
        cards: whose must be known: of ``all`` players of a hand, or the ``own`` ones of the player who decides, as in
            logs that tell those of showdowns only; the others' are then dealt anew in each playout (``redraw``).
        streets: only decisions of these, trained on and held out.
        balance: training decisions in equal shares of streets, or of the words that were played.
        playouts: how often a hand is played on from a decision.
        field: who decides in the others' seats from then on, names of bots; drawn for each playout and seat.
        player: who decides in the asked player's seat from the next decision on.
        redraw: deal the others' cards anew in each playout; else they hold what they held.
        scale: big blinds that are a reward of 1.
        clip: of the reward, in both directions; 0: none.
        seed: of the choice of decisions and of the playouts.
    """

    source: str
    heldout_source: str
    limit: int = 2048
    heldout: int = 128
    template: Literal["compact", "paper", "terse"] = "compact"
    round_up: bool = True
    choices: tuple[int, ...] = CHOICES
    features: tuple[str, ...] = ()
    style: str = ""
    raisers: str = USUAL.raisers
    others: str = USUAL.others
    canonical: bool = False
    cards: Cards = "all"
    streets: tuple[str, ...] = STREETS
    balance: Balance = "none"
    playouts: int = 8
    field: tuple[str, ...] = ("tight", "loose")
    player: str = "tight"
    redraw: bool = False
    scale: float = 10.0
    clip: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("limit", 0), ("heldout", 0), ("playouts", 1), ("clip", 0), ("seed", 0)):
            _check(getattr(self, name) >= least, f"{name}={getattr(self, name)}", f"give {least} or more")
        _check(self.scale > 0, f"scale={self.scale}", "give more than 0 big blinds")
        _check(self.template in TEMPLATES, f"template={self.template!r}", f"give one of {', '.join(TEMPLATES)}")
        _check("habits" not in self.features, "the feature 'habits'", "it needs the hands before; leave it out")
        _check(self.cards in ("all", "own"), f"cards={self.cards!r}", "give all or own")
        _check(self.cards == "all" or self.redraw, "cards='own'", "what others held is not known; set redraw")
        _check(_some(self.streets, STREETS), f"streets={self.streets}", f"give some of {', '.join(STREETS)}")
        _check(_some(self.field, AGENTS), f"field={self.field}", f"give some of {', '.join(AGENTS)}")
        _check(self.player in AGENTS, f"player={self.player!r}", f"give one of {', '.join(AGENTS)}")

    @property
    def view(self) -> ViewConfig:
        """What a prompt shows, and how."""
        against = Assumption(self.raisers, self.others)
        return ViewConfig(self.round_up, self.choices, self.features, self.style, against, self.canonical)

    @property
    def playing(self) -> Playing:
        """How hands are played on."""
        return Playing(self.player, self.field, self.playouts, self.redraw, self.seed)


def _check(good: bool, what: str, cure: str) -> None:
    if not good:
        raise UserError(f"poker task: {what} cannot be used; {cure}")


def _some(chosen: Iterable[str], known: Iterable[str]) -> bool:
    return bool(set(chosen)) and set(chosen) <= set(known)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PokerItem(Item):
    """A decision; ``answer`` is what the player did, with the nearest of the prompt's choices for an amount.

    Attributes:
        place: the hand, with the cards of all players, which the question does not hold, and the decision in it.
        playing: how the hand is played on.
        scale, clip: of the reward.
    """

    place: Place
    playing: Playing
    scale: float
    clip: float


def poker_task(config: PokerConfig) -> Task:
    """The decisions of a source, and held-out ones of another.

    The lenient score compares the word of an answer with what the player did, the strict one the amount too.  The same
    prompt may be asked twice in training, with other cards in the others' hands; held-out prompts are there once, and
    are no training prompts.

    Raises:
        UserError: for a file or a hand that cannot be read, and when no decision is left.
    """
    held = Choice(
        config.streets, 2 * config.heldout, "none", config.seed, config.cards
    )  # twice as many: some prompts repeat
    taken = Choice(config.streets, config.limit, config.balance, config.seed, config.cards)
    known: dict[str, PokerItem] = {}
    for found in choose(config.heldout_source, held):
        if not config.heldout or len(known) < config.heldout:
            item = _item(found, config, "heldout")
            known.setdefault(item.question, item)
    asked = (_item(found, config, "train") for found in choose(config.source, taken))
    train = [item for item in asked if item.question not in known]
    if not train:
        raise UserError(f"poker task: all decisions of {config.source} are held out; give another heldout_source")
    for words in ("call", "all-in"):  # compiles what rewards need, which have a time limit
        big_blinds(words, train[0])
    measures = {"chips": big_blinds, "legal": is_legal}
    return Task("poker", train, list(known.values()), strict, lenient, verify=_verify, measures=measures)


def _item(found: Found, config: PokerConfig, part: str) -> PokerItem:
    hand = from_json(json.loads(found.place.hand))
    decision = replay(hand).decisions[found.place.number]
    state = state_of(hand, decision, known_cards(hand)[decision.seat], config.view)
    template = TEMPLATES[config.template]
    return PokerItem(
        question=template.write(state),
        answer=template.answer(answers.chosen_answer(decision, hand.money.decimals, state)),
        id=f"poker/{part}/{found.line}/{found.place.number}",
        place=found.place,
        playing=config.playing,
        scale=config.scale,
        clip=config.clip,
    )


def poker_item(item: Item) -> PokerItem:
    """The item as a decision.

    Raises:
        UserError: when it is another task's.
    """
    if not isinstance(item, PokerItem):
        raise UserError(f"item {item.id!r} is no decision of a poker hand; take task.kind 'poker'")
    return item


def big_blinds(completion: str, item: Item) -> float:
    """What an answer wins from the decision on, in big blinds; one that is illegal counts as the table takes it."""
    asked = poker_item(item)
    return worth(asked.place, judged(completion, asked.place).act, asked.playing)


def is_legal(completion: str, item: Item) -> float:
    """1 for an answer that can be read and is legal there, otherwise 0."""
    return float(not judged(completion, poker_item(item).place).wrong)


def strict(text: str) -> str | None:
    """The answer of a text in few words, None where there is none.

    >>> strict("You should raise to 300."), strict("I raise")
    ('raise 300', None)
    """
    try:
        return answers.write_short(answers.read_answer(text))
    except HandError:
        return None


def lenient(text: str) -> str | None:
    """The word of the answer of a text alone.

    >>> lenient("You should raise to 300.")
    'any raise'
    """
    found = strict(text)
    return None if found is None else f"any {found.split()[0]}"


def _verify(prediction: str, item: Item) -> float:
    """Whether a strict or a lenient prediction is what the player did; everything is a call, a bet or a raise."""
    done = answers.read_answer(item.answer)
    if not prediction.startswith("any "):
        return float(prediction == answers.write_short(done))
    same = prediction == f"any {done.word}"
    place = poker_item(item).place
    return float(same or _word(prediction[4:], place) == _word(done.word, place))


def _word(word: str, place: Place) -> str:
    return word_of(judged(word, place).act) if word == "all-in" else word
