"""From own hand logs to a measured agent: SFT of a small Llama on two bots, a reward model, PPO, GRPO and self-play.

Command:   python -m experiments.poker pipeline --config configs/poker_small.py
Hardware:  2 CPU cores, 2 GiB of memory.
Minutes:   43, with nothing beside it but an editor's work.
Expected:  seeds 0, 1, 2: SFT agrees with .828, .770, .773 of held-out decisions (boosted trees .863, .866, .859); over
           10,000 hands a line, mbb a hand more than SFT from a caller: reward model +1843, -10, -2347; PPO -249, -121,
           -349; GRPO +20, +20, +132; self-play +18785, +5174, +791; from a random player self-play +1981, +3120, +1827.
Own logs:  configs/poker_small.py:PATH  (PokerStars text or PHH; a folder, an archive or a file, such as Pluribus's)

The reward model prefers what wins more chips when the hand is played on (pairs.by "values"); "random" is PokerGPT's
released code, "tiers" its paper.  PPO is rewarded by that model, less a price for answers that are not legal, which no
pair has ever shown it; GRPO is rewarded in chips.
"""

from experiments.configdict import as_config
from experiments.grpo.settings import RunSettings as GRPORun
from experiments.pairs.settings import PairRunSettings
from experiments.poker.ask import AskSettings
from experiments.poker.data_settings import LogSettings, SelectSettings
from experiments.poker.pipeline_settings import EvaluateSettings, PipelineExperiment, TrainSettings
from experiments.poker.self_play_settings import MatchSettings, SelfPlayRun, TableSettings
from experiments.poker.tuning_settings import (
    AdaptSettings,
    GRPOStage,
    JudgeSettings,
    PairSettings,
    PPOStage,
    SelfPlayStage,
)
from experiments.ppo.settings import RunSettings as PPORun
from experiments.rollouts.settings import RewardSettings
from experiments.sft.settings import RunSettings, ScratchSettings
from lqlm.adapters.configs import FullConfig, LoraConfig
from lqlm.algorithms.grpo import GRPOConfig
from lqlm.algorithms.kl_control import KLConfig
from lqlm.generation.sampling import SamplingConfig
from lqlm.optim.chains import OptimConfig
from lqlm.poker.policy import Shapes
from lqlm.tasks.poker import PokerConfig

LEGAL = {"legal": RewardSettings("lqlm.rewards.poker.legal", weight=2.0)}
SHORT = SamplingConfig(max_new_tokens=12)


def get_config(source: str = ""):
    """The settings, for logs of one's own or for those of the bots; each can be overridden on the command line."""
    falling = OptimConfig(learning_rate=5e-4, schedule="cosine", warmup_steps=5)
    return as_config(
        PipelineExperiment(
            workdir="runs/poker_small",
            logs=LogSettings(source=(source,) if source else (), sessions=40, hands=100),
            select=SelectSettings(),
            ask=AskSettings(template="terse", chat=True, features=("equity", "pot-odds")),
            sft=TrainSettings(
                model=ScratchSettings(vocab_size=512, max_positions=160),
                adapter=FullConfig(),
                max_length=128,
                optim=OptimConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=30, weight_decay=0.1, b2=0.95),
                run=RunSettings(steps=1500, rows=16, eval_every=500, eval_batch=32, checkpoint_every=250),
            ),
            adapt=AdaptSettings(adapter=LoraConfig(rank=16, alpha=32.0)),
            task=PokerConfig(source="", heldout_source="", limit=1024, heldout=64, playouts=16),
            pairs=PairSettings(by="values", limit=2048, lead=3.0),
            reward_model=JudgeSettings(
                heldout=128, optim=falling, run=PairRunSettings(steps=100, pairs=16, eval_every=50, checkpoint_every=25)
            ),
            ppo=PPOStage(
                rewards=LEGAL,
                sampling=SHORT,
                kl=KLConfig(coefficient=0.05),
                optim=OptimConfig(learning_rate=2e-4, schedule="cosine", warmup_steps=2),
                run=PPORun(steps=40, prompts=16, group=4, epochs=2, minibatches=2, eval_every=20, checkpoint_every=10),
            ),
            grpo=GRPOStage(
                sampling=SHORT,
                grpo=GRPOConfig(beta=0.02),
                optim=falling,
                run=GRPORun(steps=40, prompts=16, group=8, eval_every=20, checkpoint_every=10),
            ),
            self_play=SelfPlayStage(
                table=TableSettings(hands=64, playouts=2),
                match=MatchSettings(opponents=("call",), hands=512),
                optim=OptimConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=4),
                run=SelfPlayRun(steps=40, rows=64, updates=4, eval_every=20, checkpoint_every=10, samples=0),
            ),
            evaluate=EvaluateSettings(seats=(2,), hands=10_000, shapes=Shapes(rows=64, prompt=16, answers=8, tokens=8)),
        )
    )
