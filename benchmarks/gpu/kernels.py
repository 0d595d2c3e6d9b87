"""Sections on single matrices: limits of the card, the fused product beside the other ways, tiles, quantization."""

import functools
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu.bench import Bench, Row, best_seconds, random_like
from lqlm.optim.placement import to_device, to_host
from lqlm.quant import QTensor, QuantConfig, dequantize, quantize
from lqlm.quant.kernels import Tiles, fused_matmul, fused_transposed, tiles_for
from lqlm.trees import tree_bytes
from lqlm.types import Array

SHAPES = ((4096, 11008), (11008, 4096), (4096, 4096), (8192, 22016))
"""Linear maps of 7B and of 65B, [in, out]."""
ROWS = (1, 8, 64, 512, 4096)
CONFIG = QuantConfig()
CACHE = 64 * 2**20
"""Weights that are cycled through, so that none is found in a cache of that size."""


def facts(bench: Bench) -> None:
    """The card, and what it reaches: bytes of a copy, bf16 products, transfers to the host and back."""
    device = jax.devices()[0]
    bench.add(
        device=device.device_kind,
        platform=device.platform,
        compute_capability=getattr(device, "compute_capability", None),
        jax=jax.__version__,
        memory=(device.memory_stats() or {}).get("bytes_limit"),
    )
    size = 2**8 if bench.rehearse else 2**14
    with bench.case(what="copy") as row:
        x = jnp.ones((size, size), jnp.float32)
        row["bytes_per_s"] = 2 * x.nbytes / best_seconds(functools.partial(jax.jit(lambda x: x + 1), x))
    with bench.case(what="bf16 product") as row:
        a = jnp.ones((size // 2, size // 2), jnp.bfloat16)
        row["flops_per_s"] = 2 * (size // 2) ** 3 / best_seconds(functools.partial(jax.jit(lambda a: a @ a), a))
    for what, move in (("to the host", to_host), ("from the host", to_device)):
        with bench.case(what=what) as row:
            x = jnp.ones((size, size // 4), jnp.float32)
            x = to_host(x) if move is to_device else x
            row["transfer_bytes_per_s"] = x.nbytes / best_seconds(functools.partial(jax.jit(move), x), 4)


def _copies(shape: tuple[int, int]) -> int:
    return max(1, min(8, round(4 * CACHE / (shape[0] * shape[1]))))


def weights(shape: tuple[int, int], copies: int, config: QuantConfig = CONFIG) -> list[QTensor]:
    """Random quantized matrices that dequantize into bfloat16."""
    like = jax.eval_shape(lambda w: quantize(w, config), jax.ShapeDtypeStruct(shape, jnp.bfloat16))
    return [random_like(like, seed=100 * i) for i in range(copies)]


def unrolled(product: Callable[[Array, Any], Array]) -> Callable[[Array, list], list]:
    """One program that meets every weight once."""
    return jax.jit(lambda x, held: [product(x, w) for w in held])


def scanned(product: Callable[[Array, Any], Array]) -> Callable[[Array, Any], Array]:
    """The same as a scan over the stack, as the models run: what slicing the stack adds."""
    return jax.jit(lambda x, stack: jax.lax.scan(lambda x, w: (x, product(x, w)), x, stack)[1])


def dequantized(x: Array, w: QTensor) -> Array:
    """Dequantize, then multiply: bytes are written and read again."""
    return plain(x, dequantize(w, x.dtype))


def plain(x: Array, w: Array) -> Array:
    """The library's product with a dense weight."""
    return jax.lax.dot(x, w, preferred_element_type=jnp.float32).astype(x.dtype)


def fused(bench: Bench) -> Callable[..., Array]:
    """The kernel, interpreted where there is no GPU."""
    return functools.partial(fused_matmul, interpret=bench.rehearse)


def kernels(bench: Bench) -> None:
    """Each way at each shape and number of rows: seconds, and shares of bandwidth and peak."""
    shapes, rows = (((128, 64),), (1, 3)) if bench.rehearse else (SHAPES, ROWS)
    cases = [(shape, m) for m in rows for shape in shapes]
    for shape, m in bench.within_time(cases):
        held = weights(shape, 2 if bench.rehearse else _copies(shape))
        dense = [dequantize(w, jnp.bfloat16) for w in held]
        x = jnp.ones((m, shape[0]), jnp.bfloat16)
        ways: dict[str, tuple[Callable, list]] = {"bf16": (plain, dense), "dequantize": (dequantized, held)}
        if m <= 512:
            ways["fused"] = (fused(bench), held)
        for way, (product, given) in ways.items():
            with bench.case(way=way, shape=shape, rows=m) as row:
                seconds = best_seconds(functools.partial(unrolled(product), x, given)) / len(given)
                moved = tree_bytes(given[0]) + 2 * m * sum(shape)
                row |= bench.shares(seconds, moved, 2 * m * shape[0] * shape[1])


def scans(bench: Bench) -> None:
    """The same inside a scan over stacked weights, and the transposed product."""
    shapes, rows = (((128, 64),), (1,)) if bench.rehearse else (((4096, 11008), (4096, 4096)), (1, 8, 64))
    for shape, m in bench.within_time([(shape, m) for shape in shapes for m in rows]):
        stack = jax.tree.map(lambda *parts: jnp.stack(parts), *weights(shape, 8))
        x, dy = jnp.ones((m, shape[0]), jnp.bfloat16), jnp.ones((m, shape[1]), jnp.bfloat16)
        back = functools.partial(fused_transposed, interpret=bench.rehearse)
        for way, product, given in (
            ("fused", fused(bench), x),
            ("dequantize", dequantized, x),
            ("fused, transposed", back, dy),
        ):
            with bench.case(way=way, shape=shape, rows=m) as row:
                seconds = best_seconds(functools.partial(scanned(product), given, stack)) / 8
                row |= bench.shares(seconds, tree_bytes(stack) / 8 + 2 * m * sum(shape), 2 * m * shape[0] * shape[1])


def candidates(rows: int) -> list[Tiles]:
    """Tiles to try: the default first, then one change at a time."""
    first = tiles_for(rows)
    changes: list[Row] = [{}, {"outs": 32}, {"outs": 128}, {"warps": 2}, {"warps": 8}, {"programs": 256}]
    changes += [{"programs": 1024}, {"depth": 32}, {"stages": 3}]
    if rows < 16:
        changes.append({"rows": 16, "depth": 64})  # by tensor cores, if they are not used
    found = [Tiles(**{**vars(first), **change}) for change in changes]
    return list(dict.fromkeys(found))


def tiles(bench: Bench) -> None:
    """Other tiles than those that are built in."""
    shape, rows = ((128, 64), (1,)) if bench.rehearse else ((4096, 11008), (1, 8, 64))
    held = weights(shape, 2 if bench.rehearse else 4)
    for m, chosen in bench.within_time([(size, chosen) for size in rows for chosen in candidates(size)]):
        x = jnp.ones((m, shape[0]), jnp.bfloat16)
        with bench.case(rows=m, tiles=vars(chosen), built_in=chosen == tiles_for(m)) as row:
            call = functools.partial(unrolled(functools.partial(fused(bench), tiles=chosen)), x, held)
            row |= bench.shares(best_seconds(call) / len(held), tree_bytes(held[0]) + 2 * m * sum(shape))


def quantization(bench: Bench) -> None:
    """Bytes per second of quantizing and dequantizing one matrix: what is read and written, each once."""
    shape = (128, 64) if bench.rehearse else (8192, 22016)
    for double in (False, True):
        config = QuantConfig(double=double)
        for name in ("float32", "bfloat16"):
            dtype = jnp.dtype(name)
            q, moved = weights(shape, 1, config)[0], shape[0] * shape[1] * dtype.itemsize
            with bench.case(what="quantize", double=double, dtype=name) as row:
                w = dequantize(q, dtype)
                row |= bench.shares(best_seconds(functools.partial(quantize, w, config), 4), moved + tree_bytes(q))
            with bench.case(what="dequantize", double=double, dtype=name) as row:
                row |= bench.shares(best_seconds(functools.partial(dequantize, q, dtype), 4), moved + tree_bytes(q))


def bitsandbytes(bench: Bench) -> None:
    """The peer at the same shapes, where it is installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import bitsandbytes as peer
            import torch
    except ImportError as error:
        bench.add(skipped=f"{error.name} is not installed")
        return
    if not torch.cuda.is_available() and not bench.rehearse:
        bench.add(skipped="torch sees no GPU")
        return
    place = "cpu" if bench.rehearse else "cuda"
    shapes, rows = (((128, 64),), (1,)) if bench.rehearse else (SHAPES, ROWS)
    for shape, m in bench.within_time([(shape, m) for m in rows for shape in shapes]):
        with bench.case(way="bitsandbytes", version=peer.__version__, shape=shape, rows=m) as row, torch.no_grad():
            copies, dense = _copies(shape), torch.randn(shape[::-1], device=place)
            quantized = [
                peer.functional.quantize_4bit(dense.bfloat16(), quant_type="nf4", compress_statistics=True)
                for _ in range(copies)
            ]
            x = torch.ones((m, shape[0]), device=place, dtype=torch.bfloat16)
            seconds = _torch_seconds(torch, functools.partial(_peer_products, peer, x, quantized))
            bits = weights(shape, 1)[0]
            row |= bench.shares(seconds / copies, tree_bytes(bits) + 2 * m * sum(shape), 2 * m * shape[0] * shape[1])


def _peer_products(peer: Any, x: Any, quantized: list) -> list:
    return [peer.matmul_4bit(x, codes.t(), state) for codes, state in quantized]


def _torch_seconds(torch: Any, call: Callable[[], Any], calls: int = 20) -> float:
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    best = float("inf")
    for _ in range(4):  # the first round warms up
        start = time.perf_counter()
        for _ in range(calls):
            call()
        wait()
        best = min(best, (time.perf_counter() - start) / calls)
    return best
