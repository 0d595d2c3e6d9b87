"""The house's floors: every import points down, and each floor knows only its libraries."""

import ast
import pathlib
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
NUMERICS = {
    f"lqlm.{room}"
    for room in ("errors", "types", "order", "quant", "masked", "logprobs", "trees", "layout", "sharding")
}
MODELS = NUMERICS | {"lqlm.adapters", "lqlm.models"}
BELOW_THE_EDGES = MODELS | {"lqlm.algorithms", "lqlm.optim", "lqlm.generation"}
EDGES = {f"lqlm.{room}" for room in ("io", "tasks", "rewards", "poker")}

# Each room: the rooms it may import besides itself.
ROOMS: dict[str, set[str]] = {
    "lqlm": set(),
    **{room: NUMERICS for room in NUMERICS},
    "lqlm.adapters": NUMERICS,
    "lqlm.models": NUMERICS | {"lqlm.adapters"},
    "lqlm.algorithms": NUMERICS,
    "lqlm.optim": NUMERICS,
    "lqlm.generation": MODELS,
    "lqlm.io": BELOW_THE_EDGES | {"lqlm"},  # lqlm itself: the version
    "lqlm.tasks": BELOW_THE_EDGES | {"lqlm.poker"},
    "lqlm.rewards": BELOW_THE_EDGES | {"lqlm.tasks", "lqlm.poker"},
    "lqlm.poker": BELOW_THE_EDGES,
    "experiments": BELOW_THE_EDGES | EDGES,
    "benchmarks": BELOW_THE_EDGES | EDGES | {"experiments", "configs"},
    "configs": BELOW_THE_EDGES | EDGES | {"experiments"},
}
# Libraries: a room that is not named may use any but those of NEVER.
FLOOR_0 = {"jax", "numpy", "chex", "flax.struct"}
LIBRARIES: dict[str, set[str]] = {
    **{room: FLOOR_0 for room in NUMERICS},
    "lqlm.quant": FLOOR_0 | {"scipy"},  # an integer program on the host; jax itself depends on scipy
    "lqlm": set(),
    "lqlm.adapters": FLOOR_0,
    "lqlm.models": FLOOR_0 | {"flax.linen"},
    **{room: FLOOR_0 | {"optax"} for room in ("lqlm.algorithms", "lqlm.optim", "lqlm.generation")},
}
NEVER = {"absl", "ml_collections", "torch"}  # in lqlm, at any depth of any function


def inside(module: str, names: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def room_of(module: str) -> str | None:
    """The room of a module of this house, None for a library."""
    top = module.split(".")[0]
    if top not in ("lqlm", "experiments", "benchmarks", "configs"):
        return None
    return ".".join(module.split(".")[:2]) if top == "lqlm" else top


def imports(module: str, source: str, package: bool) -> Iterator[str]:
    """Every module that is imported, also inside functions and under TYPE_CHECKING, as a dotted path."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".") + (["__init__"] if package else [])
            start = ".".join(parts[: len(parts) - node.level]) if node.level else ""
            origin = ".".join(filter(None, [start, node.module]))
            # "from lqlm import masked" and "from flax import struct" import the submodule.
            whole = origin in ("lqlm", "flax")
            yield from (f"{origin}.{alias.name}" for alias in node.names) if whole else [origin]


def violations(module: str, source: str, package: bool = False) -> list[str]:
    """What is wrong with the imports of one module."""
    room = room_of(module)
    if room not in ROOMS:
        return [f"{module}: {room} has no floor"]
    wrong = []
    for found in imports(module, source, package):
        target = room_of(found)
        if target is not None:
            if target != room and target not in ROOMS[room]:
                wrong.append(f"{module} imports {found}")
        elif found.split(".")[0] not in sys.stdlib_module_names:
            limited = room in LIBRARIES and not inside(found, LIBRARIES[room])
            if limited or (module.startswith("lqlm") and inside(found, NEVER)):
                wrong.append(f"{module} imports {found}")
    return wrong


def modules() -> Iterator[tuple[str, pathlib.Path]]:
    for top in ("lqlm", "experiments", "benchmarks", "configs"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def test_every_import_points_down():
    found = list(modules())
    rooms = {room_of(module) for module, _ in found}
    assert len(found) > 40 and rooms >= {"lqlm.quant", "lqlm.models", "lqlm.generation", "lqlm.io", "experiments"}
    wrong = [line for m, path in found for line in violations(m, path.read_text(), path.name == "__init__.py")]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("lqlm.quant.matmul", "from lqlm.models.config import ModelConfig"),
        ("lqlm.masked", "import lqlm.adapters.lora"),
        ("lqlm.logprobs", "import optax"),
        ("lqlm.trees", "import flax.linen as nn"),
        ("lqlm.trees", "from flax import linen"),
        ("lqlm.trees", "import flax"),
        ("lqlm.types", "import scipy.special"),
        ("lqlm.adapters.lora", "from lqlm.models import layers"),
        ("lqlm.models.layers", "import optax"),
        ("lqlm.models.layers", "from lqlm.generation import decode"),
        ("lqlm.models.layers", "from ..generation.decode import generate"),
        ("lqlm.algorithms.step", "from lqlm.models.score import completion_logprobs"),
        ("lqlm.algorithms.step", "from lqlm import models"),
        ("lqlm.optim.paged", "from lqlm.algorithms import step"),
        ("lqlm.generation.decode", "from lqlm.io import load"),
        ("lqlm.generation.decode", "from lqlm.algorithms.grpo import grpo_loss"),
        ("lqlm.tasks.base", "from lqlm.rewards.combine import Sample"),
        ("lqlm.io.load", "from lqlm.tasks import base"),
        ("lqlm.io.load", "import experiments.setup"),
        ("lqlm.io.load", "def f():\n    import torch"),
        ("lqlm.io.load", "if TYPE_CHECKING:\n    from absl import logging"),
        ("lqlm.rewards.combine", "from ml_collections import ConfigDict"),
        ("lqlm.poker.stream", "from lqlm.io.disk import write_atomic"),
        ("lqlm.models.layers", "from lqlm.poker.record import Hand"),
        ("experiments.setup", "from configs.grpo_smollm2_arithmetic import get_config"),
        ("experiments.setup", "import benchmarks.memory"),
        ("lqlm.attic.old", "import jax"),
    ],
)
def test_the_checker_sees_a_violation(module, line):
    assert len(violations(module, f"import jax\n{line}\n")) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("lqlm.quant.matmul", "import jax.numpy as jnp\nimport functools\nfrom lqlm.types import Array"),
        ("lqlm.quant.matmul", "from flax import struct\nimport flax.struct"),
        ("lqlm.quant.matmul", "from . import qtensor\nfrom .double import undo_double"),
        ("lqlm.models.linen", "import flax.linen as nn\nfrom lqlm.adapters.lora import apply_lora"),
        ("lqlm.algorithms.step", "import optax\nfrom lqlm import masked"),
        ("lqlm.rewards.combine", "from lqlm.tasks.base import Item"),
        ("lqlm.io.load", "import lqlm\nimport transformers"),
        ("experiments.command", "from absl import app\nimport lqlm.io.load"),
        ("configs.x", "from experiments.configdict import as_config\nfrom ml_collections import ConfigDict"),
    ],
)
def test_the_checker_lets_pass_what_points_down(module, line):
    assert violations(module, line) == []


def test_relative_imports_are_resolved():
    assert list(imports("lqlm.models.layers", "from ..quant import matmul\nfrom . import config", package=False)) == [
        "lqlm.quant",
        "lqlm.models",
    ]
    assert list(imports("lqlm.models", "from . import config\nfrom .. import quant", package=True)) == [
        "lqlm.models",
        "lqlm.quant",
    ]
