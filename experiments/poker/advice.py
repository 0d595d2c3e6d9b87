"""What can be said of a decision: equity, pot odds, a model's probabilities, and sentences that are checked.

For research and study of hands that are played here or are over; not for assistance while playing for money.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.poker import ask
from experiments.poker.agent import AgentSettings, open_player
from experiments.poker.play_game import name_of
from experiments.settings import ModelSettings
from lqlm.errors import UserError
from lqlm.poker.arena.assumed import USUAL, Assumption, call_value, estimate
from lqlm.poker.arena.observation import Agent, Mixed, Observation
from lqlm.poker.claims import check_facts
from lqlm.poker.explain import explain
from lqlm.poker.facts import Facts, facts_of
from lqlm.poker.record import Act, Hand
from lqlm.poker.replay import Decision, to_win
from lqlm.poker.told import NAMES

ETHICS = (
    "For research and study of hands that are played here or are over: no assistance while playing for money, "
    "and no claim about opponents that were not played."
)


@dataclasses.dataclass(frozen=True)
class Advice:
    """What is known of one decision.

    Attributes:
        facts: all that was computed.
        acts: the adviser's decisions with their probabilities; empty without an adviser.
        call_value: chips that a call wins beyond a fold if nobody bets any more; None where there is nothing to call
            or no equity.
        sentences: of the facts, each checked against them.
    """

    facts: Facts
    acts: tuple[tuple[Act, float], ...]
    call_value: float | None
    sentences: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Adviser:
    """Who says it.

    Attributes:
        agent: a player that answers with probabilities; None: only what can be computed.
        assumption: what the others are taken to hold.
        samples: deals for an equity.
    """

    agent: Agent | None = None
    assumption: Assumption = USUAL
    samples: int = 4000

    def advise(self, hand: Hand, decision: Decision, cards: tuple[int, ...], rng: np.random.Generator) -> Advice:
        """What is known of a decision; of the record only what happened before it is read.

        Args:
            hand: the record.
            decision: one of its replay.
            cards: of the player who decides.
            rng: for the deals.
        """
        acts = self.probabilities(hand, decision, cards, rng)
        pot, shown = to_win(hand, decision), {}
        if hand.game.high_only:
            found = estimate(hand, decision, cards, rng, self.assumption, self.samples)
            shown = dataclasses.asdict(found)
        policy = [(name_of(act, hand.big_blind), chance) for act, chance in acts]
        facts = facts_of(hand, decision, cards, to_win=pot, policy=policy, **shown)
        call, equity = decision.legal.call, facts.equity
        value = call_value(equity, call, pot) if call and equity is not None else None
        return Advice(facts, acts, value, checked(facts))

    def probabilities(
        self, hand: Hand, decision: Decision, cards: tuple[int, ...], rng: np.random.Generator
    ) -> tuple[tuple[Act, float], ...]:
        """The agent's distribution, most probable first."""
        if self.agent is None:
            return ()
        answer = self.agent.act(observation_of(hand, decision, cards), rng)
        if not isinstance(answer, Mixed):
            return ((answer, 1.0),) if answer else ()
        total = sum(answer.probabilities)
        pairs = [(act, chance / total) for act, chance in zip(answer.acts, answer.probabilities)]
        return tuple(sorted(pairs, key=lambda pair: -pair[1]))


def checked(facts: Facts) -> tuple[str, ...]:
    """The sentences of the facts; one that the facts do not hold is left out."""
    return tuple(sentence for sentence in explain(facts) if not check_facts(sentence, facts))


def observation_of(hand: Hand, decision: Decision, cards: tuple[int, ...]) -> Observation:
    """A decision of a record as an agent at the table would see it: public things and the player's own cards."""
    opening = dataclasses.replace(
        hand, holes=(), streets=((),), boards=((),), returned=None, results=(), finishes=(), rake=0
    )
    return Observation(
        seat=decision.seat,
        cards=cards,
        street=decision.street,
        board=decision.board,
        pot=decision.pot,
        bet=decision.bet,
        stacks=decision.stacks,
        bets=decision.bets,
        live=decision.live,
        legal=decision.legal,
        index=decision.index,
        opening=opening,
        streets=_before(hand, decision),
    )


def _before(hand: Hand, decision: Decision) -> tuple[tuple[Act, ...], ...]:
    left, streets = decision.index, []
    for acts in hand.streets[: decision.street + 1]:
        streets.append(acts[:left])
        left -= min(left, len(acts))
    return tuple(streets)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say who advises."""
    parser.add_argument("--model", default="", help="folder of a model (model.safetensors, or what it quantizes)")
    parser.add_argument("--adapter", default="", help="folder of a PEFT adapter of that model")
    told = [name for name in NAMES if name != "habits"]  # which need the hands before
    ask.add_arguments(parser, ask.AskSettings().template, told)
    parser.add_argument("--chat", action="store_true", help="ask in the model's chat template")
    parser.add_argument("--quantize", action="store_true", help="hold the model in 4 bits")
    parser.add_argument("--samples", type=int, default=Adviser().samples, help="deals for an equity")


def model_of(options: argparse.Namespace) -> Agent | None:
    """The model that the options name, as a player; None where they name none.

    Raises:
        UserError: when it cannot be read.
    """
    if not options.model:
        if options.adapter:
            raise UserError("--adapter needs --model: the folder of the model that it adapts")
        return None
    model = ModelSettings(source=options.model, quantize=options.quantize)
    return open_player(AgentSettings(model, options.adapter, ask.ask_of(options))).agent()


def adviser_of(options: argparse.Namespace, agent: Agent | None) -> Adviser:
    """The adviser of the options.

    Raises:
        UserError: for ranges that are none, and less than 100 samples.
    """
    if options.samples < 100:
        raise UserError(f"--samples {options.samples}: give 100 or more")
    return Adviser(agent, Assumption(options.raisers, options.others), options.samples)


def chances(acts: Sequence[tuple[Act, float]], big: int) -> list[dict[str, Any]]:
    """Probabilities for a page."""
    return [{"label": name_of(act, big), "kind": act.kind.value, "chance": chance} for act, chance in acts]
