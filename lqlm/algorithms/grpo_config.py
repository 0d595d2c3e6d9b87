"""The constants of the loss of GRPO and of its relatives."""

import dataclasses
from typing import Literal

from lqlm.algorithms import policy
from lqlm.algorithms.surrogates import Surrogate, TokenClip
from lqlm.errors import UserError


@dataclasses.dataclass(frozen=True)
class GRPOConfig:
    """The loss of GRPO and of its relatives: a surrogate, a reduction, a divergence and where it acts.

    DeepSeekMath is the default.  DAPO: ``epsilon_high=0.28, beta=0, reduction="token"``.  Dr. GRPO: ``beta=0,
    reduction="constant"`` with `lqlm.algorithms.advantages.centered_advantages`.  GSPO: ``SequenceClip()`` with
    epsilons of 3e-4 and 4e-4.  CISPO: ``Cispo()``, VESPO: ``Vespo()``, both with ``reduction="token"``.  RLOO:
    ``SummedClip()`` with ``kl="k1", kl_place="reward"`` and `lqlm.algorithms.advantages.leave_one_out_advantages`.
    """

    epsilon_low: float = 0.2  # of the surrogates that clip: the ratio is rewarded down to 1 - epsilon_low
    epsilon_high: float = 0.2  # and up to 1 + epsilon_high
    beta: float = 0.04  # weight of the divergence from the reference; 0 needs no reference
    reduction: policy.Reduction = "sequence"
    max_length: int | None = None  # tokens; for the reduction "constant" only
    kl: policy.Estimator = "k3"
    surrogate: Surrogate = TokenClip()
    kl_place: Literal["loss", "reward"] = "loss"  # in the reward, the caller has taken it off before the advantages
    top_entropy_quantile: float = 1.0  # share of the tokens, those of highest entropy, that teach
    off_policy_mask_threshold: float | None = None  # nats per token; see `selection.on_policy_sequences`
    entropy_coef: float = 0.0  # weight of the mean entropy, which is then maximised

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before anything is compiled."""
        if not (0 < self.epsilon_low < 1 and self.epsilon_high > 0):
            raise UserError(
                f"GRPOConfig: epsilon_low {self.epsilon_low}, epsilon_high {self.epsilon_high}: "
                "take epsilon_low between 0 and 1 and epsilon_high above 0"
            )
        if self.beta < 0:
            raise UserError(f"GRPOConfig: beta {self.beta} rewards divergence: take 0 or more")
        for name, known in (("reduction", policy.REDUCTIONS), ("kl", policy.ESTIMATORS)):
            if getattr(self, name) not in known:
                raise UserError(f"GRPOConfig: unknown {name} {getattr(self, name)!r}: use one of {', '.join(known)}")
        if self.reduction == "constant" and not (self.max_length and self.max_length > 0):
            raise UserError(f"GRPOConfig: reduction 'constant' with max_length {self.max_length}: set it in tokens")
        if self.kl_place not in ("loss", "reward") or (self.kl_place == "reward" and self.kl == "k3_corrected"):
            raise UserError(
                f"GRPOConfig: kl_place {self.kl_place!r} with kl {self.kl!r}: use 'loss', or 'reward' with k1, k2 or k3"
            )
        if not 0 < self.top_entropy_quantile <= 1:
            raise UserError(f"GRPOConfig: top_entropy_quantile {self.top_entropy_quantile}: take a share above 0, to 1")

    @property
    def bounds(self) -> tuple[float, float]:
        """Both epsilons."""
        return self.epsilon_low, self.epsilon_high

    @property
    def needs_entropy(self) -> bool:
        """Whether the loss depends on the entropy."""
        return self.top_entropy_quantile < 1 or self.entropy_coef != 0
