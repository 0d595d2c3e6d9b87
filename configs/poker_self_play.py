"""Self-play in hold'em by what configs/poker_small.py left after SFT: its stage of self-play as a command of its own.

Command:   python -m experiments.poker self-play --config configs/poker_self_play.py
Hardware:  2 CPU cores.
Minutes:   22 beside two to four other jobs.
Expected:  one seed, 512 hands a line, mbb a hand, before and after: from a caller +427 +- 92 and +19067 +- 3106, from
           the policy of the beginning 0 and +5389 +- 2023; nearly all of it came in the last 20 steps.
After:     python -m experiments.poker pipeline --config configs/poker_small.py
"""

from experiments.configdict import as_config
from experiments.poker.ask import AskSettings
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
            ask=AskSettings(template="terse", chat=True, features=("equity", "pot-odds")),
            table=TableSettings(hands=64, playouts=2),
            shapes=Shapes(rows=64, prompt=16, answers=8, tokens=8),
            match=MatchSettings(opponents=("call",), hands=512),
            optim=OptimConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=4),
            run=SelfPlayRun(steps=40, rows=64, updates=4, eval_every=20, checkpoint_every=10, samples=0),
        )
    )
