"""Codebooks: where their numbers come from, and where codes part."""

import statistics

import numpy as np

from lqlm.quant.codebooks import NF4, dynamic_map, thresholds


def test_nf4_is_made_of_normal_quantiles():
    quantile = statistics.NormalDist().inv_cdf
    offset = 0.9677083  # (1 - 1/32 + 1 - 1/30) / 2: the outermost probability, from the paper's code
    positive = [quantile(p) for p in np.linspace(offset, 0.5, 9)[:-1]]
    negative = [-quantile(p) for p in np.linspace(offset, 0.5, 8)[:-1]]
    levels = np.sort(np.array([*negative, 0.0, *positive]))
    np.testing.assert_allclose(NF4, levels / levels.max(), rtol=0, atol=2e-7)
    assert NF4[7] == 0 and NF4[0] == -1 and NF4[15] == 1


def test_dynamic_map_has_the_peers_bits(goldens):
    with np.load(goldens / "bnb.npz") as golden:
        np.testing.assert_array_equal(dynamic_map().view(np.uint32), golden["dynamic_map"])


def test_dynamic_map_is_sorted_and_holds_zero():
    levels = dynamic_map()
    assert levels.shape == (256,) and levels.dtype == np.float32
    assert (np.diff(levels) > 0).all()
    assert levels[127] == 0 and levels[255] == 1
    np.testing.assert_array_equal(levels[:127], -levels[128:255][::-1])


def test_thresholds_part_a_midpoint_to_the_lower_code_of_four_bits():
    middle = (NF4[:-1] + NF4[1:]) / np.float32(2)
    np.testing.assert_array_equal(np.searchsorted(thresholds(NF4), middle), np.arange(15))
    above = np.nextafter(middle, np.float32(2))
    np.testing.assert_array_equal(np.searchsorted(thresholds(NF4), above), np.arange(1, 16))


def test_thresholds_part_a_midpoint_to_the_even_code_of_eight_bits():
    levels = dynamic_map()
    middle = (levels[:-1] + levels[1:]) / np.float32(2)
    codes = np.searchsorted(thresholds(levels), middle)
    assert (codes % 2 == 0).all()
    assert set(codes - np.arange(255)) == {0, 1}
