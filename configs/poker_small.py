"""From own hand logs to an evaluated agent: a Llama of 0.8 million parameters that learns how two equity bots play.

Command:   python -m experiments.poker pipeline --config configs/poker_small.py
Hardware:  2 CPU cores, 2 GiB of memory.
Minutes:   18 beside five other jobs on the machine: 1 to prompts, 13 of training, 4 of evaluation.
Expected:  7,243 held-out decisions of 7 sessions (seed 0): accuracy 0.768, macro F1 0.576; the majority 0.679 / 0.347,
           trees that see cards and equity 0.863 / 0.787.  1,000 hands a line do not tell its win rates from 0: in mbb
           a hand with all-in adjustment -805 +- 1486 against one random bot, -188 +- 346 against one that calls.
Own logs:  configs/poker_small.py:PATH  (PokerStars text or PHH; a folder, an archive or a file, such as Pluribus's)
"""

from experiments.configdict import as_config
from experiments.poker.pipeline_settings import (
    EvaluateSettings,
    LogSettings,
    PipelineExperiment,
    SelectSettings,
    TrainSettings,
)
from experiments.sft.settings import RunSettings, ScratchSettings
from lqlm.adapters.configs import FullConfig
from lqlm.optim.chains import OptimConfig


def get_config(source: str = ""):
    """The settings, for logs of one's own or for those of the bots; each can be overridden on the command line."""
    return as_config(
        PipelineExperiment(
            workdir="runs/poker_small",
            logs=LogSettings(source=(source,) if source else (), sessions=40, hands=100),
            select=SelectSettings(),
            sft=TrainSettings(
                model=ScratchSettings(vocab_size=512, max_positions=320),
                adapter=FullConfig(),
                max_length=256,
                optim=OptimConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=30, weight_decay=0.1, b2=0.95),
                run=RunSettings(steps=1500, rows=8, eval_every=500, eval_batch=16, checkpoint_every=250),
            ),
            evaluate=EvaluateSettings(seats=(2, 6)),
        )
    )
