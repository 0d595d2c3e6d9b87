"""Every example in a docstring gives what it says."""

import doctest
import importlib
import pkgutil

import pytest

import experiments
import lqlm

MODULES = sorted(
    module.name for room in (lqlm, experiments) for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
