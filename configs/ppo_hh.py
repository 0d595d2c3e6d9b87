"""PPO on SmolLM2-135M-Instruct in NF4 from a reward model: the prompts of hh-rlhf, as RLHF is usually told.

The prompts contain offensive and upsetting text; they are meant for research on reducing harm.

Command:   python -m experiments.ppo --config configs/ppo_hh.py
           after  python -m experiments.reward_model --config configs/reward_model_hh.py
           The file: as for configs/reward_model_hh.py, here or by configs/ppo_hh.py:FILE; prompts of your own:
           --config.task.source=mine.jsonl --config.task.prompt=prompt
Hardware:  2 CPU cores, 4 GiB of memory.
Minutes:   7 for 3 steps and two evaluations of 32 prompts, on one core beside two other jobs.
Expected:  not measured beyond these steps: held-out reward -0.133 before, -0.137 after.
"""

from configs.reward_model_hh import SHARED
from experiments.configdict import as_config
from experiments.ppo.settings import EstimateSettings, PPOExperiment, RunSettings, ValueSettings
from experiments.rollouts.settings import RewardModelSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.kl_control import KLConfig
from lqlm.algorithms.ppo import PPOConfig
from lqlm.generation.sampling import SamplingConfig
from lqlm.optim.chains import OptimConfig
from lqlm.tasks.prompts import PromptsConfig

JUDGE = "runs/reward_model_hh/adapter"


def get_config(source: str = ""):
    """The settings, for a file of pairs; each can be overridden on the command line."""
    return as_config(
        PPOExperiment(
            workdir="runs/ppo_hh",
            task=PromptsConfig(
                source=source or (str(SHARED) if SHARED.exists() else "test.jsonl.gz"), prompt="chosen", limit=1024
            ),
            rewards={},
            reward_model=RewardModelSettings(JUDGE),
            adapter=LoraConfig(rank=16, alpha=32.0),
            value=ValueSettings(path=JUDGE),
            sampling=SamplingConfig(max_new_tokens=32),
            kl=KLConfig(coefficient=0.05),
            estimate=EstimateSettings(missing_eos=0.5),
            ppo=PPOConfig(),
            optim=OptimConfig(learning_rate=1e-4, schedule="cosine", warmup_steps=2),
            run=RunSettings(
                steps=20, prompts=8, group=4, epochs=2, minibatches=1, micro_batches=2, max_prompt=64, eval_every=10
            ),
        )
    )
