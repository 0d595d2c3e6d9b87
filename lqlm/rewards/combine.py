"""Rewards weighted and summed; a failure of a reward is counted instead of ending the run.

>>> length = RewardSpec("length", "lqlm.rewards.functions.soft_overlong", weight=0.5, params={"limit": 10, "buffer": 4})
>>> score_all(bind_all([length], task=None), [Sample("2 + 2?", "4", "4", 8, False)], task=None, timeout_s=5.0).total
array([-0.25], dtype=float32)
"""

import dataclasses
import importlib
import inspect
import math
import numbers
import pathlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from lqlm.errors import UserError
from lqlm.rewards.timeout import Timeout, within
from lqlm.tasks.base import Item, Task


@dataclasses.dataclass(frozen=True)
class Sample:
    """One completion, as rewards see it.

    Attributes:
        prompt: the question as asked, without chat template.
        completion: decoded text, without special tokens.
        answer: reference answer.
        n_tokens: length of the completion in tokens.
        truncated: it reached the token limit without an end token.
        item: the problem; None: one made of `prompt` and `answer`.
    """

    prompt: str
    completion: str
    answer: str
    n_tokens: int
    truncated: bool
    item: Item | None = None


FIELDS = ("prompt", "completion", "answer", "n_tokens", "truncated", "task", "item")


@dataclasses.dataclass(frozen=True)
class RewardSpec:
    """One component of the reward, as a config gives it.

    Attributes:
        name: of the component in metrics.
        function: a function, or its path: "package.module.function" or "package.module:function".
        weight: its factor in the total.
        params: arguments bound by the config, by name.
    """

    name: str
    function: str | Callable[..., Any]
    weight: float = 1.0
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class RewardFunction:
    """A checked component: `fields` of the sample and `params` are passed to `function` by name."""

    name: str
    function: Callable[..., Any]
    weight: float
    fields: tuple[str, ...]
    params: Mapping[str, Any]
    path: str

    def __call__(self, sample: Sample, task: Task | None) -> Any:
        """The raw value for one sample."""
        given = {name: getattr(sample, name, None) for name in self.fields}
        if "task" in given:
            given["task"] = task
        if "item" in given and sample.item is None:
            given["item"] = Item(sample.prompt, sample.answer, "")
        return self.function(**given, **self.params)


@dataclasses.dataclass(frozen=True)
class Rewards:
    """Rewards of n samples.

    Attributes:
        total: float32 [n], the weighted sum.
        components: name -> float32 [n], before weighting; 0 where the function failed.
        errors: failures, counted over samples and components.
        first_error: one line on the first of them, or None.
        failed: name -> samples on which the function failed, and one line on the first cause.
    """

    total: np.ndarray
    components: dict[str, np.ndarray]
    errors: int
    first_error: str | None
    failed: dict[str, tuple[int, str]] = dataclasses.field(default_factory=dict)

    def checked(self) -> "Rewards":
        """These, if no component has failed on every sample.

        Raises:
            UserError: naming it.
        """
        for count, cause in self.failed.values():
            if count == len(self.total):
                raise UserError(cause)
        return self


def _import(module: str, path: str) -> Any:
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        cause = f"there is no module {module!r}" if missing else f"importing {module!r} raised {describe(error)}"
        cure = "check the spelling and that it can be imported from where you started" if missing else "mend the module"
        raise UserError(f"reward function {path!r}: {cause}; {cure}") from error


def load_reward(path: str) -> Callable[..., Any]:
    """The function at "package.module.function" or "package.module:function"."""
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    if not module or not name or "/" in path:
        raise UserError(
            f"reward function {path!r}: not a dotted path; write it as package.module.function, "
            "for example lqlm.rewards.functions.correct"
        )
    found = _import(module, path)
    for part in name.split("."):
        if not hasattr(found, part):
            near = ", ".join(n for n, _ in inspect.getmembers(found, inspect.isfunction) if not n.startswith("_"))
            raise UserError(f"reward function {path!r}: no {part!r} in {module!r}; its functions: {near or 'none'}")
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"reward function {path!r}: it is a {type(found).__name__}, not a function")
    return found


def _checked_fields(
    function: Callable[..., Any], params: Mapping[str, Any], where: str, fields: tuple[str, ...]
) -> tuple[str, ...]:
    """Those of `fields` that a function wants; UserError when config and signature do not fit."""
    if inspect.iscoroutinefunction(function):
        raise UserError(f"{where}: it is asynchronous; write a plain function")
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: its parameters cannot be read ({error}); wrap it in a plain function") from None
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    taken = sorted(set(params) & set(fields))
    if taken:
        raise UserError(f"{where}: params binds {', '.join(taken)}, which every sample brings along; leave it out")
    unknown = [n for n in params if n not in named and not any_name]
    if unknown:
        raise UserError(f"{where}: params has {', '.join(unknown)}; the function's parameters are {', '.join(named)}")
    for name, p in parameters.items():
        given = name in named and (name in fields or name in params)
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and not given:
            raise UserError(
                f"{where}: its parameter {name!r} is none of {', '.join(fields)}; "
                f"bind it in params, as in params={{{name!r}: ...}}, or give it a default"
            )
    return fields if any_name else tuple(n for n in named if n in fields)


def bind(spec: RewardSpec, known: tuple[str, ...] = FIELDS) -> RewardFunction:
    """A spec checked against its function, which may ask for `known` fields: do it once, before any work."""
    function = load_reward(spec.function) if isinstance(spec.function, str) else spec.function
    if not callable(function):
        raise UserError(f"reward {spec.name!r}: {function!r} is neither a function nor the path of one")
    path = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', type(function).__name__)}"
    if not isinstance(spec.weight, numbers.Real) or not math.isfinite(spec.weight):
        raise UserError(f"reward {spec.name!r}: weight={spec.weight!r} is not a finite number")
    fields = _checked_fields(function, spec.params, f"reward {spec.name!r} ({path})", known)
    return RewardFunction(spec.name, function, float(spec.weight), fields, dict(spec.params), path)


def bind_all(specs: Sequence[RewardSpec], task: Task | None) -> list[RewardFunction]:
    """Every spec bound; the names must be distinct, and a task must be there when a function wants it."""
    names = [spec.name for spec in specs]
    if not specs or len(set(names)) < len(names) or not all(names):
        raise UserError(f"rewards: give at least one, each with a name of its own; the names are {names}")
    bound = [bind(spec) for spec in specs]
    for reward in bound:
        if task is None and "task" in reward.fields:
            raise UserError(f"reward {reward.name!r} ({reward.path}) wants a task, and there is none; pass task=...")
    return bound


def describe(error: BaseException) -> str:
    """Kind, message and place of an exception, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {pathlib.PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{place}"


def as_float(value: Any) -> float:
    """A reward value as a float that float32 can hold; ValueError or TypeError otherwise."""
    if getattr(value, "ndim", None) == 0:  # numpy and jax scalars
        value = value.item()
    if not isinstance(value, (numbers.Real, Decimal)):
        raise TypeError(f"returned {type(value).__name__} {str(value)[:40]!r}, not a number")
    if math.isnan(value) or abs(float(value)) > float(np.finfo(np.float32).max):
        raise ValueError(f"returned {str(value)[:40]}, not a finite float32")
    return float(value)


def _value(
    reward: RewardFunction, sample: Sample, task: Task | None, timeout_s: float | None
) -> tuple[float, str | None]:
    """(value, None), or (0, cause and cure) when the function failed on this sample."""
    try:
        return within(timeout_s, lambda: as_float(reward(sample, task))), None
    except Timeout:
        return 0.0, f"it ran longer than {timeout_s} s; make it end sooner or raise the time limit"
    except (Exception, SystemExit) as error:  # an exception in a reward is that sample's reward, not a crash
        return 0.0, f"{describe(error)}; make it return a finite number for every completion"


def score_all(
    rewards: Sequence[RewardFunction | RewardSpec],
    samples: Sequence[Sample],
    *,
    task: Task | None,
    timeout_s: float | None,
    some: bool = False,
) -> Rewards:
    """Rewards of all samples: ``total = sum_k weight_k * component_k``.

    A function that raises, exits, runs longer than `timeout_s` or returns no finite number gives that sample 0 and is
    counted; a component that fails on every sample raises UserError.

    Args:
        rewards: from `bind_all`, or specs.
        samples: n completions.
        task: for functions that ask for it.
        timeout_s: seconds for one function on one sample; None: no limit.  See `within` for where it holds.
        some: these are some of a step's samples; whether a component fails on every one is asked of all of them.
    """
    if timeout_s is not None and not timeout_s > 0:
        raise UserError(f"rewards: timeout_s={timeout_s} is not positive; give seconds, or None for no limit")
    bound = [bind(reward) if isinstance(reward, RewardSpec) else reward for reward in rewards]
    components, failures, all_failed = {}, [], {}
    for reward in bound:
        results = [_value(reward, sample, task, timeout_s) for sample in samples]
        components[reward.name] = np.array([value for value, _ in results], np.float32)
        failed = [
            f"reward {reward.name!r} ({reward.path}) failed on sample {i + 1} of {len(samples)} (counted 0): {cause}"
            for i, (_, cause) in enumerate(results)
            if cause is not None
        ]
        if failed:
            cause = next(cause for _, cause in results if cause is not None)
            all_failed[reward.name] = (
                len(failed),
                f"reward {reward.name!r} ({reward.path}) failed on every sample: {cause}",
            )
        failures += failed
    total = np.zeros(len(samples), np.float32)
    for reward in bound:
        total += np.float32(reward.weight) * components[reward.name]
    found = Rewards(total, components, len(failures), failures[0] if failures else None, all_failed)
    return found if some else found.checked()
