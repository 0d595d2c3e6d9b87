"""TRL's SFTTrainer itself, against the stored goldens and against lqlm."""

import importlib.util
import pathlib

import numpy as np
import pytest

pytest.importorskip("trl")

from tests.algorithms.sft_cases import check, lqlm_model

GOLDENS = pathlib.Path(__file__).parent.parent / "goldens"


def load_maker():
    spec = importlib.util.spec_from_file_location("make_sft", GOLDENS / "make_sft.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


maker = load_maker()


def test_goldens_are_reproduced():
    stored, made = np.load(GOLDENS / "sft.npz"), maker.make(GOLDENS / "transformers")
    assert set(made) == set(stored.files) - {"versions"}
    for name, want in made.items():
        np.testing.assert_allclose(stored[name], want, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", maker.MODELS)
@pytest.mark.parametrize("loss", maker.LOSSES)
def test_fresh_rows_equal_trl(name, loss):
    model = maker.load(GOLDENS / "transformers" / name)
    rows = maker.make_rows(model, seed=7)
    found = maker.trl_loss(model, loss, [maker.padded(rows)])
    check(lqlm_model(GOLDENS / "transformers" / name), rows, loss, found)
