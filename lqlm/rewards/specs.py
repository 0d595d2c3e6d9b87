"""What a reward is: a component as a config gives it, bound to its function and checked against it, before any work."""

import dataclasses
import importlib
import inspect
import math
import numbers
import pathlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lqlm.errors import UserError
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
        scenarios: of a mixture of tasks those whose completions it judges (`lqlm.tasks.mixture`); empty: all.
    """

    name: str
    function: str | Callable[..., Any]
    weight: float = 1.0
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scenarios: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class RewardFunction:
    """A checked component: `fields` of the sample and `params` are passed to `function` by name."""

    name: str
    function: Callable[..., Any]
    weight: float
    fields: tuple[str, ...]
    params: Mapping[str, Any]
    path: str
    scenarios: tuple[str, ...] = ()

    def __call__(self, sample: Sample, task: Task | None) -> Any:
        """The raw value for one sample."""
        given = {name: getattr(sample, name, None) for name in self.fields}
        if "task" in given:
            given["task"] = task.of(sample.item) if task and sample.item else task
        if "item" in given and sample.item is None:
            given["item"] = Item(sample.prompt, sample.answer, "")
        return self.function(**given, **self.params)

    def judges(self, sample: Sample) -> bool:
        """Whether it is meant for such a sample."""
        return judges(self.scenarios, sample.item)


def judges(scenarios: Sequence[str], item: Item | None) -> bool:
    """Whether a component that is meant for these scenarios (none: for all) judges an item's completions."""
    return not scenarios or (item is not None and item.scenario in scenarios)


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
    return RewardFunction(spec.name, function, float(spec.weight), fields, dict(spec.params), path, spec.scenarios)


def bind_all(specs: Sequence[RewardSpec], task: Task | None) -> list[RewardFunction]:
    """Every spec bound; names must be distinct, a task there when a function wants it, scenarios those of the task."""
    names = [spec.name for spec in specs]
    if not specs or len(set(names)) < len(names) or not all(names):
        raise UserError(f"rewards: give at least one, each with a name of its own; the names are {names}")
    bound = [bind(spec) for spec in specs]
    for reward in bound:
        check_scenarios(f"reward {reward.name!r}", reward.scenarios, task)
        if task is None and "task" in reward.fields:
            raise UserError(f"reward {reward.name!r} ({reward.path}) wants a task, and there is none; pass task=...")
    return bound


def check_scenarios(whose: str, scenarios: Sequence[str], task: Task | None) -> None:
    """Refuse scenarios that the task does not have.

    Raises:
        UserError: naming them.
    """
    known = task.scenarios if task else {}
    if unknown := [name for name in scenarios if name not in known]:
        has = f"the task's are {', '.join(known)}" if known else "the task is no mixture; leave scenarios empty"
        raise UserError(f"{whose}: there is no scenario {', '.join(unknown)}; {has}")


def describe(error: BaseException) -> str:
    """Kind, message and place of an exception, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {pathlib.PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{place}"
