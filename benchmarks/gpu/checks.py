"""Section ``checks``: what must be right on this card before any of its figures means anything."""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.bench import Bench, random_like
from benchmarks.gpu.kernels import fused
from benchmarks.paging import random_batch
from experiments.plan.shapes import abstract_base, llama
from experiments.plan.steps import Job, sft
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.step import init_state
from lqlm.generation.decode import generate
from lqlm.generation.sampling import SamplingConfig
from lqlm.models.score import completion_logprobs
from lqlm.optim.chains import OptimConfig, make_optimizer
from lqlm.quant import QuantConfig, dequantize, matmul, quantize
from lqlm.quant.kernels import fused_transposed
from lqlm.types import PyTree

SMALL = llama(2, 256, 512, 4, vocab_size=512)
TINY = llama(2, 64, 64, 2, vocab_size=64)
LORA, RATE = LoraConfig(rank=64, dtype="bfloat16"), OptimConfig(learning_rate=2e-4, paging="none")
WAYS = ("as chosen", "dequantized")
ROUNDING = {"float32": 4e-6, "bfloat16": 2**-8, "float16": 2**-10}


def checks(bench: Bench) -> None:
    """Kernels, codes, paging, and the sampler against the trainer; every row says ``ok``."""
    with jax.default_matmul_precision("highest"):
        kernel_products(bench)
        kernel_weights(bench)
        codes(bench)
        sampler(bench)
    paging(bench)


def formats() -> Iterator[tuple[int, tuple[int, int], QuantConfig, str]]:
    """Rows, [in, out], format and dtype: every regime, odd sizes, every codebook."""
    yield 1, (4096, 11008), QuantConfig(), "bfloat16"
    yield 3, (576, 1536), QuantConfig("fp4", 64, False), "bfloat16"
    yield 8, (4096, 4096), QuantConfig(), "float16"
    yield 5, (384, 70), QuantConfig("int4", 128), "float32"
    yield 16, (11008, 4096), QuantConfig(double_block=100), "bfloat16"
    yield 33, (960, 200), QuantConfig("nf4", 96), "bfloat16"
    yield 64, (4096, 11008), QuantConfig("fp4", 128), "bfloat16"
    yield 200, (1024, 1024), QuantConfig("int4", 32, False), "float32"


def kernel_products(bench: Bench) -> None:
    """``worst``: error of the worst element, 1 being what rounding explains; the host makes the exact product."""
    cases = [(1, (64, 24), QuantConfig(), "float32")] if bench.rehearse else formats()
    for rows, shape, config, dtype in bench.within_time(cases):
        q = quantize(jax.random.normal(jax.random.key(0), shape), config)
        w = np.asarray(dequantize(q, jnp.dtype(dtype)), np.float32)
        for name, f, given, dense in (
            ("forward", fused(bench), shape[0], w),
            ("transposed", functools.partial(fused_transposed, interpret=bench.rehearse), shape[1], w.T),
        ):
            with bench.case(what=f"kernel, {name}", rows=rows, shape=shape, dtype=dtype, format=str(config)) as row:
                x = jax.random.normal(jax.random.key(1), (rows, given)).astype(dtype)
                got = np.asarray(jax.jit(f)(x, q), np.float64)
                x64 = np.asarray(x, np.float64)
                want, size = x64 @ dense.astype(np.float64), np.abs(x64) @ np.abs(dense.astype(np.float64))
                row["worst"] = float((np.abs(got - want) / (ROUNDING[dtype] * np.abs(want) + 4e-6 * size)).max())
                row["ok"] = row["worst"] <= 1


def kernel_weights(bench: Bench) -> None:
    """A product with the unit matrix gives the weights: equal to those of ``dequantize`` in every bit."""
    size = 64 if bench.rehearse else 256
    for config in bench.within_time([QuantConfig(), QuantConfig("fp4", 32, False)]):
        with bench.case(what="kernel's weights, bit for bit", format=str(config)) as row:
            q = quantize(jax.random.normal(jax.random.key(0), (size, size)), config)
            got = jax.jit(fused(bench))(jnp.eye(size, dtype=jnp.bfloat16), q)
            row["ok"] = bool(jnp.array_equal(got, dequantize(q, jnp.bfloat16)))


def codes(bench: Bench) -> None:
    """Quantized here and on the host's CPU: equal in every bit."""
    for config in bench.within_time([QuantConfig(), QuantConfig("fp4"), QuantConfig("nf3", 96)]):
        with bench.case(what="quantize, as on the CPU", format=str(config)) as row:
            w = jax.random.normal(jax.random.key(0), (384, 128))
            on_cpu = quantize(jax.device_put(w, jax.devices("cpu")[0]), config)
            row["ok"] = _equal(quantize(w, config), on_cpu) and _equal(
                dequantize(quantize(w, config)), dequantize(on_cpu)
            )


def _equal(a: PyTree, b: PyTree) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pairs)


def sampler(bench: Bench) -> None:
    """Log-probabilities of what was sampled, against those that the trainer gives, fused decode and not."""
    cfg = TINY if bench.rehearse else SMALL
    base = random_like(abstract_base(cfg, QuantConfig(), "float32"))
    prompts, mask = jnp.arange(12, dtype=jnp.int32).reshape(2, 6), jnp.ones((2, 6), bool)
    sampling = SamplingConfig(max_new_tokens=3 if bench.rehearse else 32)
    for way in WAYS:
        with bench.case(what=f"sampler equals trainer, {way}") as row, products(way):
            ends: Any = {"group": 3, "eos_ids": (cfg.vocab_size,), "pad_id": 0}  # no token ends it
            run = functools.partial(generate, cfg=cfg, sampling=sampling, **ends)
            out = jax.jit(run)(base, None, prompts, mask, jax.random.key(0))
            score = jax.jit(functools.partial(completion_logprobs, cfg=cfg))
            logp, _ = score(base, None, prompts, mask, out.tokens_BGC, out.mask_BGC)
            row["difference"] = float(jnp.abs(jnp.where(out.mask_BGC, logp - out.logp_BGC, 0)).max())
            row["ok"] = row["difference"] <= 1e-3


@contextlib.contextmanager
def products(way: str) -> Iterator[None]:
    """Within it programs are traced with the kernels as chosen, or without any."""
    module = sys.modules[matmul.__module__]  # the package's attribute of that name is the function
    choice = module._kernels_here if way == "as chosen" else lambda: False
    with mock.patch.object(module, "_kernels_here", choice):
        jax.clear_caches()
        yield
    jax.clear_caches()


def paging(bench: Bench) -> None:
    """Two steps with moments on the host give the adapters of two steps without."""
    job = Job(TINY if bench.rehearse else SMALL, adapter=LORA, tokens=16 if bench.rehearse else 256)
    want = _adapters_after(job, RATE)
    for mode in bench.within_time(["leaf", "slice", "whole"]):
        with bench.case(what=f"paged by {mode} equals unpaged") as row:
            got = _adapters_after(job, dataclasses.replace(RATE, paging=mode))
            row["bits"] = _equal(got, want)
            pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
            far = [float(jnp.abs(x.astype(jnp.float32) - y.astype(jnp.float32)).max()) for x, y in pairs]
            row["difference"] = max(far)
            row["ok"] = row["bits"] or max(far) <= 2**-12  # a last bit of bfloat16 at 0.04


def _adapters_after(job: Job, optim: OptimConfig, steps: int = 2) -> PyTree:
    job = dataclasses.replace(job, optim=optim)
    program = sft(job)
    base, batch = random_like(program.base), random_batch(job)
    state = init_state(random_like(program.adapters, 50), make_optimizer(job.optim))
    for _ in range(steps):
        state, _ = program.function(state, base, batch, None)
    return state.adapters
