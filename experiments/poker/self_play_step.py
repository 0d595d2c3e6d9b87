"""One step of self-play: hands against the league, every legal answer of their decisions played on, and updates."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.keys import keys
from experiments.poker.evaluate import AGENTS
from experiments.poker.mirror import without_values
from experiments.poker.self_play_settings import SelfPlayExperiment
from experiments.poker.self_play_setup import SelfPlaySetup
from experiments.run import Run
from lqlm.algorithms.mirror import answer_logp
from lqlm.algorithms.mirror_objective import MirrorBatch
from lqlm.algorithms.step import TrainState
from lqlm.io.peft import load_peft, save_peft
from lqlm.poker.arena.language import LanguageAgent, answer_of
from lqlm.poker.arena.lockstep import play_hands
from lqlm.poker.arena.match import Seating, seat_players
from lqlm.poker.arena.observation import Agent, Observation
from lqlm.poker.arena.playable import seen_at
from lqlm.poker.arena.playout import Asked, PlayoutConfig, play_on_many
from lqlm.poker.arena.table import Played
from lqlm.poker.policy import Question, pad_questions
from lqlm.poker.record import Act, Hand
from lqlm.poker.replay import replay
from lqlm.types import Array, PyTree

FIELD, ROWS, PLAYOUTS = 107, 108, 109
"""Streams of what a step draws, beside those of ``lqlm.poker.arena``."""
HERO = "Hero"


class Decision(NamedTuple):
    """A decision that is learned from."""

    hand: Hand
    seen: Observation
    acts: tuple[Act, ...]


def one_step(run: Run[SelfPlaySetup], state: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
    """Play, value and update; a function of (state, step) and of the league's policies, which are files of the run."""
    setup, settings = run.setup, run.setup.settings
    me = setup.agent(state.adapters)
    remember(run, state.adapters, step)
    others = league(run, me)
    with run.timers.phase("play"):
        hands = list(play_hands(setup.rules, seatings(setup, me, others, step)))
        chosen = decisions(settings, me, hands, step)
    with run.timers.phase("values"):
        values = valued(settings, chosen, me, others, step)
    with run.timers.phase("score"):
        batch = whole_batch(setup, state.adapters, chosen, values, me)
    with run.timers.phase("update") as lap:
        for number in range(settings.run.updates):
            key = jax.random.fold_in(keys(settings.seed)[1], step * settings.run.updates + number)
            state, found = setup.functions.update(state, setup.model.base, batch, key)
            lap.tokens += int(batch.prompt_mask_BP.sum() + batch.answer_mask_BAC.sum())
        metrics = {name: np.asarray(value) for name, value in jax.block_until_ready(found).items()}
    return state, {**metrics, **told(hands, chosen, values)}


def remember(run: Run[SelfPlaySetup], adapters: PyTree, step: int) -> None:
    """Keep the policy of a step as a PEFT directory, so that a run that goes on finds it again."""
    setup, wanted = run.setup, run.setup.settings.league
    if not wanted.members or step % wanted.every:
        return
    names = (setup.settings.adapter, setup.model.config, setup.settings.model.source)
    save_peft(_folder(run, step), jax.device_get(adapters), *names)
    known = [each for each in run.history.get("members", []) if each != step]
    run.history["members"] = [*known, step][:1] + [*known, step][1:][-(wanted.members - 1) :]


def _folder(run: Run[SelfPlaySetup], step: int) -> pathlib.Path:
    return run.workdir.path / "league" / f"{step:06}"


def league(run: Run[SelfPlaySetup], me: Agent) -> list[Agent]:
    """Who may take another seat, each as likely."""
    setup, wanted = run.setup, run.setup.settings.league
    past = [setup.agent(_member(run, step)) for step in run.history.get("members", [])]
    return [*[me] * wanted.selves, *past, *(AGENTS[name] for name in wanted.bots)]


def _member(run: Run[SelfPlaySetup], step: int) -> PyTree:
    known = run.setup.members
    if step not in known:
        found, _ = load_peft(_folder(run, step), run.setup.model.config)
        known[step] = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), found, run.setup.first)
    for gone in set(known) - set(run.history["members"]):
        del known[gone]
    return known[step]


def seatings(setup: SelfPlaySetup, me: Agent, others: Sequence[Agent], step: int) -> Iterator[Seating]:
    """The hands of a step: new cards each, the player who learns in each seat in turn, the others drawn."""
    table, seed = setup.settings.table, setup.settings.seed
    rng = np.random.default_rng([seed, step, FIELD])
    for number in range(table.hands):
        field = [others[which] for which in rng.integers(len(others), size=table.seats - 1)]
        yield seat_players(setup.rules, me, field, step * table.hands + number, number % table.seats, seed)


def decisions(settings: SelfPlayExperiment, me: LanguageAgent, hands: Sequence[Played], step: int) -> list[Decision]:
    """Decisions of the player who learns, at most ``run.rows``, drawn from all of the hands."""
    every = [(played.hand, index) for played in hands for index in _own(played.hand)]
    order = np.random.default_rng([settings.seed, step, ROWS]).permutation(len(every))
    chosen = [every[at] for at in sorted(order[: settings.run.rows].tolist())]
    seen = [seen_at(hand, index) for hand, index in chosen]
    return [Decision(hand, one, me.menu(one)) for (hand, _), one in zip(chosen, seen)]


def _own(hand: Hand) -> list[int]:
    (seat,) = (one.number for one in hand.seats if one.player == HERO)
    return [decision.index for decision in replay(hand).decisions if decision.seat == seat]


def valued(
    settings: SelfPlayExperiment, chosen: Sequence[Decision], me: Agent, others: Sequence[Agent], step: int
) -> list[np.ndarray]:
    """What every legal answer wins on average when it is played on, in big blinds from the decision on."""
    seeds = np.random.default_rng([settings.seed, step, PLAYOUTS]).integers(2**62, size=len(chosen)).tolist()
    asked = [
        Asked(hand, seen.index, acts, PlayoutConfig(settings.table.playouts, seed, logged=False, boards=64))
        for (hand, seen, acts), seed in zip(chosen, seeds)
    ]
    return [won.mean(axis=1) for won in play_on_many(asked, me, others)]


def whole_batch(
    setup: SelfPlaySetup, adapters: PyTree, chosen: Sequence[Decision], values: Sequence[np.ndarray], me: LanguageAgent
) -> MirrorBatch:
    """The decisions as the loss takes them; rows that are left over count for nothing."""
    asked = pad_questions([_question(setup, one, me) for one in chosen], setup.shapes, setup.model.tokenizer.pad_id)
    batch = without_values(asked)
    old = answer_logp(setup.functions.scores(setup.model.base, adapters, batch), batch.mask_BA)
    gains = advantages(padded(values, batch.mask_BA.shape), np.asarray(old), np.asarray(batch.mask_BA), setup.settings)
    return batch.replace(  # type: ignore[attr-defined, no-any-return]
        values_BA=jnp.asarray(gains),
        old_logp_BA=old,
        magnet_BA=magnet(setup, batch),
        weights_B=jnp.asarray(np.arange(setup.shapes.rows) < len(chosen), jnp.float32),
        alpha=jnp.asarray(setup.settings.pull.alpha, jnp.float32),
    )


def magnet(setup: SelfPlaySetup, batch: MirrorBatch) -> Array:
    """The policy that attracts, ``[B, A]`` of `lqlm.algorithms.mirror.answer_logp`."""
    if setup.settings.pull.towards == "uniform":
        return answer_logp(jnp.zeros(batch.mask_BA.shape), batch.mask_BA)
    return answer_logp(setup.functions.scores(setup.model.base, setup.first, batch), batch.mask_BA)


def padded(values: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The values of every decision in a row of its own, 0 where there is no answer."""
    found = np.zeros(shape)
    for row, won in zip(found, values):
        row[: len(won)] = won
    return found


def advantages(
    values_BA: np.ndarray, logp_BA: np.ndarray, mask_BA: np.ndarray, settings: SelfPlayExperiment
) -> np.ndarray:
    """``clip((q(s, a) - sum_b pi(b|s) q(s, b)) / scale)``; 0 at what is not legal."""
    table = settings.table
    mean = np.sum(np.exp(logp_BA) * values_BA, axis=1, keepdims=True, where=mask_BA)
    found = np.where(mask_BA, values_BA - mean, 0.0) / table.scale
    return (np.clip(found, -table.clip, table.clip) if table.clip else found).astype(np.float32)


def _question(setup: SelfPlaySetup, one: Decision, me: LanguageAgent) -> Question:
    answers = [answer_of(one.seen, act) for act in one.acts]
    return setup.scorer.question(me.prompt(one.seen), answers)


def told(hands: Sequence[Played], chosen: Sequence[Decision], values: Sequence[np.ndarray]) -> dict[str, float]:
    """What the hands of a step were like."""
    blinds = [_won(played) for played in hands]
    spread = [float(won.max() - won.min()) for won in values]
    return {
        "play/big_blinds": float(np.mean(blinds)),
        "play/decisions": float(sum(len(_own(played.hand)) for played in hands)),
        "play/learned_from": float(len(chosen)),
        "values/spread": float(np.mean(spread)),
    }


def _won(played: Played) -> float:
    names = [one.player for one in sorted(played.hand.seats, key=lambda one: one.number)]
    return played.chips[names.index(HERO)] / played.hand.big_blind
