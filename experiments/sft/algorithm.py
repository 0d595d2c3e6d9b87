"""What supervised fine-tuning gives to the loop."""

from experiments.algorithm import Algorithm
from experiments.sft.evaluate import evaluate
from experiments.sft.settings import SFTExperiment
from experiments.sft.setup import build
from experiments.sft.step import one_step
from experiments.trained import save
from lqlm.io.curves import Panel

PANELS = (
    Panel("Perplexity, held out", ("eval/perplexity",), points=True),
    Panel("Token accuracy, held out", ("eval/mean_token_accuracy",), points=True, low=0.0, high=1.0),
    Panel("Exact match, held out (greedy)", ("eval/exact_match",), points=True, low=0.0, high=1.0),
    Panel("BLEU, held out (greedy)", ("eval/bleu",), points=True, low=0.0),
    Panel("ROUGE, held out (greedy)", ("eval/rouge*",), points=True, low=0.0, high=1.0),
    Panel("Loss, training (nats per token)", ("loss",)),
    Panel("Token accuracy, training", ("mean_token_accuracy",), low=0.0, high=1.0),
    Panel("Entropy (nats per token)", ("entropy",), low=0.0),
    Panel("Gradient norm", ("grad_norm",), low=0.0),
    Panel("Tokens per second", ("tokens_per_second/*",), low=0.0),
)
SFT = Algorithm(
    settings=SFTExperiment,
    build=build,
    one_step=one_step,
    evaluate=evaluate,
    save=save,
    watched=(("eval/loss",), False),
    shown={"loss": "loss", "accuracy": "mean_token_accuracy"},
    speed="update",
    panels=PANELS,
)
