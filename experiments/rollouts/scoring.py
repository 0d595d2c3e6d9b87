"""A learned reward beside the functions: a reward model over the policy's own base."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.mesh import batched, compiled, laid_out
from experiments.rollouts.settings import RewardModelSettings
from lqlm.errors import UserError
from lqlm.generation.decode import Completions
from lqlm.io.load import LoadedModel
from lqlm.io.reward_model import load_reward_model
from lqlm.models.heads import completion_scores
from lqlm.rewards.combine import Rewards
from lqlm.sharding import replicated
from lqlm.trees import commit
from lqlm.types import PyTree

NAME = "reward_model"


@dataclasses.dataclass(frozen=True)
class Judge:
    """A reward model; it has no weights but its adapters and its head.

    Attributes:
        adapters: with the head under "score".
        score: ``(base, adapters, prompts_BP, prompt_mask_BP, completions_BGC, mask_BGC) -> [B, G]``, compiled once per
            prompt bucket.
        settings: where it came from, and its weight.
        mesh: of the run.
    """

    adapters: PyTree
    score: Callable[..., jax.Array]
    settings: RewardModelSettings
    mesh: Mesh | None

    def __call__(self, base: PyTree, prompts: tuple[np.ndarray, np.ndarray], completions: Completions) -> np.ndarray:
        """Scores of all completions, float32 [B * G], in every process."""
        rows = batched(self.mesh, (*prompts, completions.tokens_BGC, completions.mask_BGC))
        found = np.asarray(self.score(base, self.adapters, *rows)).reshape(-1)
        if not np.isfinite(found).all():
            wrong = int((~np.isfinite(found)).sum())
            raise UserError(f"reward_model.path {self.settings.path}: {wrong} scores are not finite; train it anew")
        return found


def load_judge(settings: RewardModelSettings, model: LoadedModel, mesh: Mesh | None) -> Judge | None:
    """The reward model that the settings name, if any.

    Raises:
        UserError: for a directory that is missing, damaged, no reward model, or one of another base's shape.
    """
    if not settings.path:
        return None
    adapters, _ = load_reward_model(settings.path, model.config)

    def score(base: PyTree, adapters: PyTree, tokens: Any, mask: Any, completions: Any, own_mask: Any) -> jax.Array:
        return completion_scores(base, adapters, tokens, mask, completions, own_mask, model.config)

    return Judge(commit(laid_out(mesh, adapters, model.config)), compiled(score, mesh, replicated), settings, mesh)


def with_score(rewards: Rewards, scores: np.ndarray, weight: float, judged: np.ndarray | bool = True) -> Rewards:
    """Rewards with a learned component beside the others.

    Args:
        rewards: of n samples.
        scores: float32 [n].
        weight: of the scores in the sum.
        judged: bool [n], whether the reward model is meant for a sample; the score of any other is NaN, and not added.
    """
    total = (rewards.total + np.float32(weight) * np.where(judged, scores, 0.0)).astype(np.float32)
    known = np.where(judged, scores, np.nan).astype(np.float32)
    return dataclasses.replace(rewards, total=total, components={**rewards.components, NAME: known})
