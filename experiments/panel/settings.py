"""The settings of a comparison: frozen dataclasses, which hold every default."""

import dataclasses

from experiments.generate.settings import Answering
from lqlm.errors import UserError
from lqlm.generation.panel import PanelConfig
from lqlm.generation.sampling import SamplingConfig
from lqlm.generation.slots import EngineConfig
from lqlm.tasks.arithmetic import ArithmeticConfig
from lqlm.tasks.gsm8k import Gsm8kConfig
from lqlm.tasks.gym import GymConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class PanelExperiment(Answering):
    """A panel, a majority vote and single samples on the held-out problems of a task, beside what Answering says.

    Attributes:
        task: whose problems; a panel asks in its own words, so that the task's system prompt and shots serve the other
            two only.
        problems: held-out ones (0: all).
        panel: experts and rounds.
        report: the JSON file of the figures and of every panel; empty: none.
    """

    task: ArithmeticConfig | Gsm8kConfig | GymConfig = ArithmeticConfig()
    problems: int = 0
    panel: PanelConfig = PanelConfig()
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=48, temperature=0.7)
    engine: EngineConfig = EngineConfig(slots=16, prompt_buckets=(128, 512))
    report: str = "runs/panel.json"

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if self.problems < 0:
            raise UserError(f"problems is {self.problems}; give 0 (all) or more")
        if self.engine.group != 1:
            raise UserError(f"engine.group is {self.engine.group}; every text is asked for by itself, set it to 1")
