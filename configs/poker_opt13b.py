r"""PokerGPT as in the paper (arXiv:2401.06781): OPT-1.3B in NF4 with a LoRA, its template, SFT, reward model and PPO.

Command:   python -m experiments.poker pipeline --config configs/poker_opt13b.py:PATH
Hardware:  1 GPU of 24 GiB; planned, not run: nothing here has run on a GPU yet.  Compiled ahead of time from shapes
           alone, four rows of 768 tokens, GiB on the device: SFT 4.69, reward model 4.90, PPO 7.82 (base 0.78;
           adapters, gradients and moments 3.38; activations and work 3.66); a merged copy to sample from (run.merge)
           is 2.25 more.  Again: python -m experiments.quantize --plan --config.model=OPT-1.3B --config.step=ppo
           --config.batch=4 --config.group=1 --config.length=768 --config.completion=16 --config.adapter.rank=128
           --config.adapter.dtype=float32 --config.optim.paging=none --config.gpu_gib=24
Minutes:   not measured yet; the paper: 210 + 90 + 270 on one RTX 3090, with another implementation.
Expected:  not measured yet.
Own logs:  PATH is a folder, an archive or a file of PokerStars text or PHH (the paper: a million hands); without it,
           the bots' own.  PPO asks the decisions of players whose cards a log tells, at least of those at showdowns.
Model:     runs/opt-1.3b, made once where torch is: the tokenizer has no chat template of its own, and weights are read
           from safetensors only.  In Python, of transformers:
               tokenizer = AutoTokenizer.from_pretrained("facebook/opt-1.3b")
               tokenizer.chat_template = (
                   "{{ bos_token }}{% for m in messages %}{{ m.content }}"
                   "{% if m.role == 'assistant' %}{{ eos_token }}{% else %}\n{% endif %}{% endfor %}"
               )
               tokenizer.save_pretrained("runs/opt-1.3b")
               AutoModelForCausalLM.from_pretrained("facebook/opt-1.3b").save_pretrained("runs/opt-1.3b")
Others:    --config.sft.model.source=runs/opt-125m, the shape for a CPU (with --config.sft.model.dtype=float32): 60 to
           75 seconds a step of SFT, 28 of the reward model, 95 of PPO and 3.4 GiB on 2 cores that had other work
           besides; or any other model that lqlm computes.

From the paper: the showdown filter, the best and the worst players by win rate (a fifth each, of those with 100
hands: the paper names no numbers; --config.select.top=0 --config.select.bottom=0 for those above 1,500 mbb a hand and
below 0, as in its ablation), its template with amounts rounded up, mini batches of 4, pairs of good players' actions
over bad players'.  From the script of DeepSpeed-Chat for OPT-1.3B on one GPU: rank 128.  Ours: 4 bits, an adapter for
the value function instead of a second model, learning rates, steps, and a price for answers that are not legal.
Where the released code differs from the paper: pairs of a player's action over a random one,
--config.pairs.by=random; players ranked by what they collect from pots, --config.select.by=collected; no folds among
SFT's targets, --config.select.without="('fold',)".  Its prompts cut to 256 tokens and its stacks that lose track are
faults, which are not offered.  Nine seats' prompts have up to 670 tokens.
"""

from typing import Any

from experiments.configdict import as_config
from experiments.pairs.settings import PairRunSettings
from experiments.poker.ask import AskSettings
from experiments.poker.data_settings import LogSettings, SelectSettings
from experiments.poker.pipeline_settings import EvaluateSettings, PipelineExperiment, TrainSettings
from experiments.poker.tuning_settings import JudgeSettings, PairSettings, PPOStage
from experiments.ppo.settings import RunSettings as PPORun
from experiments.rollouts.settings import RewardSettings
from experiments.settings import ModelSettings
from experiments.sft.settings import RunSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.kl_control import KLConfig
from lqlm.optim.chains import OptimConfig
from lqlm.poker.policy import Shapes
from lqlm.tasks.poker import PokerConfig

STAGES = ("logs", "hands", "selected", "prompts", "records", "sft", "pairs", "reward_model", "ppo", "evaluate")
LENGTH = 768
LEGAL = {"legal": RewardSettings("lqlm.rewards.poker.legal", weight=2.0)}


def get_config(source: str = ""):
    """The settings; each can be overridden on the command line."""
    often: dict[str, Any] = {"remat": "full", "logprob_chunk": 256, "eval_every": 1000, "checkpoint_every": 500}
    return as_config(
        PipelineExperiment(
            workdir="runs/poker_opt13b",
            stages=STAGES,
            logs=LogSettings(source=(source,) if source else (), sessions=400, hands=100),
            select=SelectSettings(cards="showdown", top=0.2, bottom=0.2, tiers=("high",), train=0.9, valid=0.05),
            ask=AskSettings(template="paper", chat=True),
            sft=TrainSettings(
                model=ModelSettings(source="runs/opt-1.3b", dtype="bfloat16"),
                adapter=LoraConfig(rank=128, alpha=128.0),
                max_length=LENGTH,
                optim=OptimConfig(learning_rate=2e-4, schedule="cosine", warmup_steps=100, paging="none"),
                run=RunSettings(steps=27_000, rows=4, packing=False, length=LENGTH, eval_batch=4, **often),
            ),
            task=PokerConfig(source="", heldout_source="", cards="own", redraw=True),
            pairs=PairSettings(by="tiers"),
            reward_model=JudgeSettings(
                heldout=512,
                optim=OptimConfig(learning_rate=5e-5, schedule="cosine", warmup_steps=100, paging="none"),
                run=PairRunSettings(steps=10_000, pairs=4, eval_batch=4, **often),
            ),
            ppo=PPOStage(
                rewards=LEGAL,
                kl=KLConfig(coefficient=0.1),
                optim=OptimConfig(learning_rate=1e-5, schedule="cosine", warmup_steps=100, paging="none"),
                run=PPORun(steps=10_000, prompts=4, epochs=1, eval_batch=4, **often),
            ),
            evaluate=EvaluateSettings(seats=(2, 6), hands=10_000, shapes=Shapes(rows=16, prompt=128)),
        )
    )
