"""A language model plays hold'em or Omaha against a league of itself, and learns what its answers were worth.

usage: python -m experiments.poker self-play [--config FILE] [--config.SECTION.KEY=VALUE ...] [--cache DIRECTORY]

  python -m experiments.poker self-play --config configs/poker_self_play.py
  python -m experiments.poker self-play --config configs/poker_self_play.py --config.table.seats=6
  python -m experiments.poker self-play --config configs/poker_self_play.py --config.league.members=0

A step plays hands with the policy in one seat and the league in the others.  Every legal answer of some of its
decisions is played on several times, by the policy and the league again, on the same cards; what it wins beyond the
policy's own mean is its advantage, and the policy takes a step of magnetic mirror descent.

Written into --config.workdir:
  metrics.jsonl     a line a step          summary.json     before and after, speed, memory, versions, settings
  curves.png        the learning curves    report.html      the whole run on one page
  tensorboard/      the metrics            checkpoints/     the last ones
  league/           earlier policies, a PEFT directory each: opponents for ``evaluate --models NAME=...,adapter=DIR``
  adapter/          the finished policy, a PEFT directory

Killed at any moment, the same command goes on where it stopped; a finished run is only reported.
"""

import functools
from collections.abc import Mapping, Sequence

from experiments import command, trained
from experiments.algorithm import Algorithm
from experiments.main import run
from experiments.poker.evaluate import AGENTS
from experiments.poker.self_play_settings import SelfPlayExperiment
from experiments.poker.self_play_setup import SelfPlaySetup, build
from experiments.poker.self_play_step import one_step
from experiments.run import Run
from lqlm.algorithms.step import TrainState
from lqlm.io.curves import Panel
from lqlm.poker.arena.lockstep import play_lockstep
from lqlm.poker.arena.match import mbb
from lqlm.poker.arena.observation import Agent

DEFAULT = "configs/poker_self_play.py"
START = "start"
"""Name of the policy that training begins with."""
MATCH_SEED = 1 << 20
"""Added to the seed for the cards of matches, so that nothing was learned from them."""


def main(argv: Sequence[str]) -> None:
    """The command; it ends the process, as every command with a config file does."""
    start = functools.partial(run, SELF_PLAY)
    command.run(start, SelfPlayExperiment, __doc__ or "", DEFAULT, ["self-play", *argv])


def evaluate(run: Run[SelfPlaySetup], state: TrainState, step: int) -> dict[str, float]:
    """What the policy wins from bots and from the policy of the beginning, in milli-big-blinds per hand, and half its
    95% interval: duplicate deals, luck after all betting taken off, the luck of the other cards as a control variate.
    """
    setup = run.setup
    me, bots = setup.agent(state.adapters), {name: AGENTS[name] for name in setup.settings.match.opponents}
    found = _against(setup, me, bots)
    won = [value for name, value in found.items() if not name.endswith("/half")]
    others = {START: setup.agent(setup.first)}
    return found | ({"eval/mean": sum(won) / len(won)} if won else {}) | _against(setup, me, others)


def _against(setup: SelfPlaySetup, me: Agent, others: Mapping[str, Agent]) -> dict[str, float]:
    settings, found = setup.settings, dict[str, float]()
    seats = settings.table.seats
    for name, other in others.items():
        field, deals = [other] * (seats - 1), -(-settings.match.hands // seats)
        match = play_lockstep(setup.rules, me, field, deals, settings.seed + MATCH_SEED)
        won = mbb(match)["controlled"]
        found |= {f"eval/against/{name}": won.mean, f"eval/against/{name}/half": won.half}
    return found


PANELS = (
    Panel("Won from bots and from the beginning (mbb per hand)", ("eval/against/*[!f]",), True),
    Panel("Value of the policy beyond that of the step before", ("value",)),
    Panel("Entropy over legal answers (nats)", ("entropy",), low=0.0),
    Panel("Log-probability that an answer is legal", ("legal",)),
    Panel("KL to the magnet and to the policy before", ("kl_magnet", "kl_old"), low=0.0),
    Panel("Best less worst answer of a decision (big blinds)", ("values/spread",), low=0.0),
    Panel("Loss", ("loss",)),
    Panel("Gradient norm", ("grad_norm",), low=0.0),
    Panel("Tokens per second", ("tokens_per_second/*",), low=0.0),
)
SELF_PLAY = Algorithm(
    settings=SelfPlayExperiment,
    build=build,
    one_step=one_step,
    evaluate=evaluate,
    save=trained.save,
    watched=((f"eval/against/{START}",), True),
    shown={"value": "value", "entropy": "entropy"},
    speed="update",
    panels=PANELS,
)
