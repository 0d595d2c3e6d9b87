"""What to change so that a step fits: changes in the order of what they cost, each planned before it is suggested."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, NamedTuple

from experiments.plan.memory import Usage
from experiments.plan.steps import Job
from lqlm.adapters.configs import FullConfig, LoraConfig
from lqlm.optim.chains import OptimConfig
from lqlm.quant.codebooks import Name
from lqlm.quant.qtensor import QuantConfig

WORTH = 0.005
"""A change that saves a smaller share is not suggested."""


class Change(NamedTuple):
    """One change of a job.

    Attributes:
        words: the setting, as it is given on the command line.
        price: what is paid for it.
        apply: the job with it; the same job where it does not apply.
    """

    words: str
    price: str
    apply: Callable[[Job], Job]


class Suggestion(NamedTuple):
    """A change, and the step's use of memory with it and all suggestions before it."""

    change: Change
    usage: Usage


def changes(job: Job) -> Iterator[Change]:
    """All that may be changed, what costs least first."""
    yield Change("remat=full", "each layer is computed twice", _remat)
    yield Change("optim.paging=leaf", "moments move to the host and back", partial(_page, paging="leaf"))
    yield Change("optim.paging=slice", "smaller moves, more of them", partial(_page, paging="slice"))
    yield Change("optim.optimizer=adamw8bit", "moments of 8 bits", _adam8)
    yield Change("logprob_chunk=64", "the head in smaller products", partial(_chunk, chunk=64))
    yield Change("adapter.dtype=bfloat16", "adapters of 16 bits", _half_adapters)
    full = isinstance(job.adapter, FullConfig)
    if job.quant is None and not full:
        yield Change("quantize=True", "weights of 4 bits", partial(_codebook, codebook="nf4"))
    yield Change(f"micro_batches={job.batch}", "one row at a time", _row_by_row)
    for batch in _halves(job.batch, 1):
        yield Change(f"batch={batch}", "fewer rows in a step", partial(_shrink, batch=batch))
    for tokens in _halves(job.tokens, 64):
        yield Change(f"length={tokens}", "shorter rows", partial(_shorten, tokens=tokens))
    for rank in _halves(job.adapter.rank, 4) if isinstance(job.adapter, LoraConfig) else ():
        yield Change(f"adapter.rank={rank}", "smaller adapters", partial(_rank, rank=rank))
    for codebook in () if full else ("nf3", "nf2"):
        yield Change(f"quant.codebook={codebook}", "coarser weights", partial(_codebook, codebook=codebook))


def _halves(value: int, least: int) -> Iterator[int]:
    while (value := value // 2) >= least:
        yield value


def _remat(job: Job) -> Job:
    return dataclasses.replace(job, remat="full")


def _optim(job: Job, optim: OptimConfig) -> Job:
    return dataclasses.replace(job, optim=optim)


def _page(job: Job, paging: Literal["leaf", "slice"]) -> Job:
    order, old = ("none", "whole", "leaf", "slice"), job.optim
    further = order.index(paging) > order.index(old.paging)
    return _optim(job, dataclasses.replace(old, paging=paging, offload=1.0)) if further or old.offload < 1 else job


def _adam8(job: Job) -> Job:
    return _optim(job, dataclasses.replace(job.optim, optimizer="adamw8bit"))


def _chunk(job: Job, chunk: int) -> Job:
    return dataclasses.replace(job, chunk=min(chunk, job.chunk))


def _half_adapters(job: Job) -> Job:
    narrow = job.adapter.dtype == "float32" and not isinstance(job.adapter, FullConfig)
    return dataclasses.replace(job, adapter=dataclasses.replace(job.adapter, dtype="bfloat16")) if narrow else job


def _row_by_row(job: Job) -> Job:
    return dataclasses.replace(job, micro_batches=job.batch)


def _shrink(job: Job, batch: int) -> Job:
    batch = min(batch, job.batch)
    return dataclasses.replace(job, batch=batch, micro_batches=min(batch, job.micro_batches))


def _shorten(job: Job, tokens: int) -> Job:
    tokens = min(tokens, job.tokens)
    return dataclasses.replace(job, tokens=tokens, completion=min(job.completion, tokens // 2))


def _rank(job: Job, rank: int) -> Job:
    assert isinstance(job.adapter, LoraConfig)
    smaller = min(rank, job.adapter.rank)
    return dataclasses.replace(job, adapter=dataclasses.replace(job.adapter, rank=smaller, rank_pattern=()))


def _codebook(job: Job, codebook: Name) -> Job:
    quant = dataclasses.replace(job.quant or QuantConfig(), codebook=codebook)
    return dataclasses.replace(job, quant=quant) if job.quant is None or quant.bits < job.quant.bits else job


def advise(job: Job, room: int, plan: Callable[[Job], Usage]) -> list[Suggestion]:
    """Changes that together make a job fit, as few as will do; if none do, all that help.

    Args:
        job: what does not fit.
        room: bytes that it may take on the device.
        plan: measures a job.

    Returns:
        Suggestions in order; the last one's ``usage.device`` says what all of them together take.
    """
    kept: list[Change] = []
    present, now = plan(job), job
    for change in changes(job):
        if present.device <= room:
            break
        changed = change.apply(now)
        usage = present if changed == now else plan(changed)
        if usage.device < (1 - WORTH) * present.device:
            kept, now, present = [*kept, change], changed, usage
    if present.device <= room:
        kept = _needed(job, kept, room, plan)
    return [Suggestion(change, plan(_all(job, kept[: i + 1]))) for i, change in enumerate(kept)]


def _needed(job: Job, kept: list[Change], room: int, plan: Callable[[Job], Usage]) -> list[Change]:
    """Leave out what turned out not to be needed, what costs most first."""
    for change in reversed(kept[:-1]):
        fewer = [other for other in kept if other is not change]
        if plan(_all(job, fewer)).device <= room:
            kept = fewer
    return kept


def _all(job: Job, changes: list[Change]) -> Job:
    for change in changes:
        job = change.apply(job)
    return job
