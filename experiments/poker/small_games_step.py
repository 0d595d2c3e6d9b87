"""One step of self-play: the policy of all states, the value of every action against it, and updates on these."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.keys import keys
from experiments.poker.mirror import batch_of
from experiments.poker.small_games_settings import LeagueSettings
from experiments.poker.small_games_setup import SmallGamesSetup
from experiments.run import Run
from lqlm.algorithms.advantages import group_advantages, leave_one_out_advantages
from lqlm.algorithms.mirror import answer_logp, sampled_values
from lqlm.algorithms.mirror_objective import MirrorBatch
from lqlm.algorithms.step import TrainState
from lqlm.poker.arena.game_tree import GameTree, facing
from lqlm.poker.arena.values import action_values, average_policy, normalised, reaches, weighted_policy

LEAGUE, ANSWERS, ROWS = range(3)
"""Streams of what a step draws."""


class Table(NamedTuple):
    """The policy of a model at every state."""

    policy_SA: np.ndarray  # float64, 0 at what is not legal
    logp_SA: np.ndarray  # float32 of `answer_logp`, 0 there
    scores_SA: np.ndarray  # float32, log-probabilities of whole answers


def table(setup: SmallGamesSetup, state: TrainState) -> Table:
    """The current policy of the model."""
    scores = np.asarray(setup.functions.scores(setup.model.base, state.adapters))
    logp = np.asarray(answer_logp(jnp.asarray(scores), jnp.asarray(setup.tree.legal_SA)))
    policy = np.where(setup.tree.legal_SA, np.exp(logp, dtype=np.float64), 0.0)
    return Table(policy / policy.sum(axis=1, keepdims=True), logp, scores)


def one_step(run: Run[SmallGamesSetup], state: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
    """The updates of a step; a function of (state, step) and of the run's history, so that a resumed run repeats it."""
    setup, settings = run.setup, run.setup.settings
    with run.timers.phase("score"):
        now = table(setup, state)
    with run.timers.phase("values"):
        other = opponent(setup.tree, settings.league, run.history, now.policy_SA, step, settings.seed)
        remember(setup.tree, settings.league, run.history, now.policy_SA, step)
        values, weights = targets(setup, now, other, np.random.default_rng([settings.seed, step, ANSWERS]))
    alpha = settings.magnet.alpha(step / settings.run.steps)
    batch = whole_batch(setup, now, values, weights, alpha)
    with run.timers.phase("update") as lap:
        for number, rows in enumerate(minibatches(setup, step)):
            key = jax.random.fold_in(keys(settings.seed)[1], step * settings.run.updates + number)
            part = jax.tree.map(lambda x, rows=rows: jnp.asarray(x if np.ndim(x) == 0 else x[rows]), batch)
            state, found = setup.functions.update(state, setup.model.base, part, key)
            lap.tokens += int(batch.prompt_mask_BP[rows].sum() + batch.answer_mask_BAC[rows].sum())
        metrics = {name: np.asarray(value) for name, value in jax.block_until_ready(found).items()}
    return state, {**metrics, "alpha": alpha}


def opponent(
    tree: GameTree, league: LeagueSettings, history: dict[str, Any], policy_SA: np.ndarray, step: int, seed: int
) -> np.ndarray:
    """Whose replies the values of this step are against, as a table."""
    past: np.ndarray | None = None
    if league.opponent == "mean" and "average" in history:
        past = average(tree, history)
    if league.opponent == "draw" and history.get("members"):
        members = history["members"]
        past = np.array(members[np.random.default_rng([seed, step, LEAGUE]).integers(len(members))])
    if past is None:
        return policy_SA
    return average_policy(tree, [policy_SA, past], [1 - league.share, league.share])


def remember(tree: GameTree, league: LeagueSettings, history: dict[str, Any], policy_SA: np.ndarray, step: int) -> None:
    """Add the policy of a step to the average, with weight step + 1 as in CFR+, and to the members of the league."""
    total = weighted_policy(tree, policy_SA, step + 1)
    history["average"] = (np.array(history.get("average", np.zeros(total.shape))) + total).tolist()
    if league.opponent == "draw" and step % league.every == 0:
        members = [*history.get("members", []), policy_SA.tolist()]
        history["members"] = members[:1] + members[1:][-(league.members - 1) :]


def average(tree: GameTree, history: dict[str, Any]) -> np.ndarray:
    """The average of the policies of all steps, as one that is drawn for a whole hand."""
    return normalised(tree, np.array(history["average"]))


def targets(
    setup: SmallGamesSetup, now: Table, other: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """What each answer is taken to be worth ``[S, A]``, and what each state counts for ``[S]``."""
    tree, wanted = setup.tree, setup.settings.estimate
    values, reach = np.zeros(now.policy_SA.shape), np.zeros(len(tree.states))
    for player in (0, 1):
        played = facing(tree, now.policy_SA, other, player)
        found, mine = action_values(tree, played), tree.player_S == player
        values[mine] = found.values_SA[mine]
        own = reaches(tree, played)[player, tree.node_S]
        reach[mine] = (found.reach_S * own)[mine]
    weights = reach if wanted.weights == "reach" else np.ones_like(reach)
    return (values if wanted.kind == "exact" else _sampled(setup, now, values, rng)), weights


def _sampled(setup: SmallGamesSetup, now: Table, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Values of a group of sampled answers in place of all of them; everything else stays exact."""
    wanted = setup.settings.estimate
    edges = np.cumsum(now.policy_SA, axis=1)[:, None, :-1]
    drawn = (rng.random((len(values), wanted.group, 1)) >= edges).sum(axis=-1)
    drawn = np.minimum(drawn, setup.tree.legal_SA.sum(axis=1, keepdims=True) - 1)  # a sum may end below 1
    rewards = jnp.asarray(np.take_along_axis(values, drawn, axis=1), jnp.float32)
    advantages = group_advantages(rewards) if wanted.kind == "grpo" else leave_one_out_advantages(rewards)
    return np.asarray(sampled_values(jnp.asarray(drawn), advantages, jnp.asarray(now.logp_SA)))


def whole_batch(
    setup: SmallGamesSetup, now: Table, values: np.ndarray, weights: np.ndarray, alpha: float
) -> MirrorBatch:
    """All states of the game, in host memory; the magnet is uniform."""
    legal = setup.tree.legal_SA
    uniform = np.where(legal, -np.log(legal.sum(axis=1, keepdims=True)), 0.0)
    return batch_of(setup.asked, values, now.logp_SA, uniform, weights, np.asarray(alpha))


def minibatches(setup: SmallGamesSetup, step: int) -> Iterator[np.ndarray]:
    """The states of each update of a step."""
    count, updates = len(setup.tree.states), setup.settings.run.updates
    if setup.rows == count:
        yield from [np.arange(count)] * updates
        return
    rng = np.random.default_rng([setup.settings.seed, step, ROWS])
    orders = [rng.permutation(count) for _ in range(-(-updates * setup.rows // count))]
    yield from np.concatenate(orders)[: updates * setup.rows].reshape(updates, setup.rows)
