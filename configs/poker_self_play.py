"""Self-play in hold'em by what configs/poker_small.py left after SFT: two seats, a league of its own past.

Command:   python -m experiments.poker self-play --config configs/poker_self_play.py
Hardware:  2 CPU cores.
Minutes:   not measured yet.
Expected:  not measured yet.
After:     python -m experiments.poker pipeline --config configs/poker_small.py
"""

from experiments.configdict import as_config
from experiments.poker.self_play_settings import MatchSettings, SelfPlayExperiment, SelfPlayRun, TableSettings
from experiments.settings import ModelSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.optim.chains import OptimConfig
from lqlm.poker.policy import Shapes


def get_config(model: str = "runs/poker_small/sft/model"):
    """The settings, for a model that was trained on the prompts; each can be overridden on the command line."""
    return as_config(
        SelfPlayExperiment(
            workdir="runs/poker_self_play",
            model=ModelSettings(source=model, quantize=False),
            adapter=LoraConfig(rank=16, alpha=32.0),
            table=TableSettings(hands=64, playouts=2),
            shapes=Shapes(rows=64, prompt=32, answers=8, tokens=8),
            match=MatchSettings(opponents=("call", "random"), hands=512),
            optim=OptimConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=4),
            run=SelfPlayRun(steps=60, rows=64, updates=4, eval_every=20, checkpoint_every=10, samples=0),
        )
    )
