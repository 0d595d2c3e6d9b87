"""Pluribus's own decisions: a Llama of 0.4 million parameters that is told equity, odds, draws and where it stands.

Command:   python -m experiments.poker pipeline --config configs/poker_pluribus.py
Hardware:  2 CPU cores, 2 GiB of memory.
Minutes:   72 on one core, beside two other jobs; 60 of them SFT.
Expected:  of 6,648 held-out decisions of 7 sessions, one seed: accuracy .856 [.845, .869], macro F1 .779 [.758, .802],
           with the prior correction .848 and .781 [.763, .797]; boosted trees that see cards and equity
           .868 [.859, .879] and .796 [.777, .816].  Nothing illegal in 200 free texts.  10,000 hands a line, mbb a
           hand: one caller +1044 +- 180, one random player +1625 +- 328, five callers +3139 +- 553, five random ones
           +3259 +- 511.
Own logs:  configs/poker_pluribus.py:PATH  (folder, archive or file of PHH or PokerStars text; by default Pluribus's
           6,844 hands in ../shared/data/poker)
"""

from experiments.configdict import as_config
from experiments.poker.ask import AskSettings
from experiments.poker.data_settings import LogSettings, SelectSettings
from experiments.poker.pipeline_settings import EvaluateSettings, PipelineExperiment, TrainSettings
from experiments.sft.settings import RunSettings, ScratchSettings
from lqlm.adapters.configs import FullConfig
from lqlm.optim.chains import OptimConfig
from lqlm.poker.policy import Shapes


def get_config(source: str = "../shared/data/poker/pluribus/phh.tar.gz"):
    """The settings; each can be overridden on the command line."""
    return as_config(
        PipelineExperiment(
            workdir="runs/poker_pluribus",
            stages=("logs", "hands", "selected", "prompts", "records", "sft", "evaluate"),
            logs=LogSettings(source=(source,)),
            select=SelectSettings(train=0.8, valid=0.1),
            ask=AskSettings(
                template="terse",
                round_up=False,
                features=("equity", "pot-odds", "spot", "class", "draws"),
                canonical=True,
            ),
            sft=TrainSettings(
                model=ScratchSettings(vocab_size=1024, numbers="whole", layers=3, width=96, ffn=256, max_positions=192),
                adapter=FullConfig(),
                max_length=128,
                heldout=1024,
                optim=OptimConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=50, weight_decay=0.1, b2=0.95),
                run=RunSettings(steps=15_000, rows=16, eval_every=1000, eval_batch=32, checkpoint_every=250, samples=0),
            ),
            evaluate=EvaluateSettings(
                seats=(2, 6), hands=10_000, shapes=Shapes(rows=32, prompt=32, answers=12, tokens=6)
            ),
        )
    )
