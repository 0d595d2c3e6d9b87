"""Is a golden made again the golden?  Floats of the peers differ in their last bits from one CPU to the next."""

import json

import ml_dtypes
import numpy as np

FLOATS = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}
CODES_APART = 0.01  # the share of bytes that may differ: a value between two codes may fall on either side


def assert_remade(new: dict, old: dict) -> None:
    """Two sets of arrays by name: floats within a few roundings of the largest, codes but for a few, text alike."""
    assert set(new) == set(old)
    for name in sorted(set(old) - {"versions"}):
        _assert_alike(name, _floats(name, np.asarray(new[name])), _floats(name, np.asarray(old[name])))


def _floats(name: str, array: np.ndarray) -> np.ndarray:
    """Bits that make_bnb wrote, as the floats they are: the type of two bytes is part of the name."""
    if array.dtype == np.uint16:
        return array.view(next(kind for word, kind in FLOATS.items() if word in name))
    return array.view(np.float32) if array.dtype == np.uint32 else array


def _assert_alike(name: str, new: np.ndarray, old: np.ndarray) -> None:
    assert new.dtype == old.dtype, name
    if old.dtype in FLOATS.values():
        eps, largest = float(ml_dtypes.finfo(old.dtype).eps), np.abs(old.astype(np.float64)).max()
        near = {"rtol": 2 * eps, "atol": max(1e-6, eps / 100) * largest}
        np.testing.assert_allclose(new.astype(np.float64), old.astype(np.float64), **near, err_msg=name)
    elif "quant_state" in name:
        _assert_same_record(name, json.loads(new.tobytes()), json.loads(old.tobytes()))
    elif old.dtype == np.uint8:
        assert new.shape == old.shape and (new != old).mean() <= CODES_APART, name
    else:
        np.testing.assert_array_equal(new, old, err_msg=name)


def _assert_same_record(name: str, new: dict, old: dict) -> None:
    assert new.keys() == old.keys(), name
    for key, value in old.items():
        alike = np.isclose(new[key], value, rtol=1e-5) if isinstance(value, float) else new[key] == value
        assert alike, f"{name}: {key} is {new[key]}, was {value}"
