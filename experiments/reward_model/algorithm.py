"""What a reward model gives to the loop."""

from experiments.algorithm import Algorithm
from experiments.hosts import first
from experiments.reward_model.evaluate import evaluate
from experiments.reward_model.settings import RewardModelExperiment
from experiments.reward_model.setup import RewardModelSetup, build
from experiments.reward_model.step import one_step
from experiments.run import Run
from lqlm.algorithms.step import TrainState
from lqlm.io.curves import Panel
from lqlm.io.reward_model import save_reward_model
from lqlm.sharding import whole

PANELS = (
    Panel("Accuracy, held out", ("eval/accuracy",), points=True, low=0.0, high=1.0),
    Panel("Correlation with the scores, held out", ("eval/correlation",), points=True, high=1.0),
    Panel("Loss, held out", ("eval/loss",), points=True, low=0.0),
    Panel("Calibration error, held out", ("eval/calibration_error",), points=True, low=0.0),
    Panel("Loss, training", ("loss",), low=0.0),
    Panel("Accuracy, training", ("accuracy",), low=0.0, high=1.0),
    Panel("Rewards, training", ("min_reward", "mean_reward", "max_reward")),
    Panel("Lead of the chosen one", ("margin", "eval/margin")),
    Panel("Gradient norm", ("grad_norm",), low=0.0),
    Panel("Tokens per second", ("tokens_per_second/*",), low=0.0),
)


def save(run: Run[RewardModelSetup], state: TrainState) -> None:
    """The reward model as a PEFT directory; `lqlm.io.reward_model.load_reward_model` reads it."""
    settings, model, tree = run.setup.settings, run.setup.model, whole(state.adapters)
    if first():
        names = (settings.adapter, model.config, settings.model.source)
        save_reward_model(run.workdir.adapter, tree, *names, initial=run.setup.initial)


REWARD_MODEL = Algorithm(
    settings=RewardModelExperiment,
    build=build,
    one_step=one_step,
    evaluate=evaluate,
    save=save,
    watched=(("eval/loss",), False),
    shown={"loss": "loss", "accuracy": "accuracy"},
    speed="update",
    panels=PANELS,
)
