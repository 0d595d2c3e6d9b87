import hypothesis.strategies as st
import pytest
from hypothesis import given

from lqlm.tasks.base import AnswerFormat, last_number, numbers_equal, only_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12.5 apples", "12.5"),
        ("1,234", "1234"),
        ("1234", "1234"),
        ("it costs $1,234,567.50!", "1234567.50"),
        ("= 7.", "7"),
        ("7...", "7"),
        ("It is \u22123", "-3"),  # the typographic minus
        ("It is \u20133", "-3"),  # an en dash
        ("x = -3.", "-3"),
        ("=-3", "-3"),
        ("**-3**", "-3"),
        ("(-3)", "-3"),
        ("答案是-3", "-3"),
        ("5-3", "3"),
        ("5 - 3", "3"),
        ("5 -3", "3"),
        ("(1 + 4) -3", "3"),
        ("x-3", "3"),
        ("2 * -3", "-3"),
        ("10 \u2212 13 = \u22123", "-3"),
        ("Step 5\n-3", "-3"),
        ("- 3 apples", "3"),
        ("pages 1\u20133", "3"),
        ("$5", "5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("€ 5", "5"),
        ("50%", "50"),
        ("+5", "5"),
        (".5", ".5"),
        ("is .5", ".5"),
        ("1,2,3", "3"),
        ("1234,567", "567"),
        ("12,34", "34"),
        ("1,234,5678", "5678"),
        ("v1.2.3", "3"),
        ("\\boxed{42}", "42"),
        ("007", "007"),
        ("٣", None),  # digits of other scripts are not read
        ("no number, - and $", None),
        ("", None),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (" 7\n", "7"), ("1,024", "1024"), ("1024", "1024"), ("\u22123", "-3"), ("+3", "3"), (".5", ".5"),
        ("0.50", "0.50"),
        ("7.", None), ("$5", None), ("7 apples", None), ("= 7", None), ("7 8", None), ("", None), ("--3", None),
        ("1,02", None), ("1 024", None), ("5%", None),
    ],
)  # fmt: skip
def test_only_number(text, number):
    assert only_number(text) == number


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("1,024", "1024"),
        ("7.0", "7"),
        ("\u22123", "-3"),
        ("$5", "5"),
        ("50%", "50"),
        ("5 €", "5."),
        ("007", "7"),
        ("-0", "0"),
        ("9" * 5000, "9" * 5000 + ".0"),
        ("blue", " blue "),
    ],
)
def test_equal(left, right):
    assert numbers_equal(left, right) and numbers_equal(right, left)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("3", "-3"), ("7.01", "7"), ("1024", "24"), ("1,02", "102"), ("", "0"), ("nan", "0"), ("$", "0"), ("1e1", "10"),
        ("9" * 40, "9" * 39 + "8"),  # no rounding, as floats would
    ],
)  # fmt: skip
def test_not_equal(left, right):
    assert not numbers_equal(left, right) and not numbers_equal(right, left)


@given(
    st.integers(-(10**9), 10**9), st.sampled_from(["{}", "{:,}", "${:,}", "so {}.", "1 + 1 = 2\n\n{:,}!", "<b>{}</b>"])
)
def test_any_integer_is_found(value, wrapping):
    assert numbers_equal(last_number(wrapping.format(value)), str(value))


@given(st.text())
def test_a_bare_number_is_the_last_number(text):
    found = only_number(text)
    assert found is None or found == last_number(text)


def test_long_texts_take_linear_time():
    assert last_number("1" * 100_000 + " ") is not None
    assert last_number(" -" * 100_000) is None
    assert last_number("1,111" * 50_000) is not None


@pytest.mark.parametrize("answer_format", AnswerFormat)
@given(value=st.integers(-(10**6), 10**6))
def test_what_is_written_is_read_back(answer_format, value):
    text = answer_format.write(str(value))
    assert answer_format.extract(text) == str(value)
    assert last_number(text) == str(value)


@pytest.mark.parametrize("answer_format", [AnswerFormat.LABEL, AnswerFormat.TAG, AnswerFormat.HASHES])
def test_formats_allow_work_before_the_answer_and_nothing_after(answer_format):
    good = answer_format.write("7")
    assert answer_format.extract(f"3 + 4 = 7\n{good}\n") == "7"
    assert answer_format.extract("7") is None
    assert answer_format.extract(f"{good} I think") is None
    assert answer_format.extract(f"{good}\nor 8") is None
    assert answer_format.extract(f"{answer_format.write('6')}\n{good}") is None  # naming two answers
    assert answer_format.extract(answer_format.write("seven")) is None
    assert answer_format.inner(f"{answer_format.write('red')}\n{answer_format.write('blue')}") is None


def test_a_label_starts_its_line():
    assert AnswerFormat.LABEL.extract("My Answer: 7") is None
    assert AnswerFormat.HASHES.extract("so #### 7") is None
    assert AnswerFormat.HASHES.extract("####7") is None
    assert AnswerFormat.TAG.extract("so <answer> 7 </answer>") == "7"
    assert AnswerFormat.TAG.extract("so <answer>7") is None
    assert AnswerFormat.NUMBER.extract("Answer: 7") is None
