"""Does this training fit this GPU, where do the bytes go, and what to change if not: from shapes alone.

usage: python -m experiments.quantize --plan [--config FILE] [--config.KEY=VALUE ...]

  python -m experiments.quantize --plan --config.model=65B --config.gpu_gib=48
  python -m experiments.quantize --plan --config.model=Qwen/Qwen2.5-7B --config.gpu_gib=16 --config.batch=8 \\
      --config.length=1024
  python -m experiments.quantize --plan --config configs/plan.py:ia3 --config.model=model.gguf --config.gpu_gib=8

The training step itself is compiled ahead of time for the CPU backend of XLA, and the figures are those of its
memory_analysis(); no weight is read or fetched.  Of a step that samples (ppo, grpo) the rollouts are planned too.
configs/plan.py:KIND plans an adapter of that kind (lora, ia3, prompt, prefix, full).
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import jax

from experiments import command
from experiments.configdict import from_config
from experiments.plan.advice import Suggestion, advise
from experiments.plan.memory import GIB, Usage, measure
from experiments.plan.rollouts import STEPS, Rollouts, rollouts_of
from experiments.plan.settings import PlanSettings, job_of
from experiments.plan.steps import Job
from lqlm.io.disk import write_atomic

DEFAULT = "configs/plan.py"


def main(config: Any) -> None:
    """Plan, print, and write the figures if asked to."""
    settings = from_config(PlanSettings, config)
    jax.config.update("jax_platforms", "cpu")  # the same figures on every machine
    command.use_compilation_cache()
    room = _room(settings)
    plan = functools.cache(functools.partial(measure, step=settings.step))
    job = job_of(settings)
    usage = plan(job)
    suggestions = advise(job, room, plan) if usage.device > room and settings.suggest else []
    print(text(settings, job, usage, suggestions))
    sampled = _sampled(settings, job, usage, settings.slots) if settings.step in STEPS else None
    if sampled:
        print(sampling_text(settings, sampled, functools.partial(_sampled, settings, job, usage)))
    if settings.json:
        write_atomic(settings.json, as_json(settings, usage, suggestions, sampled))


def text(settings: PlanSettings, job: Job, usage: Usage, suggestions: list[Suggestion]) -> str:
    """The plan for a person."""
    lines = [f"{settings.model}, {settings.step}, batch {job.batch} x {job.tokens} tokens: GiB on the device"]
    lines += [f"  {name:18} {size / GIB:7.2f}" for name, size in usage.parts.items()]
    lines.append(f"  {'in all':18} {usage.device / GIB:7.2f}")
    if usage.memory.host_arguments:
        lines.append(f"on the host: moments {usage.memory.host_arguments / GIB:.2f}")
    lines.append(_verdict(settings, usage))
    for number, (change, changed) in enumerate(suggestions, 1):
        lines.append(f"  {number}. --config.{change.words:28} -> {changed.device / GIB:6.2f} GiB  ({change.price})")
    if suggestions:
        lines.append(_verdict(settings, suggestions[-1].usage, "with these changes it "))
    return "\n".join(lines)


def _room(settings: PlanSettings) -> int:
    return round((settings.gpu_gib - settings.reserve_gib) * GIB)


def _verdict(settings: PlanSettings, held: Usage | Rollouts, start: str = "it ") -> str:
    spare = (_room(settings) - held.device) / GIB
    words = f"fits, {spare:.2f} GiB to spare" if spare >= 0 else f"does not fit: {-spare:.2f} GiB too much"
    return f"{start}{words}, on a GPU of {settings.gpu_gib:g} GiB less {settings.reserve_gib:g} in reserve"


def _sampled(settings: PlanSettings, job: Job, usage: Usage, slots: int) -> Rollouts:
    return rollouts_of(job, usage, settings.merge, slots, settings.cache)


def sampling_text(settings: PlanSettings, sampled: Rollouts, through: Callable[[int], Rollouts]) -> str:
    """What its rollouts hold, for a person; ``through`` tells it for a number of slots."""
    held = ", ".join(f"{name} {size / GIB:.2f}" for name, size in dataclasses.asdict(sampled).items() if size)
    lines = [f"its rollouts hold {sampled.device / GIB:.2f} GiB: {held}"]
    lines.append(_verdict(settings, sampled, "sampling "))
    if sampled.device > _room(settings):
        few = ((slots, through(slots).device) for slots in range((settings.slots or settings.batch) - 1, 0, -1))
        if sampled.copy:
            lines.append(f"  run.merge=False is {sampled.copy / GIB:.2f} GiB less, and slower")
        if fits := next(((slots, size) for slots, size in few if size <= _room(settings)), None):
            lines.append(f"  run.slots={fits[0]} makes {fits[1] / GIB:.2f} GiB of it, and takes the prompts in turn")
    return "\n".join(lines)


def as_json(
    settings: PlanSettings, usage: Usage, suggestions: list[Suggestion], sampled: Rollouts | None = None
) -> str:
    """The plan as JSON, in bytes."""

    def facts(usage: Usage) -> dict[str, Any]:
        return dataclasses.asdict(usage) | {"device": usage.device, "parts": usage.parts}

    found = {
        "fits": max(usage.device, sampled.device if sampled else 0) <= _room(settings),
        "usage": facts(usage),
        "rollouts": dataclasses.asdict(sampled) | {"device": sampled.device} if sampled else None,
        "suggestions": [{"change": s.change.words, "usage": facts(s.usage)} for s in suggestions],
        "jax": jax.__version__,
        "settings": dataclasses.asdict(settings),
    }
    return json.dumps(found, indent=2) + "\n"


if __name__ == "__main__":
    command.run(main, PlanSettings, __doc__ or "", DEFAULT)
