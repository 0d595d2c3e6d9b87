import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from lqlm.errors import UserError
from lqlm.rewards.combine import score_all
from lqlm.rewards.specs import RewardSpec, Sample, bind_all
from lqlm.rewards.unit_tests import all_unit_tests_passed, extract_code, split_tests, unit_tests_passed

TESTS = "import math\ndef near(a, b): return math.isclose(a, b)\nassert near(area(1), math.pi)\nassert area(0) == 0"


def block(code, language="python"):
    return f"Here:\n\n```{language}\n{code}\n```\n"


RIGHT, HALF = "import math\ndef area(r): return math.pi * r * r", "def area(r): return 3 * r * r"


def test_shares_and_all_or_nothing():
    for code, share in ((RIGHT, 1.0), (HALF, 0.5), ("def area(r): return 1", 0.0)):
        assert unit_tests_passed(block(code), TESTS) == share
        assert all_unit_tests_passed(block(code), TESTS) == float(share == 1.0)
    assert unit_tests_passed(block("def area(r): return math.pi * r * r"), TESTS, setup="import math") == 1.0


def test_a_function_that_checks_is_one_test():
    tests = "def check(f):\n    assert f(2) == 4\n    assert f(3) == 9\ncheck(square)"
    assert unit_tests_passed(block("def square(n): return n * n"), tests) == 1.0
    assert unit_tests_passed(block("def square(n): return 2 * n"), tests) == 0.0
    assert [is_test for _, is_test in split_tests(tests)] == [False, True]
    assert [is_test for _, is_test in split_tests("x: int = int('3')\ny = int('3')\nassert x")] == [False, False, True]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx\n```", "x\n"),
        ("```py\nx\n```", "x\n"),
        ("```\nx\n```", "x\n"),
        ("```python\nx\n```\nBetter:\n```python\ny\n```", "y\n"),
        ("```python\nx\n```\nRun it:\n```bash\npython x.py\n```", "x\n"),
        ("```python\nx\n```\nand\n```python\ny", "x\n"),
        ("```python\nx", None),
        ("```python\nx\n```python\ny\n```", "y\n"),
        ("```python\nx\n```bash\ny\n```", None),
        ("x", None),
        ("``` \n```", ""),
        ("  ```python\n  x\n  ```", "  x\n"),
        ("", None),
        (" \n", None),
    ],
)
def test_extraction(text, code):
    assert extract_code(text) == code


@given(st.text(alphabet="`\n pyx", max_size=60) | st.text())
def test_any_text_has_a_block_or_none(text):
    found = extract_code(text)
    assert found is None or found in text


@pytest.mark.parametrize(
    "text", ["", " \n", "```python\n\n```", "\0", "\ud800", "```python\n\ud800\0\n```", "x" * 10**6, "```\n" * 10**5]
)
def test_texts_without_a_program(text):
    assert unit_tests_passed(text, TESTS) == 0.0


@settings(max_examples=5, deadline=None)
@given(st.text())
def test_any_program_has_a_score(code):
    assert 0.0 <= unit_tests_passed(block(code), TESTS) <= 1.0


@pytest.mark.parametrize("tests", ["", "x = 1", "assert (", "\0", "def check(f): assert f"])
def test_bad_tests_are_the_reference_s_fault(tests):
    with pytest.raises(UserError, match="mend the reference answer") as caught:
        unit_tests_passed(block(RIGHT), tests)
    assert "\n" not in str(caught.value)


def test_they_are_rewards():
    specs = [
        RewardSpec("share", "lqlm.rewards.unit_tests.unit_tests_passed", params={"cpu_s": 1}),
        RewardSpec("all", "lqlm.rewards.unit_tests.all_unit_tests_passed", 2.0),
    ]
    samples = [Sample("q", text, TESTS, 9, False) for text in (block(RIGHT), block(HALF), "no", block("while 1: pass"))]
    rewards = score_all(bind_all(specs[:1], None), samples, task=None, timeout_s=20.0)
    assert rewards.total.tolist() == [1.0, 0.5, 0.0, 0.0] and rewards.errors == 0
    assert score_all(bind_all(specs, None), samples[:2], task=None, timeout_s=20.0).total.tolist() == [3.0, 0.5]
    slow = [Sample("q", block("import time; time.sleep(9)"), TESTS, 9, False), samples[0]]
    cut = score_all(bind_all(specs[:1], None), slow, task=None, timeout_s=3.0)  # the run's limit is the shorter one
    assert cut.total.tolist() == [0.0, 1.0] and cut.errors == 1
