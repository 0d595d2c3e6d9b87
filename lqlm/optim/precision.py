"""The dtype that an optimizer computes in."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lqlm.types import PyTree


def in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Let ``inner`` see parameters and gradients in float32, and so keep its state in it, whatever their dtype.

    Adam's second moment cannot live in bfloat16: with b2 = 0.999 an update changes it by less than a rounding step.
    Nothing changes for parameters in float32.

    Args:
      inner: the transformation to wrap.

    Returns:
      An optax transformation with the state of ``inner``, whose updates are float32.
    """
    inner = optax.with_extra_args_support(inner)

    def wide(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any) -> tuple[PyTree, PyTree]:
        return inner.update(wide(updates), state, None if params is None else wide(params), **extra_args)

    return optax.GradientTransformationExtraArgs(lambda params: inner.init(wide(params)), update)
