"""The comparison of goldens sees what a change of the peer would change, and overlooks a CPU's last bits."""

import numpy as np
import pytest

from tests.parity.remade import assert_remade

RNG = np.random.default_rng(0)
OLD = {
    "flat/bfloat16/1000/x": RNG.integers(0x3F00, 0x4000, 1000).astype(np.uint16),
    "matrix/float32/w": RNG.normal(size=(40, 25)).astype(np.float32).view(np.uint32),
    "weight.absmax": RNG.normal(size=80).astype(np.float32),
    "packed": RNG.integers(0, 256, 1000).astype(np.uint8),
    "weight.quant_state": np.frombuffer(b'{"blocksize": 64, "nested_offset": 0.123456}', np.uint8),
    "settings": np.array("{}"),
}
CHANGED = {
    "flat/bfloat16/1000/x": OLD["flat/bfloat16/1000/x"] + np.uint16(8),
    "matrix/float32/w": OLD["matrix/float32/w"] + np.uint32(64),
    "weight.absmax": OLD["weight.absmax"] * np.float32(1.0001),
    "packed": np.where(np.arange(1000) < 20, OLD["packed"] ^ 1, OLD["packed"]),
    "weight.quant_state": np.frombuffer(b'{"blocksize": 64, "nested_offset": 0.123556}', np.uint8),
    "settings": np.array("{ }"),
}


def test_last_bits_are_overlooked():
    near = dict(OLD) | {"weight.absmax": np.nextafter(OLD["weight.absmax"], np.float32(9))}
    near["matrix/float32/w"] = OLD["matrix/float32/w"] + np.uint32(1)
    near["packed"] = np.where(np.arange(1000) == 7, OLD["packed"] ^ 1, OLD["packed"])
    near["weight.quant_state"] = np.frombuffer(b'{"blocksize": 64, "nested_offset": 0.1234561}', np.uint8)
    assert_remade(near, OLD)


@pytest.mark.parametrize("name", OLD)
def test_a_change_is_seen(name):
    with pytest.raises(AssertionError):
        assert_remade(OLD | {name: CHANGED[name]}, OLD)


def test_a_golden_more_is_seen():
    with pytest.raises(AssertionError):
        assert_remade(OLD | {"more": np.zeros(1)}, OLD)
