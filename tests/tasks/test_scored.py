"""Single completions with a score, from records to tokens and arrays."""

import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.tasks.pair_batches import pad_pairs, split_pairs
from lqlm.tasks.scored import ScoredConfig, read_scored
from tests.tasks.words import Words

PLAIN = {"prompt": "2 + 2 =", "completion": " 4", "score": 0.5}
CHAT = {
    "prompt": [{"role": "user", "content": "hi"}],
    "completion": [{"role": "assistant", "content": "yes"}],
    "score": True,
}


def read(*rows, tokenizer=None, **settings):
    tokenizer = tokenizer or Words()
    found = read_scored(((f"line {i}", row) for i, row in enumerate(rows, 1)), tokenizer, ScoredConfig(**settings))
    return *found, tokenizer


def test_texts_stand_as_they_are_and_conversations_in_the_template():
    (plain, chat), skipped, tokenizer = read(PLAIN, CHAT)
    assert (tokenizer.words(plain.prompt), tokenizer.words(plain.completion)) == ("2 + 2 =", " 4<e>")
    assert (tokenizer.words(chat.prompt), tokenizer.words(chat.completion)) == ("<u>\nhi\n<a>\n", "yes<e>")
    assert (plain.score, chat.score, skipped) == (0.5, 1.0, {})
    assert plain.texts == ("2 + 2 =", " 4") and chat.texts[0] == "<u>\nhi\n<a>\n"


def test_names_of_fields():
    ((found,), _, _) = read(
        {"question": "a", "reply": "b", "label": False}, prompt="question", completion="reply", score="label"
    )
    assert found.score == 0.0


def test_what_is_too_long_is_cut_or_left_out_or_an_error():
    long = {"prompt": "a b c", "completion": "d e f", "score": 1}
    (kept,), skipped, tokenizer = read(long, too_long="cut", max_prompt=2, max_completion=3)
    assert (tokenizer.words(kept.prompt), tokenizer.words(kept.completion)) == (" c", "d e")
    rows, skipped, _ = read(long, PLAIN, max_completion=3)
    assert len(rows) == 1 and skipped == {"longer than allowed": 1}
    with pytest.raises(UserError, match="line 1: 5 tokens of prompt and 6 of completion, but max_prompt is 256"):
        read(long, too_long="error", max_completion=3)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"score": None}, r'line 1: no number in the field "score" \(fields: prompt, completion, score\); add it'),
        ({"score": "good"}, "line 1: the field \"score\" is 'good'; write a finite number"),
        ({"score": float("nan")}, "is nan; write a finite number"),
        ({"completion": " "}, "line 1: the only completion is empty"),
        ({"completion": 4}, 'line 1: the field "completion" holds int'),
        ({"prompt": ""}, "line 1: the prompt has no token"),
    ],
)
def test_a_record_that_cannot_be_used_is_named(change, words):
    with pytest.raises(UserError, match=words):
        read({**PLAIN, **change})


def test_unusable_records_are_skipped_where_they_may_be():
    rows, skipped, _ = read({"prompt": "a", "score": 1}, PLAIN, unusable="skip")
    assert len(rows) == 1 and skipped == {"a field is missing": 1}
    with pytest.raises(UserError, match=r"no scored text to learn from \(a field is missing: 1\)"):
        read({"prompt": "a", "score": 1}, unusable="skip")
    with pytest.raises(UserError, match="the model has no chat template"):
        read(CHAT, tokenizer=Words(template=False))
    with pytest.raises(UserError, match="both must be 1 or more"):
        ScoredConfig(max_prompt=0)


def test_as_arrays_a_group_has_one_completion():
    rows, _, _ = read(PLAIN, {**PLAIN, "completion": "4 5", "score": -2}, {**PLAIN, "prompt": "1"})
    arrays = pad_pairs(rows, 8, 6, 99, rows=4)
    assert arrays.completions_BGC.shape == (4, 1, 6) and arrays.numbers_B.tolist() == [0.5, -2.0, 0.5, 0.5]
    assert arrays.completion_mask_BGC.sum(-1)[:, 0].tolist() == [3, 4, 3, 0]  # the last row only fills up
    assert (arrays.completions_BGC[~arrays.completion_mask_BGC] == 99).all()
    train, held = split_pairs(rows, 1)
    assert {tuple(r.prompt) for r in train}.isdisjoint(tuple(r.prompt) for r in held) and len(held) == 1
    assert arrays.numbers_B.dtype == np.float32
