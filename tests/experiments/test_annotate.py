"""What is kept of single tokens: theirs, in their order, and nothing of what follows the end."""

import types

import numpy as np

from experiments.rollouts.annotate import pieces, with_tokens, with_values
from lqlm.generation.decode import Completions

TOKENS = np.array([[[65, 66, 0], [0xC3, 0xA9, 67]]])
MASK = np.array([[[True, True, False], [True, True, True]]])
DONE = Completions(tokens_BGC=TOKENS, logp_BGC=TOKENS * -0.5, mask_BGC=MASK, steps=np.int32(3))
TOKENIZER = types.SimpleNamespace(decode=lambda tokens: bytes(tokens).decode(errors="replace"))


def test_tokens_and_their_values_stop_at_the_end():
    rows = with_tokens([{"completion": "AB"}, {"completion": "éC"}], DONE, TOKENIZER)
    assert rows == [
        {"completion": "AB", "tokens": ["A", "B"], "logp": [-32.5, -33.0]},
        {"completion": "éC", "tokens": ["", "é", "C"], "logp": [-97.5, -84.5, -33.5]},
    ]


def test_values_of_larger_batches_of_samples_and_of_tokens():
    """A batch may have a further sample and further places, as with demonstrations; the rows do not see them."""
    per_token = np.arange(12.0).reshape(1, 3, 4)
    per_token[0, 1, 2] = np.nan
    values = {"ref_logp": per_token, "advantage": np.array([[0.5, -1.0, 9.0]]), "absent": None}
    assert with_values([{}, {}], DONE, values) == [
        {"ref_logp": [0.0, 1.0], "advantage": 0.5},
        {"ref_logp": [4.0, 5.0, None], "advantage": -1.0},
    ]
    assert with_values([{}], DONE, values) == [{"ref_logp": [0.0, 1.0], "advantage": 0.5}]


def test_what_never_becomes_a_character_stands_at_the_end():
    assert pieces([65, 0xC3], TOKENIZER) == ["A", "\ufffd"] and pieces([], TOKENIZER) == []
