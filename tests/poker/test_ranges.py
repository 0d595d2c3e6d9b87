"""Ranges as eval7 reads them, percentages and weights that add up, and what is no range."""

import warnings

import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.poker.cards import cards
from lqlm.poker.ranges import STRONGEST_FIRST, pair_classes, parse_range, top_fraction
from lqlm.poker.tables import pair_index

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # eval7 0.1.11 calls pyparsing by its old names
    import eval7

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize(
    "text",
    ["22+, AJs+, KQo, A5s-A2s", "TT-77", "77-TT", "AK", "AsKh, 7c7d", "T6s+", "A7o-ATo", "AA, AA, AKs", "QJo, QJ"],
)
def test_a_range_is_what_eval7_reads(text):
    expected = np.zeros(1326)
    expected[[pair_index(*cards("".join(map(str, hand)))) for hand, _ in eval7.HandRange(text).hands]] = 1.0
    np.testing.assert_array_equal(parse_range(text), expected)


def test_weights_and_the_random_range():
    found = parse_range("AA, AKs:0.5, AA:0.25")
    assert found.sum() == 6 + 0.5 * 4 and found.dtype == np.float32
    assert parse_range("random").sum() == 1326


def test_percentages_are_exact_nested_and_start_with_aces():
    assert sorted(STRONGEST_FIRST) == sorted(set(pair_classes().tolist())) and STRONGEST_FIRST[0] == "AA"
    assert set(STRONGEST_FIRST[-3:]) <= {"32o", "42o", "62o", "52o", "72o"}
    previous = np.zeros(1326)
    for percent in (0.5, 1, 15, 50, 99.9, 100):
        weights = top_fraction(percent / 100)
        assert weights.sum() == pytest.approx(13.26 * percent, rel=1e-5)
        assert (weights >= previous).all()
        previous = weights
    np.testing.assert_array_equal(parse_range("15%"), top_fraction(0.15))
    np.testing.assert_array_equal(parse_range("15%:0.5"), top_fraction(0.15) * np.float32(0.5))


@pytest.mark.parametrize(
    "text", ["", "AAs", "AX", "AsAs", "A5s-K2s", "A5s-A2o", "TT-A7s", "150%", "x%", "AA:2", "AK++"]
)
def test_what_is_no_range_is_said_in_one_line(text):
    with pytest.raises(UserError, match="range") as error:
        parse_range(text)
    assert "\n" not in str(error.value)
