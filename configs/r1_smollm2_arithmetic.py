"""The four stages of R1 on SmolLM2-135M-Instruct in NF4: sums, differences and products, reasoned about in tags.

Command:   python -m experiments.r1 --config configs/r1_smollm2_arithmetic.py
Hardware:  2 CPU cores, 4 GiB of memory.
Minutes:   57 on one core, beside two to four other jobs; 72 with the scenarios.
Scenarios: configs/r1_smollm2_arithmetic.py:FILE of pairs of dialogues, such as harmless-base/test.jsonl.gz of
           anthropics/hh-rlhf: the last stage has their prompts beside the problems, and a reward model trained on them.
Expected:  with that file and --config.rejection.others=seed_tasks.jsonl of Self-Instruct, one seed, greedy answers to
           64 held-out problems after every stage (accuracy; answers in the form; words): base 0.109, 0.00, 25.4; cold
           start 0.281, 0.95, 6.6; reasoning 0.312, 0.98, 6.9; rejection 0.250, 0.72, 7.5; alignment (10 steps) 0.234,
           0.66, 6.6.  The cold start brings the accuracy, later stages do not add to it.
"""

import dataclasses
from collections.abc import Mapping

from experiments.configdict import as_config
from experiments.grpo.settings import RunSettings as RLRun
from experiments.pairs.settings import PairData, PairRunSettings
from experiments.r1.settings import (
    REASONING,
    AlignmentStage,
    JudgeSettings,
    R1Experiment,
    RejectionStage,
    RLStage,
    SFTStage,
)
from experiments.rollouts.settings import RewardSettings, ThinkSettings
from experiments.sft.settings import RunSettings as SFTRun
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.grpo import GRPOConfig
from lqlm.generation.sampling import SamplingConfig
from lqlm.optim.chains import OptimConfig
from lqlm.tasks.arithmetic import ArithmeticConfig
from lqlm.tasks.pairs import PairConfig
from lqlm.tasks.prompts import PromptsConfig

RIGHT = RewardSettings("lqlm.rewards.functions.correct")
FORM = RewardSettings("lqlm.rewards.format.think_format", weight=0.2)
LANGUAGE = RewardSettings(
    "lqlm.rewards.language.language_consistency", weight=0.1, params={"script": "latin", "tag": "think"}
)
SHORT = RewardSettings("lqlm.rewards.functions.length_penalty", weight=1.0, params={"per_token": 0.002})
OPTIM = OptimConfig(learning_rate=2e-4, schedule="cosine", warmup_steps=2)


def of_problems(reward: RewardSettings, others: Mapping) -> RewardSettings:
    """A rule, for the problems alone where there are other scenarios."""
    return dataclasses.replace(reward, scenarios=(REASONING,)) if others else reward


def get_config(pairs: str = ""):
    """The settings, with another scenario from a file of pairs if there is one."""
    sampling = SamplingConfig(max_new_tokens=48)
    sft = SFTRun(steps=20, rows=4, packing=False, eval_every=10, eval_batch=4, checkpoint_every=10)
    rl = RLRun(steps=20, prompts=4, group=8, eval_every=10, eval_items=32, checkpoint_every=10)
    pair = PairRunSettings(steps=10, pairs=4, eval_every=5, eval_batch=4, checkpoint_every=5)
    judge, others = JudgeSettings(optim=OPTIM, run=pair), {}
    if pairs:
        others = {"general": PromptsConfig(source=pairs, prompt="chosen", limit=512, heldout=16)}
        judge = JudgeSettings(
            optim=OPTIM,
            scenarios=("general",),
            data=PairData(source=pairs, heldout=32),
            text=PairConfig(max_prompt=64, max_completion=32, unusable="skip"),
            run=dataclasses.replace(pair, steps=40, eval_every=20, checkpoint_every=10),
        )
    return as_config(
        R1Experiment(
            workdir="runs/r1_smollm2_arithmetic",
            adapter=LoraConfig(rank=16, alpha=32.0),
            task=ThinkSettings(ArithmeticConfig(terms=(2, 3), heldout=64, train=256, template="What is {expression}?")),
            cold_start=SFTStage(examples=80, optim=OPTIM, run=sft),
            reasoning=RLStage(
                rewards={"right": RIGHT, "form": FORM, "language": LANGUAGE}, sampling=sampling, optim=OPTIM, run=rl
            ),
            rejection=RejectionStage(
                prompts=128,
                examples=96,
                threshold=1.2,
                rewards={"right": RIGHT, "form": FORM},
                sampling=sampling,
                optim=OPTIM,
                run=sft,
            ),
            alignment=AlignmentStage(
                judge=judge,
                others=others,
                rewards={
                    "right": of_problems(RIGHT, others),
                    "form": of_problems(FORM, others),
                    "short": of_problems(SHORT, others),
                },
                sampling=sampling,
                # Groups of equal worth to a weak reward model get advantages from its noise; without a leash it
                # undid what the stages before had taught.
                grpo=GRPOConfig(beta=0.1 if others else 0.0),
                optim=dataclasses.replace(OPTIM, learning_rate=5e-5) if others else OPTIM,
                run=dataclasses.replace(rl, prompts=8, max_prompt=96, eval_items=64) if others else rl,
            ),
        )
    )
