"""Probabilities of legal answers against sequences scored one by one, whatever the order, the padding and the batch."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.errors import UserError
from lqlm.io.monitor import CompilationCounter
from lqlm.models.transformer import forward, logits
from lqlm.poker.answers import Answer, act_of, chosen_answer
from lqlm.poker.policy import (
    Question,
    Shapes,
    answer_logprobs,
    answer_probabilities,
    legal_answers,
    pad_questions,
    score_questions,
)
from lqlm.poker.record import HandError
from lqlm.poker.replay import replay
from lqlm.poker.state import ViewConfig, state_of
from tests.poker.random_hands import random_hand
from tests.tiny import pad, ragged, tiny_adapters, tiny_base, tiny_config

CFG = tiny_config()
BASE = tiny_base(jax.random.key(0), CFG)
ADAPTERS = tiny_adapters(jax.random.key(1), BASE)
SHAPES = Shapes(rows=2, prompt=8, answers=4, tokens=4)
QUESTIONS = [
    Question(ragged(0, (5,), 23)[0].tolist(), [x.tolist() for x in ragged(1, (1, 3, 2), 23)]),
    Question(ragged(2, (8,), 23)[0].tolist(), [x.tolist() for x in ragged(3, (4, 1, 1, 2), 23)]),
    Question(ragged(4, (1,), 23)[0].tolist(), [x.tolist() for x in ragged(5, (2,), 23)]),
]
compiled = jax.jit(functools.partial(answer_logprobs, cfg=CFG, chunk=16))


def score(*arrays):
    return compiled(BASE, ADAPTERS, *arrays)


@functools.cache
def one_by_one():
    """Each answer's sum of log-probabilities from a row of its own, prompt and answer."""
    run = jax.jit(lambda row, mask: jax.nn.log_softmax(logits(BASE, forward(BASE, ADAPTERS, row, mask, CFG)), axis=-1))
    found = []
    for prompt, answers in QUESTIONS:
        found.append([])
        for answer in answers:
            logp = np.asarray(run(*pad([np.array([*prompt, *answer])], 12, "right")), np.float64)[0]
            found[-1].append(sum(logp[len(prompt) - 1 + c, token] for c, token in enumerate(answer)))
    return found


@pytest.mark.parametrize(
    "shapes", [SHAPES, Shapes(rows=3, prompt=5, answers=1, tokens=1), Shapes(rows=1, prompt=16, answers=6, tokens=7)]
)
def test_scores_are_those_of_separate_sequences(shapes):
    found = score_questions(score, QUESTIONS, shapes, pad_id=3)
    for got, want in zip(found, one_by_one(), strict=True):
        assert got.shape == (len(want),)
        np.testing.assert_allclose(got, want, atol=5e-5)
    assert np.std(np.concatenate(found)) > 1


def test_answers_in_another_order_have_the_same_scores():
    turned = [Question(prompt, answers[::-1]) for prompt, answers in QUESTIONS]
    for got, want in zip(score_questions(score, turned, SHAPES, 0), one_by_one(), strict=True):
        np.testing.assert_allclose(got[::-1], want, atol=5e-5)


@pytest.mark.parametrize(
    ("rows", "questions", "batches"),
    [(32, 8, [8]), (32, 9, [32]), (32, 33, [32, 8]), (32, 41, [32, 32]), (28, 3, [28])],
)
def test_a_last_batch_of_few_questions_has_few_rows(rows, questions, batches):
    seen = []

    def count(prompts, mask, answers, answer_mask):
        seen.append(len(prompts))
        return np.broadcast_to(prompts[:, -1:], answers.shape[:2])

    asked = [Question([number], [[1]]) for number in range(questions)]
    found = score_questions(count, asked, Shapes(rows, prompt=8, answers=1, tokens=1), 0)
    assert [int(one[0]) for one in found] == list(range(questions)) and seen == batches


def test_the_second_batch_compiles_nothing():
    first, second = QUESTIONS[:1], [Question([1, 2], [[3], [4, 5]]), Question([6] * 7, [[7, 8, 9, 1]] * 4)]
    score_questions(score, first, SHAPES, 0)
    with CompilationCounter() as counter:
        score_questions(score, second, SHAPES, 0)
    assert counter.total == 0


@given(st.lists(st.floats(-700, 0), min_size=1, max_size=12), st.floats(0.1, 3))
def test_probabilities_of_answers(logprobs, temperature):
    answers = [Answer("raise", i) for i in range(len(logprobs))]
    found = answer_probabilities(answers, np.array(logprobs), temperature)
    assert list(found) == answers and abs(sum(found.values()) - 1) < 1e-9
    scaled = np.exp(np.array(logprobs) / temperature - max(logprobs) / temperature)
    np.testing.assert_allclose(list(found.values()), scaled / scaled.sum(), atol=1e-12)


@given(st.integers(0, 300))
def test_every_answer_is_legal_and_the_true_one_is_among_them(seed):
    hand = random_hand(seed)
    view = ViewConfig(round_up=False)
    for decision in replay(hand).decisions:
        held = tuple(range(52))[-hand.game.hole_cards :]
        if set(held) & set(decision.board):
            continue
        state = state_of(hand, decision, held, view)
        answers = legal_answers(state)
        acts = [act_of(answer, decision, hand.money.decimals) for answer in answers]  # raises what is not legal
        assert len(set(acts)) == len(acts) == len(set(answers))
        true = chosen_answer(decision, hand.money.decimals, state)
        assert true in answers or true.amount == state.all_in
        words = {act.kind.value for act in acts}
        assert ("folds" in words) == bool(decision.legal.call)
        assert (words & {"bets", "raises"} != set()) == bool(decision.legal.most)
        with pytest.raises(HandError):
            act_of(Answer("check" if decision.legal.call else "call"), decision, hand.money.decimals)


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ([], "0 questions for 2 rows"),
        (QUESTIONS, "3 questions for 2 rows"),
        ([Question([], [[1]])], "question 0: a prompt or an answer has no tokens"),
        ([Question([1], [])], "question 0"),
        ([Question([1], [[1], []])], "question 0"),
    ],
)
def test_what_cannot_be_padded(questions, message):
    with pytest.raises(UserError, match=message):
        pad_questions(questions, SHAPES, 0)
    with pytest.raises(UserError, match="all sizes are 1 or more"):
        Shapes(rows=0)


def test_rows_that_are_left_over_repeat_the_first():
    batch = pad_questions(QUESTIONS[:1], SHAPES, pad_id=9)
    assert [array.shape for array in batch] == [(2, 8), (2, 8), (2, 4, 4), (2, 4, 4)]
    assert all((array[0] == array[1]).all() for array in batch)
    assert (batch.prompts_BP[~batch.prompt_mask_BP] == 9).all() and batch.prompt_mask_BP[0, -5:].all()
    assert batch.answer_mask_BGC[0].sum(-1).tolist() == [1, 3, 2, 0]
