"""The settings of a comparison: frozen dataclasses, which hold every default."""

import dataclasses
import re
from collections.abc import Mapping

from lqlm.errors import UserError


@dataclasses.dataclass(frozen=True)
class VariantSettings:
    """One line of the table: a command, its config, and what is changed there.

    Attributes:
        config: file of the config, as for the command.
        command: the module ``experiments.<command>``.
        overrides: arguments such as ``--config.optim.learning_rate=1e-4``, after those that all variants have.
    """

    config: str
    command: str = "grpo"
    overrides: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareExperiment:
    """Everything that a comparison depends on.

    Attributes:
        workdir: each run works in ``runs/VARIANT/SEED`` there.
        seeds: of the runs of each variant.
        variants: name -> run.
        overrides: arguments that the runs of every variant get.
        prepare: commands that come first, such as the training of a model; a finished one is not repeated.
        rollouts: samples at which the variants are compared (0: as many as the run with the fewest has drawn).  A
            variant that draws more each step is read at an earlier step.
        at_once: runs that go on beside each other, each held to cores of its own.
        metric: held-out; read from the last evaluation that is within the rollouts.
        title: of the picture.
    """

    workdir: str = "runs/compare"
    seeds: tuple[int, ...] = (0, 1, 2)
    variants: Mapping[str, VariantSettings]
    overrides: tuple[str, ...] = ()
    prepare: Mapping[str, VariantSettings] = dataclasses.field(default_factory=dict)
    rollouts: int = 0
    at_once: int = 1
    metric: str = "eval/accuracy"
    title: str = "Held-out accuracy at equal rollouts"

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if not self.variants or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"give at least one variant and one seed, each seed once; seeds are {self.seeds}")
        if self.at_once < 1:
            raise UserError(f"at_once is {self.at_once}; give 1 or more")
        if self.rollouts < 0:
            raise UserError(f"rollouts is {self.rollouts}; give 0 (those of the smallest run) or more")
        for name in (*self.variants, *self.prepare):
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
                raise UserError(f"variant {name!r} names a folder; use letters, digits and _ . - only")
