"""Pairs from records of every form, the split, and the arrays."""

import gzip
import json
import pathlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from lqlm.errors import UserError
from lqlm.io.datasets import DataSource, records
from lqlm.tasks.pair_batches import pad_pairs, split_pairs, without_prompts_of
from lqlm.tasks.pair_texts import Unusable, turns
from lqlm.tasks.pairs import Pair, PairConfig, read_pairs
from tests.tasks.words import Words

HH = pathlib.Path(__file__).resolve().parents[3] / "shared/data/hh_rlhf/harmless-base.test.jsonl.gz"
CONFIG = PairConfig()


def read(*rows, tokenizer=None, **settings):
    tokenizer = tokenizer or Words()
    found = read_pairs(((f"line {i}", row) for i, row in enumerate(rows, 1)), tokenizer, PairConfig(**settings))
    return found, tokenizer


def words(pair, tokenizer):
    return tuple(tokenizer.words(side) for side in pair[:3])


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


PLAIN = {"prompt": "2 + 2 = ", "chosen": "4", "rejected": "5"}
CHAT = {"prompt": [user("hi")], "chosen": [assistant("yes")], "rejected": [assistant("no")]}
WHOLE = {"chosen": [user("hi"), assistant("yes")], "rejected": [user("hi"), assistant("no")]}
BEGIN = "\n\nHuman: hi\n\nAssistant: ho\n\nHuman: so\n\nAssistant:"
HUMAN = {"chosen": f"{BEGIN} yes", "rejected": f"{BEGIN} no"}


def test_plain_texts_stand_as_they_are():
    found, tokenizer = read(PLAIN, {**PLAIN, "margin": 2})
    assert words(found.pairs[0], tokenizer) == ("2 + 2 = ", "4<e>", "5<e>")
    assert [pair.margin for pair in found.pairs] == [0.0, 2.0] and found.skipped == {}


@pytest.mark.parametrize("record", [CHAT, WHOLE], ids=["prompt", "shared beginning"])
def test_conversations(record):
    """The line break that the template writes after the end token is cut off: a sampler stops before it."""
    found, tokenizer = read(record)
    assert words(found.pairs[0], tokenizer) == ("<u>\nhi\n<a>\n", "yes<e>", "no<e>")
    assert found.pairs[0].texts == ("<u>\nhi\n<a>\n", "yes<e>\n", "no<e>\n")


def test_human_and_assistant():
    found, tokenizer = read(HUMAN)
    assert words(found.pairs[0], tokenizer) == ("<u>\nhi\n<a>\nho<e>\n<u>\nso\n<a>\n", "yes<e>", "no<e>")
    found, tokenizer = read(HUMAN, tokenizer=Words(template=False))
    assert words(found.pairs[0], tokenizer) == (BEGIN, " yes<e>", " no<e>")


def test_the_prompt_is_the_longest_shared_beginning():
    """One dialogue goes on for a turn more; what both share ends before the first answer that differs."""
    record = {"chosen": f"{BEGIN} yes\n\nHuman: why\n\nAssistant: because", "rejected": f"{BEGIN} no"}
    found, tokenizer = read(record)
    prompt, chosen, rejected = words(found.pairs[0], tokenizer)
    assert prompt.endswith("so\n<a>\n") and chosen == "yes<e>\n<u>\nwhy\n<a>\nbecause<e>" and rejected == "no<e>"
    asked = {
        "chosen": f"{BEGIN} no\n\nHuman: why\n\nAssistant: so",
        "rejected": f"{BEGIN} no\n\nHuman: and\n\nAssistant: so",
    }
    found, tokenizer = read(asked)  # they differ in a question: the answer before it belongs to the completions
    assert words(found.pairs[0], tokenizer)[1] == "no<e>\n<u>\nwhy\n<a>\nso<e>"


def test_turns():
    assert turns("\n\nAssistant: a") == [assistant("a")]
    assert turns("Human: a") is None and turns("x\n\nHuman: a") is None and turns("") is None


def test_what_is_too_long():
    long = {"prompt": "a b c ", "chosen": "d e f", "rejected": "g"}
    found, tokenizer = read(long, max_prompt=3, max_completion=2, too_long="cut")
    assert words(found.pairs[0], tokenizer) == (" c ", "d ", "g<e>")
    found, _ = read(long, PLAIN, max_completion=2)
    assert len(found.pairs) == 1 and found.skipped == {Unusable.TOO_LONG: 1}
    with pytest.raises(UserError, match="line 1: 6 tokens of prompt and 6 of completion, but max_prompt is 9"):
        read(long, max_prompt=9, max_completion=3, too_long="error")
    with pytest.raises(UserError, match="line 1: both completions are the same"):  # but for what was cut off
        read({"prompt": "a", "chosen": "b c", "rejected": "b d"}, max_completion=2, too_long="cut")


WRONG = {
    "a missing field": ({"prompt": "a", "chosen": "b"}, 'no field "rejected" .fields: prompt, chosen'),
    "no prompt": ({"chosen": "b", "rejected": "c"}, 'no field "prompt", and chosen and rejected are no dialogues'),
    "equal sides": ({**PLAIN, "rejected": "4"}, "both completions are the same"),
    "equal dialogues": ({"chosen": f"{BEGIN} a", "rejected": f"{BEGIN} a"}, "both completions are the same"),
    "equal conversations": ({**CHAT, "rejected": [assistant("yes")]}, "both completions are the same"),
    "an empty completion": ({**PLAIN, "chosen": " "}, "the chosen completion is empty"),
    "an empty answer": ({"chosen": f"{BEGIN} a", "rejected": BEGIN}, "the rejected completion is empty"),
    "an empty message": ({**CHAT, "chosen": [assistant("")]}, "the chosen completion is empty"),
    "nothing shared": (
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"},
        "no begin",
    ),
    "an empty prompt": ({**PLAIN, "prompt": ""}, "the prompt has no token"),
}
ALWAYS = {
    "a number": ({**PLAIN, "chosen": 3}, 'the field "chosen" holds int instead of text'),
    "a text among lists": ({**CHAT, "rejected": "no"}, 'the field "rejected" is no list of messages'),
    "a margin that is none": ({**PLAIN, "margin": "much"}, "the field \"margin\" is 'much'"),
    "a margin without end": ({**PLAIN, "margin": float("inf")}, "write a finite number"),
}


@pytest.mark.parametrize("name", [*WRONG, *ALWAYS])
def test_bad_records_are_told_in_one_line(name):
    record, told = (WRONG | ALWAYS)[name]
    with pytest.raises(UserError, match=f"line 2: .*{told}") as error:
        read(PLAIN, record)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", WRONG)
def test_or_left_out_and_counted_where_that_is_asked_for(name):
    found, _ = read(PLAIN, WRONG[name][0], unusable="skip")
    assert len(found.pairs) == 1 and sum(found.skipped.values()) == 1


@pytest.mark.parametrize("name", ALWAYS)
def test_what_is_never_left_out(name):
    with pytest.raises(UserError, match="line 2"):
        read(PLAIN, ALWAYS[name][0], unusable="skip")


def test_no_pair_at_all():
    with pytest.raises(UserError, match=r"line 2 and all before it: no pair to learn from .a field is missing: 2"):
        read({}, {}, unusable="skip")
    with pytest.raises(UserError, match="no records"):
        read()
    with pytest.raises(UserError, match="no chat template"):
        read(CHAT, tokenizer=Words(template=False))


@pytest.mark.parametrize("settings", [{"max_prompt": 0}, {"max_completion": 0}, {"too_long": "x"}, {"unusable": "cut"}])
def test_settings_that_cannot_be(settings):
    with pytest.raises(UserError, match=r"^pairs: "):
        PairConfig(**settings)


def made(prompts):
    return [Pair([p], [i], [i + 1], 0.0, ("", "", "")) for i, p in enumerate(prompts)]


@hypothesis.given(st.lists(st.integers(0, 6), min_size=3, max_size=30), st.integers(1, 3), st.randoms())
def test_a_split_parts_prompts_and_does_not_depend_on_the_order(prompts, heldout, random):
    pairs = made(prompts)
    try:
        train, held = split_pairs(pairs, heldout)
    except UserError:
        assert len(set(prompts)) <= heldout or len(prompts) <= heldout
        return
    assert len(held) == heldout and train
    assert not {pair.prompt[0] for pair in train} & {pair.prompt[0] for pair in held}
    mixed = random.sample(pairs, len(pairs))
    assert {p.prompt[0] for p in split_pairs(mixed, heldout)[1]} == {p.prompt[0] for p in held}


def test_as_many_as_are_held_out():
    with pytest.raises(UserError, match="3 pairs to hold out of 3"):
        split_pairs(made([1, 2, 3]), 3)
    with pytest.raises(UserError, match="of another prompt"):
        split_pairs(made([1, 1, 1]), 1)


def test_pairs_held_out_by_a_source_of_their_own():
    assert [p.prompt[0] for p in without_prompts_of(made([1, 2, 3, 2]), made([2, 9]))] == [1, 3]
    for pairs, held in ((made([1, 2]), []), (made([1, 2]), made([1, 2]))):
        with pytest.raises(UserError, match="there must be some of both"):
            without_prompts_of(pairs, held)


def test_arrays():
    pairs = [Pair([7, 8], [1], [2, 3], 0.5, ("", "", "")), Pair([9], [4, 5, 6], [1], 0.0, ("", "", ""))]
    rows = pad_pairs(pairs, 3, 4, 99, rows=3)
    np.testing.assert_array_equal(rows.prompts_BP[:2], [[99, 7, 8], [99, 99, 9]])
    np.testing.assert_array_equal(rows.completions_BGC[0], [[1, 99, 99, 99], [2, 3, 99, 99]])
    np.testing.assert_array_equal(rows.completion_mask_BGC.sum(-1), [[1, 2], [3, 1], [0, 0]])
    np.testing.assert_array_equal(rows.prompt_mask_BP.sum(-1), [2, 1, 2])
    assert rows.numbers_B.dtype == np.float32 and rows.prompts_BP.dtype == rows.completions_BGC.dtype == np.int32


def test_a_packed_file(tmp_path):
    file = tmp_path / "pairs.jsonl.gz"
    file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in (PLAIN, HUMAN)).encode()))
    assert len(read_pairs(records(DataSource(str(file))), Words(), CONFIG).pairs) == 2


@pytest.mark.skipif(not HH.is_file(), reason=f"no {HH}")
def test_real_dialogues():
    """All 2,312 pairs of hh-rlhf's harmless-base test split but the four with an empty answer."""
    wide = PairConfig(max_prompt=10**6, max_completion=10**6, unusable="skip")
    some = [record for i, record in enumerate(records(DataSource(str(HH)))) if i % 8 == 0 or i in (1254, 1688, 1950)]
    found = read_pairs(some, Words(), wide)
    assert len(found.pairs) + sum(found.skipped.values()) == len(some) == 291
    assert set(found.skipped) <= {Unusable.EMPTY} and len(found.pairs) >= 288
    for pair in found.pairs:
        assert pair.texts[0].startswith("<u>\n") and pair.texts[0].endswith("<a>\n")
        assert not pair.texts[1].startswith(" ") and pair.chosen[-1] == pair.rejected[-1] == 0
