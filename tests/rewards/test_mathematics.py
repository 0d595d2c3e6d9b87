# ruff: noqa: RUF001
import contextlib
import pathlib
import subprocess
import sys
import time

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

pytest.importorskip("math_verify", reason="the extra math is not installed")

from lqlm.errors import UserError
from lqlm.rewards import math_worker
from lqlm.rewards.combine import score_all
from lqlm.rewards.mathematics import (
    boxed,
    final_answer,
    marked_answer,
    math_correct,
    math_correct_strict,
    math_equal,
)
from lqlm.rewards.specs import RewardSpec, Sample, bind_all
from lqlm.rewards.worker import Worker

HOSTILE = ["9**9**9**9", "9^{9^{9^9}}", "(" * 400]
CODE = "__import__('pathlib').Path({!r}).touch()"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{7}", "7"),
        (r"so \boxed{6}, I mean \boxed{7}.", "7"),
        (r"$\boxed{\frac{1}{2}}$", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\fbox{7}", "7"),
        (r"<think>\boxed{6}</think><answer>7</answer>", "7"),
        (r"<answer>It is \boxed{7}.</answer>", "7"),
        ("<answer>6</answer> no <answer> 7 </answer>", "7"),
        ("<answer>7", "7"),
        ("The answer is 7.", "7"),
        ("The answer is: **7**", "7"),
        ("Answer: 7", "7"),
        ("She has 3 + 4 = <<3+4=7>>7 eggs.\n#### 7", "7"),
        ("the final answer is 1,234 because 2 is even.", "1,234"),
        ("The answer is $7$ apples. I checked it.", "7"),
        ("The answer is 3.5.", "3.5"),
        ("The answer is 2x + 1, since it grows.", "2x + 1"),
        (r"We get \(x + 1\) and then \[ x + 2 \] done", " x + 2 "),
        ("3 + 4 = 7", "7"),
        ("3 + 4 = 7 apples.\nGood.", "7"),
        ("so x = 2y + 1.\nGood.", "2y + 1"),
        ("it earns $400 + $60 = $460 a week", "460"),
        ("it costs $17/$8 or $64 for a glass", "64"),
        ("So $y = 3$ holds.", "y = 3"),
        ("If $x = 2$, there are 3 of them", "3"),
        ("$$ x^2 $$", "x^2"),
        ("I have 7 apples", "7"),
        (r"\boxed{7", "7"),
        (r"\boxed", None),
        ("no idea", None),
        ("", None),
        (" \n", None),
        (r"\boxed{}", None),
        (r"\boxed{ } 7", "7"),  # an empty box marks nothing
    ],
)
def test_the_final_answer(text, answer):
    found = final_answer(text)
    assert (found and found.strip()) == (answer and answer.strip())


def test_the_strict_answer_is_marked():
    assert [marked_answer(t) for t in ("The answer is 7.", "$7$", "= 7", "7")] == [None] * 4
    assert math_correct_strict("The answer is 7.", "7") == 0.0
    assert math_correct_strict("<think>no</think><answer>7</answer>", "7") == 1.0


@given(st.text(alphabet="{}\\boxed$ 7=<answer>/is", max_size=80) | st.text())
def test_any_text_has_an_answer_or_none(text):
    for function in (boxed, marked_answer, final_answer):
        found = function(text)
        assert found is None or isinstance(found, str)


@pytest.mark.parametrize("part", [r"\boxed{", "<answer>", "</answer>", "$", "\\(", "answer is ", "=", "7", "{", "\\"])
def test_extraction_takes_linear_time(part):
    start = time.monotonic()
    final_answer(part * (10**6 // len(part)))
    assert time.monotonic() - start < 10.0


EQUAL = [
    ("7", "7"),
    ("7.0", "7"),
    (r"\frac{1}{2}", "0.5"),
    (r"\frac12", "1/2"),
    ("0.333333", r"\frac{1}{3}"),
    ("1,234", "1234"),
    ("−5", "-5"),
    ("50%", "50"),
    ("$5", "5"),
    ("7 apples", "7"),
    ("10 dollars.", "10"),
    (r"5\text{ cm}", "5"),
    ("x = 5", "5"),
    ("5", "x=5"),
    ("x+1", "1+x"),
    ("(x+1)^2", "x^2+2x+1"),
    ("x**2 - 1", "(x-1)(x+1)"),
    (r"\sin^2 x + \cos^2 x", "1"),
    ("sqrt(2)/2", r"\frac{1}{\sqrt{2}}"),
    ("√2", "2^(1/2)"),
    ("π/2", r"\frac{\pi}{2}"),
    (r"\{1, 2\}", r"\{2, 1\}"),
    ("[1, 2)", "[1,2)"),
    ("x < 3", "3 > x"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    (r"\int_0^1 x^2 dx", "1/3"),
    ("Paris", "paris"),
    ("7", r"\boxed{7}"),
    ("7", "$7$"),
]
DIFFERENT = [
    ("7", "8"),
    ("7", "-7"),
    ("x+1", "x+2"),
    ("x", "y"),
    ("0.3333", r"\frac{1}{3}"),
    (r"\frac{1}{2}", "2"),
    ("(1, 2)", "(2, 1)"),
    ("[1, 2)", "[1, 2]"),
    ("x < 3", "x > 3"),
    ("silent", "listen"),  # the product of the same letters
    ("the city of Paris", "Paris"),
    ("", "7"),
    ("7", ""),
    (r"\frac{1}{", "1"),
    ("1" * 2000, "1" * 2000),
]


@pytest.mark.parametrize(("answer", "reference"), EQUAL)
def test_equal(answer, reference):
    assert math_equal(answer, reference)
    assert math_correct(rf"So \boxed{{{answer}}}.", reference) == 1.0


@pytest.mark.parametrize(("answer", "reference"), DIFFERENT)
def test_different(answer, reference):
    assert not math_equal(answer, reference)


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6))
@settings(max_examples=20, deadline=None)
def test_fractions_are_what_python_makes_of_them(n, d):
    from fractions import Fraction

    value = Fraction(n, d)
    assert math_equal(rf"\frac{{{n}}}{{{d}}}", str(value))
    assert not math_equal(str(value + 1), f"{n}/{d}")


def test_hostile_expressions_cost_their_own_reward_only():
    start = time.monotonic()
    texts = [text for bad in HOSTILE for text in (rf"\boxed{{{bad}}}", "The answer is 7.")]
    samples = [Sample("q", text, "7", 9, False) for text in texts]
    spec = RewardSpec("math", "lqlm.rewards.mathematics.math_correct", params={"cpu_s": 0.5, "memory_mb": 512})
    rewards = score_all(bind_all([spec], None), samples, task=None, timeout_s=30.0)
    assert rewards.total.tolist() == [0.0, 1.0] * len(HOSTILE) and rewards.errors == 0
    assert time.monotonic() - start < 60


def test_the_limits_end_the_process():
    """Time is counted by the kernel, so it ends a single C function; memory comes back as an answer or an end."""
    command = [sys.executable, "-P", str(pathlib.Path(math_worker.__file__)), "0.3", "256"]
    worker = Worker(command, wall_s=30.0)
    assert worker.ask({"answer": "1/2", "reference": "0.5"}) is True and worker.starts == 1
    start = time.monotonic()
    assert worker.ask({"answer": "10^{10^{9}}", "reference": "7"}) in (None, False)
    assert time.monotonic() - start < 20.0
    assert worker.ask({"answer": "1/2", "reference": "0.5"}) is True
    worker.close()


def test_memory_is_limited():
    load = f"import runpy; w = runpy.run_path({math_worker.__file__!r}); w['limit'](256); print('on', flush=True)"
    run = [sys.executable, "-c", f"{load}; bytearray(1 << 29)"]
    ended = subprocess.run(run, capture_output=True, text=True)
    assert ended.stdout == "on\n" and "MemoryError" in ended.stderr


def test_text_is_never_run(tmp_path):
    trace = tmp_path / "trace"
    code = CODE.format(str(trace))
    for text in (code, f"f({code})", rf"\text{{{code}}}", rf"\operatorname{{{code}}}(1)", f"1 + {code}", f"${code}$"):
        for answer in (rf"\boxed{{{text}}}", f"<answer>{text}</answer>", f"The answer is {text}"):
            assert math_correct(answer, "7") == 0.0
            math_equal("7", text)
    assert not trace.exists()


def test_sympy_reads_numbers_only(tmp_path, monkeypatch):
    """In the worker, text that reaches sympy's own parser is a number or an error."""
    import sympy
    import sympy.parsing.sympy_parser as parser

    monkeypatch.setattr(parser, "eval_expr", parser.eval_expr)  # put back afterwards
    equal = math_worker.comparison()
    assert parser.eval_expr is math_worker._number
    assert sympy.sympify("12") == 12 and sympy.sympify("-1.5") == sympy.Float("-1.5") and equal("1.50", "3/2")
    trace = tmp_path / "trace"
    for text in (CODE.format(str(trace)), "sin(1)", "x", "1 + 1", "Integer(1).__class__", "[1]"):
        with contextlib.suppress(sympy.SympifyError, ValueError, SyntaxError, TypeError, AttributeError):
            pytest.fail(f"{text} became {sympy.sympify(text)!r}")
    assert not trace.exists()


@pytest.mark.parametrize(
    "text", ["", " \n", "\0", "\ud800", r"\boxed{\0}", "\\boxed{\ud800}", "7" * 10**6, "\\" * 10**6]
)
def test_texts_without_an_answer(text):
    assert math_correct(text, "8") == math_correct_strict(text, "8") == 0.0


@settings(max_examples=15, deadline=None)
@given(st.text(max_size=30) | st.text(alphabet="0123456789+-*/^(){}\\fracsqrt x=,", max_size=30))
def test_any_answer_is_compared(text):
    assert math_correct(rf"\boxed{{{text}}}", "12345.678") == 0.0
    assert math_correct("<answer>7</answer>", text) in (0.0, 1.0)


def test_a_missing_package_says_what_to_install(tmp_path):
    (tmp_path / "math_verify.py").write_text("raise ImportError('there is no math_verify')")
    script = pathlib.Path(math_worker.__file__)
    launch = f"import sys, runpy; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['', '1', '512']; "
    command = [sys.executable, "-c", f"{launch}runpy.run_path({str(script)!r}, run_name='__main__')"]
    with pytest.raises(UserError, match=r"install 'lqlm\[math\]'"):
        Worker(command, wall_s=5.0).ask({})
