import collections
import re
import string
import time

import hypothesis.strategies as st
import pytest
from hypothesis import given

from lqlm.rewards.facts import exact_match, facts_recalled, mentions, normalized, token_f1

FUNCTIONS = (exact_match, token_f1, mentions, facts_recalled)
WORDS = st.lists(st.sampled_from(["the", "Eiffel", "tower", "Paris", "1889", "a", "tower."]), max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("said", "key", "exact", "f1", "mentioned"),
    [
        ("The Eiffel Tower.", "Eiffel tower", 1, 1, 1),
        ("An  Eiffel\ntower!", "the eiffel tower", 1, 1, 1),
        ("It is the Eiffel Tower", "Eiffel Tower", 0, 2 * (2 / 4) * 1 / (2 / 4 + 1), 1),
        ("tower Eiffel", "Eiffel Tower", 0, 1, 0),
        ("Eiffel", "Eiffel Tower", 0, 2 / 3, 0),
        ("eiffel eiffel", "Eiffel Tower", 0, 0.5, 0),  # a word counts as often as the answer has it
        ("A", "A", 1, 1, 1),
        ("B", "A", 0, 0, 0),
        ("U.S.", "US", 1, 1, 1),
        ("Мост", "мост", 1, 1, 1),
        ("", "Paris", 0, 0, 0),
        (" \n", "Paris", 0, 0, 0),
        ("...", "Paris", 0, 0, 0),
        ("\0\ud800", "Paris", 0, 0, 0),
        ("x" * 10**6, "Paris", 0, 0, 0),
    ],
)
def test_by_hand(said, key, exact, f1, mentioned):
    assert (exact_match(said, key), mentions(said, key)) == (exact, mentioned)
    assert token_f1(said, key) == pytest.approx(f1)


def squad_words(text):
    """As SQuAD's evaluate-v1.1.py: remove_articles(remove_punc(lower(s))), whitespace fixed."""
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def squad_f1(said, key):
    common = collections.Counter(squad_words(said)) & collections.Counter(squad_words(key))
    same = sum(common.values())
    if same == 0:
        return 0.0
    precision, recall = same / len(squad_words(said)), same / len(squad_words(key))
    return 2 * precision * recall / (precision + recall)


def test_as_the_script_of_squad():
    texts = [
        "The Eiffel Tower!",
        "eiffel tower",
        "tower, the tower",
        "a big Tower",
        "Paris",
        "theater an' a",
        "",
        "U.S.A.",
    ]
    for said in texts:
        for key in filter(squad_words, texts):
            assert exact_match(said, key) == (squad_words(said) == squad_words(key))
            assert token_f1(said, key) == pytest.approx(squad_f1(said, key))


def test_several_answers():
    key = "Neil Armstrong| Armstrong |N. Armstrong|"
    assert exact_match("armstrong", key, separator="|") == token_f1("Armstrong", key, separator="|") == 1.0
    assert exact_match("Armstrong", "Armstrong|Aldrin") == 0.0  # without a separator there is one answer
    assert mentions("Buzz Aldrin did", "Armstrong|Aldrin", separator="|") == 1.0
    assert facts_recalled("Aldrin flew in 1969.", "Armstrong|Aldrin|1969|Moon") == 0.5


def test_the_content_of_a_tag():
    text = "<think>Lyon? No.</think><answer>Paris</answer>"
    for function in FUNCTIONS:
        assert function(text, "Paris", tag="answer") == 1.0
        assert function(text, "Lyon", tag="answer") == function("Paris", "Paris", tag="answer") == 0.0


@pytest.mark.parametrize("key", ["", " ", "...", "|"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_empty_key_is_the_reference_s_fault(function, key):
    with pytest.raises(ValueError, match="no word to compare"):
        function("Paris", key, separator="|")


@given(WORDS, WORDS.filter(str.strip))
def test_order_of_the_scores(said, key):
    exact, f1, mentioned = (function(said, key) for function in FUNCTIONS[:3])
    assert exact <= mentioned and exact <= f1 + 1e-12 and 0.0 <= f1 <= 1.0
    assert (mentioned == 0.0) or f1 > 0.0
    assert f1 == pytest.approx(token_f1(key, said) if normalized(said) else 0.0)


@given(st.text(), st.text(min_size=1).filter(normalized))
def test_any_text_has_scores(said, key):
    for function in FUNCTIONS:
        assert 0.0 <= function(said, key) <= 1.0
    assert exact_match(key, key) == mentions(key, key) == 1.0 == pytest.approx(token_f1(key, key))
    assert normalized(normalized(said)) == normalized(said)


@pytest.mark.parametrize("part", ["a ", "the", ". ", "Paris "])
def test_long_texts_take_linear_time(part):
    start = time.monotonic()
    for function in FUNCTIONS:
        function(part * (10**6 // len(part)), "Paris")
    assert time.monotonic() - start < 20.0
