"""A Llama from nothing learns Leduc (or Kuhn) by self-play, with its exact exploitability over training.

Command:   python -m experiments.poker train-small --config configs/poker_leduc.py
Kuhn:      python -m experiments.poker train-small --config configs/poker_leduc.py:kuhn
Hardware:  2 CPU cores.
Minutes:   Kuhn 3 beside some twenty other jobs on the two cores; Leduc 9 on one core, beside another job.
Expected:  Kuhn, in antes per hand (uniform play 0.458): exploitability of the last policy 0.057, 0.076 and 0.027 with
           seeds 0 to 2, of the average policy 0.038, 0.034 and 0.031.  Leduc (uniform 2.374, always calling 1.467, the
           reference CFR+ 0.013): the last policy 0.183, 0.154 and 0.182, the average policy 0.225, 0.248 and 0.239;
           the last one loses 0.041, 0.046 and 0.047 a hand to CFR+.
"""

import typing

from experiments.configdict import as_config
from experiments.poker.small_games_settings import MagnetSettings, SmallGamesExperiment, SmallRunSettings
from experiments.sft.settings import ScratchSettings
from lqlm.adapters.configs import FullConfig
from lqlm.algorithms.mirror_objective import MirrorConfig
from lqlm.optim.chains import OptimConfig


def get_config(game: typing.Literal["leduc", "kuhn"] = "leduc"):
    """The settings for one of the games; each can be overridden on the command line."""
    leduc = game == "leduc"
    return as_config(
        SmallGamesExperiment(
            workdir=f"runs/poker_{game}",
            game=game,
            rules=False,
            model=ScratchSettings(vocab_size=512, layers=2, width=48, ffn=96, heads=4, kv_heads=4, max_positions=64),
            adapter=FullConfig(),
            loss="replicator",
            mirror=MirrorConfig(eta=0.1 if leduc else 0.3, legal=0.1),
            magnet=MagnetSettings(1.0, 0.3) if leduc else MagnetSettings(0.5, 0.05),
            optim=OptimConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=10, b2=0.95, paging="none"),
            run=SmallRunSettings(
                steps=1000 if leduc else 300,
                updates=8 if leduc else 4,
                rows=48 if leduc else 0,
                eval_every=50 if leduc else 20,
                checkpoint_every=50,
            ),
        )
    )
