"""What DPO gives to the loop."""

from experiments.algorithm import Algorithm
from experiments.dpo.evaluate import evaluate
from experiments.dpo.settings import DPOExperiment
from experiments.dpo.setup import build
from experiments.dpo.step import one_step
from experiments.trained import save
from lqlm.io.curves import Panel

PANELS = (
    Panel("Reward accuracy, held-out pairs", ("eval/rewards/accuracies",), points=True, low=0.0, high=1.0),
    Panel("Chosen is the likelier, held out", ("eval/logps/accuracies",), points=True, low=0.0, high=1.0),
    Panel("Loss, held-out pairs", ("eval/loss",), points=True, low=0.0),
    Panel("Implicit rewards, held out", ("eval/rewards/chosen", "eval/rewards/rejected"), points=True),
    Panel("Loss, training", ("loss",), low=0.0),
    Panel("Reward accuracy, training", ("rewards/accuracies",), low=0.0, high=1.0),
    Panel("Implicit rewards, training", ("rewards/chosen", "rewards/rejected", "rewards/margins")),
    Panel("Log-probability of a completion", ("logps/chosen", "logps/rejected")),
    Panel("Entropy (nats per token)", ("entropy",), low=0.0),
    Panel("Gradient norm", ("grad_norm",), low=0.0),
    Panel("Tokens per second", ("tokens_per_second/*",), low=0.0),
)
DPO = Algorithm(
    settings=DPOExperiment,
    build=build,
    one_step=one_step,
    evaluate=evaluate,
    save=save,
    watched=(("eval/loss",), False),
    shown={"loss": "loss", "accuracy": "rewards/accuracies"},
    speed="update",
    panels=PANELS,
)
