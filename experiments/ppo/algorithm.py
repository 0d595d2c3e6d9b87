"""What PPO gives to the loop, and what every actor-critic does."""

from experiments import trained
from experiments.algorithm import Algorithm
from experiments.hosts import first
from experiments.ppo.evaluate import evaluate
from experiments.ppo.settings import PPOExperiment
from experiments.ppo.setup import ActorCriticSetup, build
from experiments.ppo.step import one_step
from experiments.run import Run
from lqlm.algorithms.step import TrainState
from lqlm.io.curves import PANELS as OF_THE_POLICY
from lqlm.io.curves import Panel
from lqlm.io.reward_model import save_reward_model
from lqlm.sharding import whole

VALUE = "value"
PANELS = (
    *OF_THE_POLICY,
    Panel("Value loss", ("value_loss",), low=0.0),
    Panel("Variance that the values explain", ("value/explained_variance",), high=1.0),
    Panel("Coefficient of the KL", ("kl_coef",), low=0.0),
)


def save(run: Run[ActorCriticSetup], state: TrainState) -> None:
    """The policy as a PEFT directory ``adapter``, and the value function beside it as a sequence classifier."""
    setup = run.setup
    trained.save(run, state.replace(adapters=state.adapters["policy"]))  # type: ignore[attr-defined]
    value = whole(state.adapters["value"])
    if first():
        names = (setup.value_adapter, setup.model.config, setup.settings.model.source)
        save_reward_model(run.workdir.path / VALUE, value, *names)


PPO = Algorithm(
    settings=PPOExperiment,
    build=build,
    one_step=one_step,
    evaluate=evaluate,
    save=save,
    watched=(("eval/accuracy", "eval/reward"), True),
    shown={"reward": "reward", "kl": "kl"},
    speed="rollout",
    panels=PANELS,
)
