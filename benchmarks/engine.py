"""The engine on this machine: python -m benchmarks.engine [--prompts 64] [--new 96] [--group 1] [--slots 8]

SmolLM2-135M-Instruct, dense, float32.  Two tables:

cache  what each format of keys and values does to the log-probabilities of sampled tokens, against the trainer's, and
       its bytes for each token.
speed  prompts whose answers differ widely in length, through the engine with continuous batching, through ``generate``
       in batches of as many prompts as it has slots, and all at once; the three take turns, and a row has the minimum
       and the median of the repeats.
"""

import argparse
import functools
import json
import os
import pathlib
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.memory import print_table
from lqlm.generation.decode import generate
from lqlm.generation.engine import Engine
from lqlm.generation.requests import Request
from lqlm.generation.rollout import pad_prompts
from lqlm.generation.sampling import SamplingConfig
from lqlm.generation.slots import EngineConfig
from lqlm.io.load import DEFAULT_MODEL, LoadedModel, load_model
from lqlm.models.kv_cache import CacheFormat, bytes_per_token
from lqlm.models.score import completion_logprobs

FORMATS: tuple[CacheFormat, ...] = ("model", "bfloat16", "fp8", "int8")
ASKED = ("Write a story about a fox.", "Explain how rain forms.", "List ten animals and say one thing about each.")
ROOM, CHUNK = 64, 16


def prompts(model: LoadedModel, count: int) -> list[list[int]]:
    """Two of three ask for a number, the others for something longer; the same at every call."""
    rng = random.Random(0)
    sums = (f"What is {rng.randint(1, 9)} + {rng.randint(1, 9)}? Answer with the number only." for _ in range(count))
    texts = [text if i % 3 else ASKED[i // 3 % len(ASKED)] for i, text in enumerate(sums)]
    return [model.tokenizer.chat([{"role": "user", "content": text}]) for text in texts]


def ends(model: LoadedModel) -> dict[str, Any]:
    """What ends a completion."""
    return {"eos_ids": model.tokenizer.eos_ids, "pad_id": model.tokenizer.pad_id}


def cache_errors(model: LoadedModel, new: int = 48, group: int = 4) -> list[list[str]]:
    """A row for each format: the largest and the mean error of a log-probability, and bytes per token."""
    tokens, mask = (jnp.asarray(x) for x in pad_prompts(prompts(model, 4), ROOM, model.tokenizer.pad_id))
    score = jax.jit(functools.partial(completion_logprobs, cfg=model.config))
    sampling, table = SamplingConfig(max_new_tokens=new), []
    for cache in FORMATS:
        run = functools.partial(generate, cfg=model.config, sampling=sampling, group=group, cache=cache, **ends(model))
        done = jax.jit(run)(model.base, None, tokens, mask, jax.random.key(0))
        logp, _ = score(model.base, None, tokens, mask, done.tokens_BGC, done.mask_BGC)
        error = np.abs(np.asarray(done.logp_BGC - logp))[np.asarray(done.mask_BGC)]
        size = bytes_per_token(model.config, cache, "float32")
        table.append([cache, str(len(error)), f"{error.max():.1e}", f"{error.mean():.1e}", f"{size:,}"])
    return table


def in_batches(
    model: LoadedModel, rows: Sequence[list[int]], sampling: SamplingConfig, size: int, group: int
) -> Callable[[jax.Array], int]:
    """``generate`` in batches of so many prompts; gives the number of tokens."""
    run = jax.jit(functools.partial(generate, cfg=model.config, sampling=sampling, group=group, **ends(model)))

    def all_of(key: jax.Array) -> int:
        count = 0
        for start in range(0, len(rows), size):
            tokens, mask = pad_prompts(rows[start : start + size], ROOM, model.tokenizer.pad_id)
            count += int(run(model.base, None, tokens, mask, jax.random.fold_in(key, start)).mask_BGC.sum())
        return count

    return all_of


def in_slots(
    model: LoadedModel, rows: Sequence[list[int]], sampling: SamplingConfig, slots: int, group: int
) -> Callable[[jax.Array], int]:
    """The engine; gives the number of tokens."""
    sizes = EngineConfig(slots=slots, group=group, prompt_buckets=(ROOM,), chunk=CHUNK)
    engine = Engine(model.base, None, model.config, sampling, sizes, **ends(model))
    requests = [Request(str(i), tuple(row)) for i, row in enumerate(rows)]
    return lambda key: sum(len(event.tokens) for event in engine.run(requests, key))


def speeds(model: LoadedModel, options: argparse.Namespace) -> list[list[str]]:
    """A row for each side, greedy and sampled: tokens, seconds, tokens per second."""
    rows, table, slots, group = prompts(model, options.prompts), [], options.slots, options.group
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        sampling = SamplingConfig(max_new_tokens=options.new, temperature=temperature)
        sides = {
            "generate": in_batches(model, rows, sampling, slots, group),
            "at once": in_batches(model, rows, sampling, len(rows), group),
            "engine": in_slots(model, rows, sampling, slots, group),
        }
        for side, laps in _laps(sides, options.repeats).items():
            rates = [tokens / seconds for seconds, tokens in laps]
            seconds = f"{min(laps)[0]:.1f} / {np.median([lap[0] for lap in laps]):.1f}"
            table.append([name, side, str(laps[0][1]), seconds, f"{max(rates):.0f} / {np.median(rates):.0f}"])
    return table


def _laps(sides: dict[str, Callable[[jax.Array], int]], repeats: int) -> dict[str, list[tuple[float, int]]]:
    """Seconds and tokens of each side's runs, which take turns; the first compiles and is not counted."""
    found: dict[str, list[tuple[float, int]]] = {side: [] for side in sides}
    for repeat in range(repeats + 1):
        for side, run in sides.items():
            start = time.perf_counter()
            tokens = run(jax.random.key(repeat))
            found[side] += [(time.perf_counter() - start, tokens)] if repeat else []
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Print both tables, and write the JSON."""
    parser = argparse.ArgumentParser("benchmarks.engine", description=__doc__)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--new", type=int, default=96, help="tokens of an answer, at most")
    parser.add_argument("--group", type=int, default=1, help="answers of a prompt")
    parser.add_argument("--slots", type=int, default=8, help="prompts under way at once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args(argv)
    model = load_model(DEFAULT_MODEL, None, "float32")
    cache = cache_errors(model)
    print_table(["cache", "tokens", "largest error", "mean", "bytes per token"], cache)
    speed = speeds(model, options)
    print_table(["", "side", "tokens", "seconds, min / median", "tokens per second, max / median"], speed)
    if options.json:
        options.json.write_text(json.dumps({"cache": cache, "speed": speed}, indent=2) + "\n")


if __name__ == "__main__":
    main()
