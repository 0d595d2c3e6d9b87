"""Players of Kuhn and Leduc with a known leak: an otherwise sound policy that never does one thing, or always."""

from collections.abc import Collection, Mapping

import numpy as np

from lqlm.poker.arena.small_games import InformationState, Policy, always_call

RAISES, STAYS = ("bet", "raise"), ("check", "call")


def without(policy: Policy, words: Collection[str], instead: Collection[str]) -> Policy:
    """A policy that does something else wherever it would do one of these, if something else is legal there.

    Args:
        policy: sound.
        words: what it never does.
        instead: what it does then; the first legal action among these.

    >>> from lqlm.poker.arena.small_games import information_states, uniform
    >>> print(without(uniform, RAISES, STAYS)(information_states("kuhn")[0]))
    [1. 0.]
    """

    def leaking(state: InformationState) -> np.ndarray:
        chances = np.array(policy(state), np.float64)
        moved = [word in words for word in state.words]
        to = [place for place, word in enumerate(state.words) if word in instead]
        if to and any(moved):
            chances[to[0]] += chances[moved].sum()
            chances[moved] = 0.0
        return chances

    return leaking


def always_raise(state: InformationState) -> np.ndarray:
    """Bets and raises where that is legal, else calls."""
    wanted = next(word for word in (*RAISES, "call") if word in state.words)
    return np.array([float(word == wanted) for word in state.words])


def small_leaks(sound: Policy) -> Mapping[str, Policy]:
    """Name -> player with a leak.

    Args:
        sound: what they play where they do not leak, such as CFR+'s policy.
    """
    return {
        "never-raises": without(sound, RAISES, STAYS),
        "folds-to-a-bet": without(sound, ("call", "raise"), ("fold",)),
        "always-calls": always_call,
        "always-raises": always_raise,
    }
