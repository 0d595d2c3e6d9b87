import math
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.errors import UserError
from lqlm.rewards import overlap
from lqlm.rewards.combine import score_all
from lqlm.rewards.overlap import bleu, corpus_bleu, corpus_rouge, rouge_1, rouge_2, rouge_l
from lqlm.rewards.specs import RewardSpec, Sample, bind_all

TEXTS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "mat", "dog"]), max_size=12).map(" ".join)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Neither library fetches anything (nltk, below rouge-score, has downloads)."""

    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_corpus_bleu_by_hand():
    """n-grams that are in the reference, of those there are: 5/6, 3/5, 1/4, 0/3 and 4/4, 3/3, 2/2, 1/1, summed."""
    completions = ["the cat sat on a mat", "a dog ran off"]
    references = ["the cat sits on a mat", "a dog ran off today"]
    # first pair: the cat . on a mat -> 5 of 6; the cat, on a, a mat -> 3 of 5; on a mat -> 1 of 4; none of 3
    precisions = [(5 + 4) / (6 + 4), (3 + 3) / (5 + 3), (1 + 2) / (4 + 2), (0 + 1) / (3 + 1)]
    brevity = math.exp(1 - (6 + 5) / (6 + 4))
    expected = 100 * brevity * math.prod(precisions) ** 0.25
    assert corpus_bleu(completions, references) == pytest.approx(expected, rel=1e-12)
    singles = [corpus_bleu([c], [r]) for c, r in zip(completions, references, strict=True)]
    assert corpus_bleu(completions, references) != pytest.approx(sum(singles) / 2, rel=0.01)


def test_a_word_counts_as_often_as_the_reference_has_it():
    """Papineni's example: "the" seven times has a unigram precision of 2/7."""
    completion, reference = "the the the the the the the", "The cat is on the mat".lower()
    assert rouge_1(completion, reference) == pytest.approx(2 * (2 / 7) * (2 / 6) / (2 / 7 + 2 / 6))
    assert corpus_bleu([completion], [reference]) < 15  # only the smoothing of higher orders is left


def test_sentence_bleu_by_hand():
    """Two words: only the orders that there are; one of two unigrams, and the missing bigram smoothed to 1/2."""
    assert bleu("the dog", "the cat") == pytest.approx(math.sqrt((1 / 2) * (1 / 2)), rel=1e-12)
    assert bleu("the cat", "the cat sat on the mat") == pytest.approx(math.exp(1 - 6 / 2), rel=1e-12)
    assert bleu("", "the cat") == 0.0


def test_rouge_by_hand():
    completion, answer = "the cat was found under the bed", "the cat was under the bed"
    # unigrams: 6 of 7 and 6 of 6; bigrams: the cat, cat was, under the, the bed of 6 and 5; the longest sequence: all 6
    assert rouge_1(completion, answer) == pytest.approx(2 * 6 / (7 + 6))
    assert rouge_2(completion, answer) == pytest.approx(2 * 4 / (6 + 5))
    assert rouge_l(completion, answer) == pytest.approx(2 * 6 / (7 + 6))
    # Lin (2004), section 3.1: the order of words matters to ROUGE-L only
    reference = "police killed the gunman"
    assert rouge_l("police kill the gunman", reference) == 3 / 4
    assert rouge_l("the gunman kill police", reference) == 2 / 4
    assert rouge_1("the gunman kill police", reference) == 3 / 4
    assert rouge_2("police kill the gunman", reference) == rouge_2("the gunman kill police", reference) == 1 / 3


def test_rouge_sees_letters_and_digits_only():
    assert rouge_1("The CAT!", "the cat") == 1.0
    assert rouge_1("running", "runs") == 0.0
    assert rouge_1("кот", "кот") == 0.0


def test_corpus_rouge_is_the_mean():
    completions, references = ["the cat", "a dog ran"], ["the cat sat", "the dog"]
    scores = corpus_rouge(completions, references)
    assert list(scores) == ["rouge1", "rouge2", "rougeL"]
    for name, function in (("rouge1", rouge_1), ("rouge2", rouge_2), ("rougeL", rouge_l)):
        expected = sum(function(c, r) for c, r in zip(completions, references, strict=True)) / 2
        assert scores[name] == pytest.approx(expected)
    assert scores["rouge1"] == pytest.approx((2 * 2 / 5 + 2 * 1 / 5) / 2)


@given(TEXTS, TEXTS)
def test_scores_are_between_nothing_and_all(completion, answer):
    for function in (bleu, rouge_1, rouge_2, rouge_l):
        value = function(completion, answer)
        assert isinstance(value, float) and 0.0 <= value <= 1.0
    assert 0.0 <= corpus_bleu([completion], [answer]) <= 100.0
    # the longest common sequence is no longer than the words in common
    assert rouge_l(completion, answer) <= rouge_1(completion, answer)
    if completion:
        assert bleu(completion, completion) == rouge_1(completion, completion) == rouge_l(completion, completion) == 1.0
    if len(completion.split()) >= 4:
        assert corpus_bleu([completion], [completion]) == 100.0


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_has_scores(completion, answer):
    for function in (bleu, rouge_1, rouge_2, rouge_l):
        assert 0.0 <= function(completion, answer) <= 1.0


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6), st.randoms())
def test_the_order_of_a_corpus_does_not_matter(pairs, random):
    mixed = random.sample(pairs, len(pairs))
    assert corpus_bleu(*zip(*pairs, strict=True)) == pytest.approx(corpus_bleu(*zip(*mixed, strict=True)))
    assert corpus_rouge(*zip(*pairs, strict=True)) == pytest.approx(corpus_rouge(*zip(*mixed, strict=True)))


@pytest.mark.parametrize("function", [corpus_bleu, corpus_rouge])
@pytest.mark.parametrize(("completions", "references"), [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_bad_corpora(function, completions, references):
    with pytest.raises(UserError, match=f"{len(completions)} completions and {len(references)} references"):
        function(completions, references)


def test_they_are_rewards():
    specs = [RewardSpec(name, f"{overlap.__name__}.{name}", 0.5) for name in ("bleu", "rouge_1", "rouge_2", "rouge_l")]
    samples = [Sample("q", "the cat sat", "the cat sat", 3, False), Sample("q", "no", "the cat sat", 1, False)]
    rewards = score_all(bind_all(specs, None), samples, task=None, timeout_s=5.0)
    assert rewards.total.tolist() == [2.0, 0.0] and rewards.errors == 0
