"""A language model learns Kuhn or Leduc by self-play, with its exact exploitability over training.

usage: python -m experiments.poker train-small [--config FILE] [--config.SECTION.KEY=VALUE ...] [--cache DIRECTORY]

  python -m experiments.poker train-small --config configs/poker_leduc.py
  python -m experiments.poker train-small --config configs/poker_leduc.py:kuhn --config.seed=1
  python -m experiments.poker train-small --config configs/poker_leduc.py --config.league.opponent=draw \\
      --config.workdir=runs/poker_leduc_league

Every step asks the model at all states of the game (288 in Leduc), values all of its answers exactly by a walk over
the game tree, against itself or a league of its past, and updates it by magnetic mirror descent.

Written into --config.workdir:
  metrics.jsonl     a line a step          summary.json     before and after, speed, memory, versions, settings
  curves.png        the learning curves    report.html      the whole run on one page
  tensorboard/      the metrics            checkpoints/     the last ones
  policies.json     the last and the average policy of every prompt, what they win, and how exploitable they are
  model/, adapter/  the finished model, or a PEFT directory; lqlm.poker.arena.language.small_game_policy plays it

Killed at any moment, the same command goes on where it stopped; a finished run is only reported.
"""

import json
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from experiments import command, trained
from experiments.algorithm import Algorithm
from experiments.main import run
from experiments.poker.small_games_settings import SmallGamesExperiment
from experiments.poker.small_games_setup import SmallGamesSetup, build
from experiments.poker.small_games_step import average, one_step, table
from experiments.run import Run
from lqlm.algorithms.mirror import legal_logp
from lqlm.algorithms.step import TrainState
from lqlm.io.curves import Panel
from lqlm.io.disk import write_atomic
from lqlm.poker.arena.game_tree import facing, policy_of
from lqlm.poker.arena.language import small_game_prompt
from lqlm.poker.arena.small_games import exploitability
from lqlm.poker.arena.values import value

DEFAULT = "configs/poker_leduc.py"


def main(argv: Sequence[str]) -> None:
    """The command; it ends the process, as every command with a config file does."""
    usage = __doc__ or ""
    command.run(lambda config: run(SMALL_GAMES, config), SmallGamesExperiment, usage, DEFAULT, ["train-small", *argv])


def evaluate(run: Run[SmallGamesSetup], state: TrainState, step: int) -> dict[str, float]:
    """How exploitable the last and the average policy are, and what they win; exact, in antes per hand."""
    setup = run.setup
    now = table(setup, state)
    found = {f"eval/{name}": x for name, x in judge(setup, now.policy_SA).items()}
    mean = average(setup.tree, run.history) if "average" in run.history else now.policy_SA
    found |= {f"eval/average/{name}": x for name, x in judge(setup, mean).items()}
    legal = np.exp(np.asarray(legal_logp(jnp.asarray(now.scores_SA), jnp.asarray(setup.tree.legal_SA))))
    return found | {"eval/legal": float(legal.mean())}


def judge(setup: SmallGamesSetup, policy_SA: np.ndarray) -> dict[str, float]:
    """Exploitability of a policy by OpenSpiel, and what it wins from each opponent, the mean of both seats."""
    tree = setup.tree

    def gain(other: np.ndarray) -> float:
        return (value(tree, facing(tree, policy_SA, other, 0)) - value(tree, facing(tree, policy_SA, other, 1))) / 2

    gains = {f"against/{name}": gain(opponent.table_SA) for name, opponent in setup.opponents.items()}
    return {"exploitability": exploitability(tree.game, policy_of(tree, policy_SA)), **gains}


def save(run: Run[SmallGamesSetup], state: TrainState) -> None:
    """The model, and both policies as a table for a person."""
    trained.save(run, state)
    setup = run.setup
    policies = {"last": table(setup, state).policy_SA, "average": average(setup.tree, run.history)}
    found = {
        "unit": "antes per hand, exact, the mean of both seats",
        "most that can be won": {name: opponent.most for name, opponent in setup.opponents.items()},
        **{name: judge(setup, policy) for name, policy in policies.items()},
        "policies": [
            {
                "prompt": small_game_prompt(one),
                **{name: dict(zip(one.words, policy[at].round(4).tolist())) for name, policy in policies.items()},
            }
            for at, one in enumerate(setup.tree.states)
        ],
    }
    write_atomic(run.workdir.path / "policies.json", json.dumps(found, indent=1) + "\n")


PANELS = (
    Panel("Exploitability (antes per hand)", ("eval/exploitability", "eval/average/exploitability"), True, low=0.0),
    Panel("Won from CFR+", ("eval/against/cfr+", "eval/average/against/cfr+"), True),
    Panel("Won from bots with leaks", ("eval/against/[!c]*",), True),
    Panel("Probability of a legal answer", ("eval/legal",), True, low=0.0, high=1.0),
    Panel("Loss", ("loss",)),
    Panel("Entropy over legal answers (nats)", ("entropy",), low=0.0),
    Panel("KL to the magnet and to the policy before", ("kl_magnet", "kl_old"), low=0.0),
    Panel("Gradient norm", ("grad_norm",), low=0.0),
    Panel("Tokens per second", ("tokens_per_second/*",), low=0.0),
)
SMALL_GAMES = Algorithm(
    settings=SmallGamesExperiment,
    build=build,
    one_step=one_step,
    evaluate=evaluate,
    save=save,
    watched=(("eval/exploitability",), False),
    shown={"loss": "loss", "entropy": "entropy"},
    speed="update",
    panels=PANELS,
)
