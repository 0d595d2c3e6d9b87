"""A file of prompts in, the best completions that a beam finds out: batches of prompts, each as deep as its longest."""

import contextlib
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments.generate.prompts import Prompt, finished, read_prompts, write_line
from experiments.generate.session import load_policy
from experiments.generate.settings import GenerateSettings
from lqlm.errors import UserError
from lqlm.generation.beam import BeamCompletions, beam_search
from lqlm.generation.rollout import pad_prompts
from lqlm.io.disk import clear_when_full
from lqlm.io.load import LoadedModel

Search = Callable[[np.ndarray, np.ndarray], BeamCompletions]


def search_file(settings: GenerateSettings) -> int:
    """Complete what the output does not hold yet; returns how many prompts that were.  Killed, it goes on."""
    model, policy = load_policy(settings, settings.engine.slots * settings.beam.beams)
    eos_ids, pad_id = model.tokenizer.eos_ids, model.tokenizer.pad_id
    run = jax.jit(functools.partial(beam_search, cfg=model.config, beam=settings.beam, eos_ids=eos_ids, pad_id=pad_id))
    done, count = finished(settings.output), 0
    pathlib.Path(settings.output).absolute().parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(clear_when_full(settings.output))
        file = stack.enter_context(open(settings.output, "a", encoding="utf-8"))
        bar = stack.enter_context(tqdm(unit="prompt", initial=len(done), disable=None))
        for part in _batches(settings, model, done):
            for prompt, completions in zip(part, _searched(part, functools.partial(run, *policy), model, settings)):
                write_line(file, prompt.fields, prompt.request.id, completions)
                count += 1
                bar.update()
    return count


def _batches(settings: GenerateSettings, model: LoadedModel, done: set[str]) -> Iterator[list[Prompt]]:
    """Prompts that are not done, as many at once as the engine has slots."""
    prompts = read_prompts(settings.input, model, settings.system, settings.beam.max_new_tokens)
    left = (prompt for prompt in prompts if prompt.request.id not in done)
    while part := list(itertools.islice(left, settings.engine.slots)):
        for prompt in part:
            if prompt.request.max_new_tokens:
                raise UserError(
                    f"{settings.input}: {prompt.request.id!r} has its own max_new_tokens, which a beam cannot keep; "
                    "leave it out, and set beam.max_new_tokens"
                )
        yield part


def _searched(
    part: Sequence[Prompt], run: Search, model: LoadedModel, settings: GenerateSettings
) -> Iterator[list[dict[str, Any]]]:
    """The completions of each prompt, best first; batches are of one size, and of few lengths."""
    rows = [list(prompt.request.tokens) for prompt in part]
    longest, buckets = max(map(len, rows)), sorted(settings.engine.prompt_buckets)
    length = next((bucket for bucket in buckets if longest <= bucket), longest)
    full = [*rows, *[rows[0]] * (settings.engine.slots - len(rows))]
    found = jax.device_get(run(*pad_prompts(full, length, model.tokenizer.pad_id)))
    for row in range(len(part)):
        yield [_completion(found, (row, rank), model, settings.logprobs) for rank in range(settings.beam.n_best)]


def _completion(found: BeamCompletions, at: tuple[int, int], model: LoadedModel, logprobs: bool) -> dict[str, Any]:
    done = found.completions
    real = np.asarray(done.mask_BGC[at])
    tokens = done.tokens_BGC[at][real].tolist()
    finish = "eos" if tokens and tokens[-1] in model.tokenizer.eos_ids else "length"
    more = {"token_ids": tokens, "logprobs": [round(p, 6) for p in done.logp_BGC[at][real].tolist()]}
    score = float(found.scores_BG[at])
    told = {"text": model.tokenizer.decode(tokens), "finish": finish, "tokens": len(tokens), "score": round(score, 6)}
    return told | (more if logprobs else {})
