"""Where the arrays of a run lie on a mesh: one table of rules, and what applies it."""

from lqlm.sharding.place import (
    batch_shardings,
    constrained,
    put,
    replicated,
    shard,
    shard_batch,
    shardings,
    whole,
)
from lqlm.sharding.products import gathered, product
from lqlm.sharding.rules import RULES, specs

__all__ = [
    "RULES",
    "batch_shardings",
    "constrained",
    "gathered",
    "product",
    "put",
    "replicated",
    "shard",
    "shard_batch",
    "shardings",
    "specs",
    "whole",
]
