"""The constants of the losses of DPO, and which loss reads which."""

import dataclasses
from typing import Literal, get_args

from lqlm.algorithms.divergences import Divergence
from lqlm.errors import UserError

Loss = Literal[
    "sigmoid", "sigmoid_norm", "cdpo", "robust", "hinge", "ipo", "exo_pair", "nca_pair", "bco_pair", "sppo_hard",
    "apo_zero", "apo_down", "discopop", "aot", "aot_unpaired",
]  # fmt: skip
SMOOTHED = ("cdpo", "robust", "exo_pair", "aot", "aot_unpaired")  # those that read label_smoothing
WHOLE_BATCH = ("aot", "aot_unpaired")  # those that compare the pairs of a batch with each other
BY_SCORE = ("sigmoid", "sigmoid_norm", "cdpo", "robust", "hinge", "ipo", "exo_pair", "discopop")


@dataclasses.dataclass(frozen=True)
class DPOConfig:
    """The loss of DPO and of its relatives.

    Attributes:
      loss: one of `Loss`; the equations are in `lqlm.algorithms.preference`.
      beta: strength of the tie to the reference.
      label_smoothing: share of labels that are taken for wrong, below 1/2; of cdpo, robust, exo_pair and aot only.
      tau: temperature of discopop.
      divergence: what ties to the reference: ``reverse_kl`` (DPO), ``forward_kl``, ``js_divergence``,
        ``alpha_divergence``; of losses of a difference of log-ratios only.
      alpha: of the alpha-divergence.
      tail: weight of the tokens beyond the length of the shorter side (LD-DPO, arXiv:2409.06411: below 1).
      sft_weight: weight of the likelihood of the chosen completions, added to the loss (RPO, arXiv:2404.19733).
      wpo: whether each pair counts as `wpo_weights` say (WPO, arXiv:2406.11827); the likelihood above does not.
    """

    loss: Loss = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    tau: float = 0.05
    divergence: Divergence = "reverse_kl"
    alpha: float = 0.5
    tail: float = 1.0
    sft_weight: float = 0.0
    wpo: bool = False

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before anything is compiled."""
        for name, known in (("loss", get_args(Loss)), ("divergence", get_args(Divergence))):
            if getattr(self, name) not in known:
                raise UserError(f"DPOConfig: unknown {name} {getattr(self, name)!r}: use {', '.join(known)}")
        if self.beta <= 0 or self.tau <= 0:
            raise UserError(f"DPOConfig: beta {self.beta}, tau {self.tau}: take more than 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(f"DPOConfig: label_smoothing {self.label_smoothing}: take 0 or more, and less than 0.5")
        if self.label_smoothing and self.loss not in SMOOTHED:
            raise UserError(
                f"DPOConfig: loss {self.loss!r} reads no label_smoothing: take 0, or one of {', '.join(SMOOTHED)}"
            )
        if self.loss == "exo_pair" and not self.label_smoothing:
            raise UserError("DPOConfig: loss 'exo_pair' takes the logarithm of label_smoothing: take more than 0")
        if self.divergence != "reverse_kl" and self.loss not in BY_SCORE:
            raise UserError(
                f"DPOConfig: loss {self.loss!r} knows no divergence {self.divergence!r}: take 'reverse_kl', "
                f"or one of {', '.join(BY_SCORE)}"
            )
        if self.wpo and self.loss in WHOLE_BATCH:
            raise UserError(f"DPOConfig: loss {self.loss!r} sorts the pairs, which have no weight of their own: no wpo")
        if not 0 <= self.tail <= 1 or self.sft_weight < 0:
            raise UserError(f"DPOConfig: tail {self.tail}, sft_weight {self.sft_weight}: take 0 to 1, and 0 or more")
