"""Settings of every test: strict promotion, one compilation cache, hypothesis without a clock."""

import gc
import os
import pathlib
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import jax
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

hypothesis.settings.register_profile("lqlm", deadline=None, max_examples=20, derandomize=True)
hypothesis.settings.load_profile("lqlm")


MAPS = pathlib.Path("/proc/self/maps")
MOST_MAPS = 20_000
"""Linux gives a process 65,530; every compiled program of XLA's CPU backend takes several, and one too many crashes."""


@pytest.fixture(autouse=True, scope="module")
def forget_programs() -> Iterator[None]:
    """Drop the compiled programs of earlier modules before a process runs out of memory maps."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def goldens() -> pathlib.Path:
    """The folder of arrays made with the peers (see its make_*.py)."""
    return pathlib.Path(__file__).parent / "goldens"
