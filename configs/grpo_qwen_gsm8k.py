"""GRPO on Qwen2.5-1.5B-Instruct in NF4: grade-school mathematics (GSM8K), for one GPU.

Command:   python -m experiments.grpo --config configs/grpo_qwen_gsm8k.py
Hardware:  one GPU of 24 GB or more, a network or local copies of the model and the data:
           --config.model.source=DIRECTORY --config.task.train_path=train.jsonl --config.task.test_path=test.jsonl
Another model: configs/grpo_qwen_gsm8k.py:Qwen/Qwen2.5-0.5B-Instruct
Expected:  not measured by lqlm yet.  verl reports for GSM8K (test, greedy) Qwen2.5-0.5B-Instruct 49.6 -> 54.3 with
           GRPO and LoRA of rank 32, and 77.9 after training for the 1.5B model.
Minutes:   not measured by lqlm yet.
"""

from experiments.configdict import as_config
from experiments.grpo.settings import GRPOExperiment, RunSettings
from experiments.rollouts.settings import RewardSettings
from experiments.settings import ModelSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.grpo import GRPOConfig
from lqlm.generation.sampling import SamplingConfig
from lqlm.optim.chains import OptimConfig
from lqlm.tasks.gsm8k import Gsm8kConfig


def get_config(source: str = "Qwen/Qwen2.5-1.5B-Instruct"):
    """The settings, for a model of a Qwen family; each can be overridden on the command line."""
    return as_config(
        GRPOExperiment(
            workdir=f"runs/grpo_gsm8k_{source.rstrip('/').rpartition('/')[2]}",
            model=ModelSettings(source=source, dtype="bfloat16"),
            task=Gsm8kConfig(heldout=512),
            rewards={
                "correct": RewardSettings("lqlm.rewards.functions.correct"),
                "format": RewardSettings("lqlm.rewards.functions.format_reward", weight=0.1),
                "length": RewardSettings(
                    "lqlm.rewards.functions.soft_overlong", weight=0.5, params={"limit": 384, "buffer": 64}
                ),
            },
            adapter=LoraConfig(rank=32, alpha=64.0),
            sampling=SamplingConfig(max_new_tokens=384),
            grpo=GRPOConfig(beta=0.001),
            optim=OptimConfig(learning_rate=2e-5, warmup_steps=5),
            run=RunSettings(
                steps=200,
                prompts=32,
                group=8,
                micro_batches=16,
                remat="full",
                eval_every=50,
                eval_batch=64,
                prompt_buckets=(128, 192, 256, 384),
            ),
        )
    )
