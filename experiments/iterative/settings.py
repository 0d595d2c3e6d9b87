"""The settings of iterative GRPO: frozen dataclasses, which hold every default."""

import dataclasses

from experiments.pairs.settings import PairRunSettings
from experiments.r1.settings import RLStage
from experiments.rollouts.drawing import DrawSettings
from experiments.rollouts.settings import TaskSettings
from experiments.settings import ModelSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.reward_model import RewardModelConfig
from lqlm.errors import UserError
from lqlm.optim.chains import OptimConfig
from lqlm.tasks.pairs import PairConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenewedJudge:
    """The reward model, which goes on learning from the samples of each policy.

    Attributes:
        weight: of its score in the reward.
        heldout: problems whose pairs it never learns from, in no iteration: its accuracy is measured on them.
        replay: of the pairs that it learns from, the share that comes from earlier policies.
        text: how pairs are read.
        reward: its loss.
        optim: how it is trained.
        run: how long in each iteration, and what is written when.
    """

    weight: float = 1.0
    heldout: int = 8
    replay: float = 0.1
    text: PairConfig = PairConfig(unusable="skip")
    reward: RewardModelConfig = RewardModelConfig(center=0.01)
    optim: OptimConfig = OptimConfig(learning_rate=2e-4)
    run: PairRunSettings = PairRunSettings()

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if not 0.0 <= self.replay < 1.0 or self.heldout < 1 or not self.weight:
            raise UserError(
                f"judge.replay is {self.replay}, judge.heldout {self.heldout}, judge.weight {self.weight}; give a "
                "share below 1, 1 or more, and a weight that is not 0"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class IterativeExperiment:
    """Everything that the iterations depend on.

    Attributes:
        workdir: each iteration writes into a folder of its own there, and ``scores.json`` tells what it was worth.
        seed: of all that is drawn.
        iterations: I.
        model: which, and how it is held.
        adapter: what is trained; each iteration goes on training it.
        start: a PEFT directory that the first policy begins with; empty: the base.
        task: problems whose answers can be checked.
        draw: samples of each policy, and the rewards that tell the right ones: what the reward model learns from.
        rl: GRPO against the reward model; its own rewards stand beside it, and may be none.
        judge: the reward model.
    """

    workdir: str = "runs/iterative"
    seed: int = 0
    iterations: int = 2
    model: ModelSettings = ModelSettings()
    adapter: LoraConfig = LoraConfig()
    start: str = ""
    task: TaskSettings
    draw: DrawSettings
    rl: RLStage
    judge: RenewedJudge = RenewedJudge()

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if self.iterations < 1:
            raise UserError(f"iterations is {self.iterations}; give 1 or more")
        if self.adapter.decomposes:
            raise UserError(f"adapter.init is {self.adapter.init!r}, which changes the base; take one that does not")
