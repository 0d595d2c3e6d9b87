"""What online DPO gives to the loop."""

from experiments.algorithm import Algorithm
from experiments.grpo.evaluate import evaluate
from experiments.online_dpo.settings import OnlineDPOExperiment
from experiments.online_dpo.setup import build
from experiments.online_dpo.step import one_step
from experiments.trained import save
from lqlm.io.curves import PANELS as OF_THE_POLICY
from lqlm.io.curves import Panel

PANELS = (
    *(panel for panel in OF_THE_POLICY if panel.names != ("kl",)),
    Panel("Implicit rewards", ("rewards/chosen", "rewards/rejected", "rewards/margins")),
    Panel("Log-probability of a completion", ("logps/chosen", "logps/rejected")),
    Panel("Pairs to learn from", ("pairs",), low=0.0),
)
ONLINE_DPO = Algorithm(
    settings=OnlineDPOExperiment,
    build=build,
    one_step=one_step,
    evaluate=evaluate,
    save=save,
    watched=(("eval/accuracy", "eval/reward"), True),
    shown={"reward": "reward", "margin": "rewards/margins"},
    speed="rollout",
    panels=PANELS,
)
