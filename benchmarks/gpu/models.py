"""Sections on whole models of random weights: decoding, updates, paging, peaks of memory."""

import dataclasses
import functools
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.bench import Bench, Row, best_seconds, random_like, waited_seconds
from benchmarks.gpu.checks import LORA, RATE, TINY, WAYS, products
from benchmarks.paging import SMOLLM2, random_batch
from experiments.plan.memory import compile_ahead, measure, memory_of
from experiments.plan.shapes import SHAPES, abstract_base
from experiments.plan.steps import STEPS, Job, Program
from lqlm.adapters.configs import LINEARS, LoraConfig
from lqlm.algorithms.step import init_state
from lqlm.generation.decode import generate
from lqlm.generation.sampling import SamplingConfig
from lqlm.models.config import ModelConfig
from lqlm.models.convert import layer_tensors
from lqlm.optim.chains import make_optimizer
from lqlm.quant import QuantConfig
from lqlm.trees import commit, tree_bytes
from lqlm.types import PyTree


def shape_of(name: str, bench: Bench) -> ModelConfig:
    """A model's shape by name; the tiny one in a rehearsal."""
    return TINY if bench.rehearse else {**SHAPES, "smollm2": SMOLLM2}[name]


def weights_of(cfg: ModelConfig) -> int:
    """Weights of the linear maps and of the head: what a token is multiplied by."""
    maps = sum(int(np.prod(shape)) for name, (_, shape) in layer_tensors(cfg).items() if name in LINEARS)
    return cfg.layers * maps + cfg.vocab_size * cfg.width


def decode(bench: Bench) -> None:
    """Tokens per second of sampling from a 4-bit base, and the share of bandwidth that its reading takes."""
    cases = [(name, batch) for name in ("7B", "smollm2") for batch in (1, 8, 64)]
    bases: dict[str, PyTree] = {}
    for name, batch in bench.within_time(cases):
        cfg, new = shape_of(name, bench), 3 if bench.rehearse else 64
        if name not in bases:
            bases = {name: random_like(abstract_base(cfg, QuantConfig(), "bfloat16"))}
        prompts, mask = jnp.ones((batch, new), jnp.int32), jnp.ones((batch, new), bool)
        for way in WAYS:
            with bench.case(model=name, batch=batch, prompt=new, new_tokens=new, way=way) as row, products(way):
                times = [
                    _decode_seconds(bases[name], prompts, mask, cfg, tokens, bench.rehearse) for tokens in (2, new + 2)
                ]
                step = (times[1] - times[0]) / new  # a prompt costs both the same
                embed = tree_bytes(bases[name]["embed"])
                read = tree_bytes(bases[name]) - (0 if cfg.tied else embed)
                row |= bench.shares(step, read, 2 * batch * weights_of(cfg))
                row |= {"tokens_per_s": batch / step, "prefill_s": times[0]}


def _decode_seconds(base: PyTree, prompts: Any, mask: Any, cfg: ModelConfig, tokens: int, quick: bool) -> float:
    sampling = SamplingConfig(max_new_tokens=tokens)
    ends: Any = {"group": 1, "eos_ids": (cfg.vocab_size,), "pad_id": 0}  # no token ends it
    run = jax.jit(functools.partial(generate, cfg=cfg, sampling=sampling, **ends))
    call = functools.partial(run, base, None, prompts, mask, jax.random.key(0))
    return best_seconds(call, 1, 1 if quick else 2)


def jobs(bench: Bench) -> list[tuple[str, str, Job]]:
    """Updates to time, the most telling first: model, step, job."""

    def job(name: str, rank: int, **settings: Any) -> Job:
        cfg = shape_of(name, bench)
        if bench.rehearse:
            settings |= {"tokens": 16, "batch": 1}
        return Job(cfg, adapter=LoraConfig(rank=rank, dtype="bfloat16"), optim=RATE, **settings)

    sft = functools.partial(job, "7B", 64)
    found = [("7B", "sft", sft(batch=4, remat="full")), ("7B", "grpo", job("7B", 64, batch=2, group=8, tokens=512))]
    found += [("7B", "sft", sft(batch=4, remat=remat)) for remat in ("offload", "projections")]
    found += [("7B", "sft", sft(batch=batch)) for batch in (1, 16)]
    small = functools.partial(job, "smollm2", 16)
    found += [("smollm2", "sft", small(batch=batch, remat=remat)) for batch in (8, 32) for remat in ("full", "none")]
    found += [("7B", "sft", sft(batch=4, remat=remat)) for remat in ("dots", "none")]  # may not fit
    return found


def update(bench: Bench) -> None:
    """Tokens per second of updates; ``mfu`` counts the products that an update needs and none computed again."""
    bases: dict[str, PyTree] = {}
    for name, step, job in bench.within_time(jobs(bench), rehearsed=2):
        facts = {"model": name, "step": step, "batch": job.batch, "group": job.group, "remat": job.remat}
        with bench.case(**facts, length=job.tokens) as row:
            program = STEPS[step](job)
            if name not in bases:
                bases = {name: random_like(program.base)}
            row |= _timed(program, job, step, bases[name])
            # Frozen weights need two products a token, forward and towards the input; their gradient is not taken.
            row |= bench.shares(row["seconds"], 0.0, 4 * row["tokens"] * weights_of(job.cfg))
            row["mfu"] = row.pop("flops_share", None)
            row["tokens_per_s"] = row["tokens"] / row["seconds"]


def _timed(program: Program, job: Job, step: str, base: PyTree, repeats: int = 3) -> Row:
    compiled, compile_s = compile_ahead(program)
    batch = random_batch(job) if step == "sft" else _batch_like(program.arguments[2], job.cfg)
    held = [init_state(random_like(program.adapters, 50), make_optimizer(job.optim))]

    def call() -> PyTree:
        held[0], metrics = compiled(held[0], base, batch, None)
        return held[0], metrics

    seconds = statistics.median(waited_seconds(call, repeats))
    memory = memory_of(compiled)
    half = job.tokens // 2
    tokens = job.batch * job.tokens if step == "sft" else job.batch * (half + job.group * (job.tokens - half))
    sizes = {"device_bytes": memory.device, "host_bytes": memory.host_arguments, "host_temps": memory.host_temporaries}
    return {"seconds": seconds, "tokens": tokens, "compile_s": compile_s, **sizes}


def _batch_like(batch: PyTree, cfg: ModelConfig) -> PyTree:
    """Random tokens, all of them real, and small numbers."""
    rng = np.random.default_rng(2)

    def fill(x: Any) -> Any:
        if x.dtype == jnp.bool_:
            return jnp.ones(x.shape, bool)
        if x.dtype == jnp.int32:
            return jnp.asarray(rng.integers(0, cfg.vocab_size, x.shape, np.int32))
        return jnp.asarray(rng.standard_normal(x.shape, np.float32) - 4, x.dtype)

    return commit(jax.tree.map(fill, batch))


def paging(bench: Bench) -> None:
    """Step time and bytes against what of the moments is kept on the host, 7B at rank 64, one row of 512."""
    cfg = shape_of("7B", bench)
    first = Job(cfg, adapter=LORA, optim=RATE, tokens=16 if bench.rehearse else 512)
    cases = [("none", 1.0), ("leaf", 1.0), ("slice", 1.0), ("whole", 1.0), ("leaf", 0.5), ("slice", 0.5)]
    base = None
    for mode, share in bench.within_time(cases, rehearsed=2):
        with bench.case(mode=mode, share=share if mode != "none" else 0.0) as row:
            optim = dataclasses.replace(first.optim, paging=mode, offload=share)
            job = dataclasses.replace(first, optim=optim)
            program = STEPS["sft"](job)
            base = random_like(program.base) if base is None else base
            row |= _timed(program, job, "sft", base, repeats=5)


def peak(name: str, bench: Bench) -> None:
    """Peak bytes of a QLoRA step of that size, as the allocator counts them; needs a process of its own."""
    with bench.case(model=name) as row:
        job = _planned(name, bench)
        program = STEPS["sft"](job)
        base = random_like(program.base)
        row["base_bytes"] = tree_bytes(base)
        row |= _timed(program, job, "sft", base, repeats=1)
        stats = jax.devices()[0].memory_stats() or {}
        row |= {"peak_bytes": stats.get("peak_bytes_in_use"), "limit_bytes": stats.get("bytes_limit")}


def _planned(name: str, bench: Bench) -> Job:
    optim = dataclasses.replace(RATE, paging="leaf")
    return Job(shape_of(name, bench), adapter=LORA, optim=optim, tokens=16 if bench.rehearse else 512)


def plan(bench: Bench) -> None:
    """What ``python -m benchmarks.memory`` says of the same steps, compiled for the CPU from shapes alone."""
    for name in bench.within_time(list(SHAPES)):
        with bench.case(model=name) as row:
            row["planned_bytes"] = measure(_planned(name, bench)).device
