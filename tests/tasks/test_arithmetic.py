import dataclasses
import re

import hypothesis.strategies as st
import pytest
from hypothesis import given

from lqlm.errors import UserError
from lqlm.tasks import arithmetic
from lqlm.tasks.arithmetic import ArithmeticConfig, arithmetic_task, evaluate, expression_at, problem_count, render
from lqlm.tasks.base import score

configs = st.builds(
    ArithmeticConfig,
    operators=st.sampled_from(["+", "-", "*", "+*", "+-*", "*-"]),
    operands=st.sampled_from([(0, 9), (1, 3), (10, 99), (0, 12345)]),
    terms=st.just((2, 5)),
    brackets=st.booleans(),
)


@given(configs, st.integers(2, 5), st.data())
def test_values_follow_the_precedence_of_the_printed_text(config, terms, data):
    expression = expression_at(data.draw(st.integers(0, problem_count(config, terms) - 1)), terms, config)
    text = render(expression, "x")
    assert re.fullmatch(r"[0-9x()+\- ]+", text)
    assert evaluate(expression) == eval(text.replace("x", "*"))  # Python's parser is the independent judge
    assert len(re.findall(r"[0-9]+", text)) == terms
    low, high = config.operand_range
    assert all(low <= int(n) <= high for n in re.findall(r"[0-9]+", text))
    assert set(re.findall(r"[+\-x]", text)) <= set(config.operators.replace("*", "x"))


@pytest.mark.parametrize("brackets", [False, True])
def test_the_numbering_reaches_every_expression_once(brackets):
    config = ArithmeticConfig(operators="+*", operands=(0, 2), terms=4, brackets=brackets)
    texts = {render(expression_at(i, 4, config), "x") for i in range(problem_count(config, 4))}
    places = 1 + (3 + 2) * brackets  # pairs and triples of four terms
    assert len(texts) == problem_count(config, 4) == 3**4 * 2**3 * places
    assert ("(0 + 1) x 2 + 0" in texts) == ("1 x (2 + 0 x 1)" in texts) == brackets


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ((3, "+", 4), (4, "+", 3), True),
        ((3, "*", 4), (4, "*", 3), True),
        ((3, "-", 4), (4, "-", 3), False),
        ((1, "+", 2, "*", 3), (3, "*", 2, "+", 1), True),
        ((1, "*", 2, "+", 3), (1, "+", 2, "*", 3), False),
        ((1, "-", 2, "+", 3), (1, "+", 3, "-", 2), True),
        (((1, "+", 2), "*", 3), (3, "*", (2, "+", 1)), True),
        ((12, "+", 3), (1, "+", 23), False),
        (((1, "+", 2), "+", 3, "+", 4), ((1, "+", 2, "+", 3), "+", 4), False),
    ],
)
def test_canonical(left, right, same):
    assert (arithmetic.canonical(left) == arithmetic.canonical(right)) == same


def expressions(items):
    return [item.id.removeprefix("arithmetic/") for item in items]


def operands(text):
    return tuple(sorted(re.findall(r"[0-9]+|[+x-]", text)))


@pytest.mark.parametrize("digits", [1, 2, 6])  # enumerated whole, and sampled
def test_the_split_is_disjoint_without_duplicates_even_with_terms_swapped(digits):
    task = arithmetic_task(
        ArithmeticConfig(operators="+*", digits=digits, heldout=40, train=100_000 if digits == 1 else 500, shots=3)
    )
    texts = expressions(task.train) + expressions(task.heldout)
    assert len(set(texts)) == len(texts)
    assert not {operands(t) for t in expressions(task.train)} & {operands(t) for t in expressions(task.heldout)}
    assert len(task.heldout) == 40
    assert len(task.train) == 500 or (digits == 1 and 140 <= len(task.train) <= 157)
    questions = {item.question for item in (*task.train, *task.heldout)}
    assert len(task.shots) == 3 and not questions & {question for question, _ in task.shots}


@pytest.mark.parametrize("enumerable", [0, 100])
@pytest.mark.parametrize("heldout", range(10, 20))
def test_wherever_the_cut_falls_swapped_terms_stay_together(monkeypatch, enumerable, heldout):
    monkeypatch.setattr(arithmetic, "_ENUMERABLE", enumerable)
    task = arithmetic_task(ArithmeticConfig(operators="+", heldout=heldout))
    assert len(task.heldout) == heldout
    assert not {operands(t) for t in expressions(task.train)} & {operands(t) for t in expressions(task.heldout)}


def test_the_split_is_the_same_on_every_machine():
    config = ArithmeticConfig(operators="+", heldout=4, train=3)
    assert expressions(arithmetic_task(config).heldout) == ["8 + 8", "4 + 9", "9 + 4", "4 + 7"]
    large = dataclasses.replace(config, digits=5, terms=3)
    assert expressions(arithmetic_task(large).heldout)[:2] == ["55599 + 58824 + 12080", "97587 + 64837 + 33059"]


def test_held_out_items_do_not_depend_on_the_size_of_the_training_set():
    small, large = (arithmetic_task(ArithmeticConfig(train=n, digits=3)) for n in (10, 1000))
    assert small.heldout == large.heldout
    assert list(small.train) == list(large.train[:10])
    assert arithmetic_task(ArithmeticConfig(seed=1)).heldout != arithmetic_task(ArithmeticConfig(seed=0)).heldout


def test_term_counts_have_equal_shares():
    task = arithmetic_task(ArithmeticConfig(terms=(2, 4), digits=2, train=300, heldout=30))
    counts = [len(re.findall(r"[0-9]+", text)) for text in expressions(task.train)]
    assert all(abs(counts.count(n) - 100) <= 5 for n in (2, 3, 4))


def test_a_large_space_is_exhausted_at_most(monkeypatch):
    monkeypatch.setattr(arithmetic, "_ENUMERABLE", 10)
    task = arithmetic_task(ArithmeticConfig(operators="-", operands=(0, 4), heldout=5, train=1000))
    assert len(task.train) + len(task.heldout) == 25


@pytest.mark.parametrize("answer_format", ["number", "label", "tag", "hashes"])
def test_shots_and_references_earn_the_strict_score(answer_format):
    config = ArithmeticConfig(answer_format=answer_format, shots=4, terms=3)
    task = arithmetic_task(config)
    for question, reply in task.shots:
        value = str(eval(re.search(r"What is (.*)\?", question)[1].replace("x", "*")))
        assert task.strict(reply) == value
        assert question.endswith(f"? {arithmetic.AnswerFormat(answer_format).instruction}")
    item = task.heldout[0]
    assert score(task, f"I say {item.answer}.", item).strict == 0.0
    assert score(task, f"I say {item.answer}.", item).lenient == 1.0


def test_the_question():
    config = ArithmeticConfig(terms=3)
    assert arithmetic.arithmetic_item((2, "+", 2, "*", 6), config) == arithmetic.Item(
        "What is 2 + 2 x 6? Answer with the number only.", "14", "arithmetic/2 + 2 x 6", "2 x 6 = 12\n2 + 12 = 14"
    )
    custom = ArithmeticConfig(template="{expression} = {}", times="*")
    assert arithmetic.arithmetic_item((2, "*", 6), custom).question == "2 * 6 = {}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"operators": "+"}, "give 100 distinct problems, too few for heldout=128"),
        ({"operators": "+", "operands": (0, 1), "heldout": 4}, "4 distinct problems"),
        ({"operators": "/"}, "operators='/'"),
        ({"operators": "++"}, "each once"),
        ({"operators": ""}, "operators=''"),
        ({"digits": 0}, "digits=0"),
        ({"operands": (5, 2)}, r"operands=\(5, 2\)"),
        ({"operands": (-5, 2)}, r"operands=\(-5, 2\)"),
        ({"terms": 1}, "terms=1"),
        ({"terms": (4, 2)}, r"terms=\(4, 2\)"),
        ({"brackets": True}, "3 terms or more"),
        ({"template": "What?"}, "must contain {expression}"),
        ({"heldout": 0}, "heldout=0"),
        ({"train": 0}, "train=0"),
        ({"shots": -1}, "shots=-1"),
        ({"answer_format": "xml"}, "number, label, tag, hashes"),
    ],
)
def test_errors(changes, words):
    with pytest.raises(UserError, match=words) as caught:
        arithmetic_task(ArithmeticConfig(**changes))
    assert "\n" not in str(caught.value)


def test_each_step_of_a_solution_is_true_and_the_last_is_the_answer():
    task = arithmetic_task(ArithmeticConfig(terms=(2, 4), brackets=True, train=200, heldout=10))
    for item in task.train:
        lines = item.solution.split("\n")
        for line in lines:
            left, right = line.replace("x", "*").split("=")
            assert eval(left) == int(right), line
        assert lines[-1].endswith(f"= {item.answer}")
        operators = sum(item.id.count(sign) for sign in (" + ", " - ", " x "))
        assert len(lines) == operators  # one operation a step, none left out
