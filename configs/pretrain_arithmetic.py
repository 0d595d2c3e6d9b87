"""A Llama of 0.8 million parameters that half knows sums and differences up to 19: where RL has room.

Command:   python -m experiments.sft --config configs/pretrain_arithmetic.py
Hardware:  2 CPU cores, 2 GiB of memory.
Minutes:   3 beside five other jobs on the machine.
Expected:  of 128 held-out problems, whose sums are learned in neither order, 22%, 28% or 41% answered exactly: three
           runs of one seed on three machines.
Steps:     configs/pretrain_arithmetic.py:steps: sums and differences of three or four numbers up to 9, answered one
           operation a line, for process supervision.
"""

from experiments.configdict import as_config
from experiments.sft.settings import DataSettings, RunSettings, ScratchSettings, SFTExperiment
from lqlm.adapters.configs import FullConfig
from lqlm.errors import UserError
from lqlm.optim.chains import OptimConfig
from lqlm.tasks.arithmetic import ArithmeticConfig
from lqlm.tasks.records import InstructionConfig

STEPS = ArithmeticConfig(operators="+-", operands=(0, 9), terms=(3, 4), train=1280, template="Work out {expression}.")
DATA = {
    "answers": DataSettings(heldout=128),
    "steps": DataSettings(heldout=128, made=STEPS, worked=True),
}
NEW_TOKENS = {"answers": 6, "steps": 32}


def get_config(what: str = "answers"):
    """The settings, for ``answers`` or ``steps``; each can be overridden on the command line."""
    if what not in DATA:
        raise UserError(f"there is nothing called {what!r} to pretrain on; choose {' or '.join(DATA)}")
    return as_config(
        SFTExperiment(
            workdir="runs/pretrain_arithmetic" + ("" if what == "answers" else f"_{what}"),
            model=ScratchSettings(vocab_size=512, layers=4, width=128, ffn=384),
            data=DATA[what],
            text=InstructionConfig(max_length=128),
            adapter=FullConfig(),
            optim=OptimConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=20, weight_decay=0.1, b2=0.95),
            run=RunSettings(
                steps=600,
                rows=8,
                eval_every=200,
                eval_batch=16,
                checkpoint_every=300,
                generate=128,
                new_tokens=NEW_TOKENS[what],
            ),
        )
    )
