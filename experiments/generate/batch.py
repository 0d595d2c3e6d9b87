"""A file of prompts in, a file of completions out: each prompt's as soon as all of them have ended."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from experiments.generate.prompts import Prompt, finished, read_prompts, write_line
from experiments.generate.session import Session
from experiments.generate.settings import GenerateSettings
from lqlm.generation.requests import Event, Request
from lqlm.io.disk import clear_when_full

Completion = dict[str, Any]


def complete(session: Session, settings: GenerateSettings) -> int:
    """Complete what the output does not hold yet; returns how many prompts that were.

    Prompts are read as places fall free, so that a file may be larger than memory.  Killed, the same command goes on:
    lines that are written stay, and the others come out as they would have.
    """
    done, count = finished(settings.output), 0
    under_way: dict[str, tuple[Prompt, list[Completion]]] = {}

    def requests() -> Iterator[Request]:
        for prompt in read_prompts(settings.input, session.model, settings.system, settings.sampling.max_new_tokens):
            if prompt.request.id not in done:
                under_way[prompt.request.id] = (prompt, [_empty() for _ in range(settings.engine.group)])
                yield prompt.request

    pathlib.Path(settings.output).absolute().parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(clear_when_full(settings.output))
        file = stack.enter_context(open(settings.output, "a", encoding="utf-8"))
        bar = stack.enter_context(tqdm(unit="prompt", initial=len(done), disable=None))
        for event in session.events(requests()):
            prompt, completions = under_way[event.id]
            _add(completions[event.sample], event, settings.logprobs)
            if all(completion["finish"] for completion in completions):
                write_line(file, prompt.fields, event.id, completions)
                del under_way[event.id]
                count += 1
                bar.update()
    return count


def _empty() -> Completion:
    return {"text": "", "finish": "", "tokens": 0}


def _add(completion: Completion, event: Event, logprobs: bool) -> None:
    completion["text"] += event.text
    completion["finish"] = event.finish
    completion["tokens"] += len(event.tokens)
    if logprobs:
        completion.setdefault("token_ids", []).extend(event.tokens)
        completion.setdefault("logprobs", []).extend(round(p, 6) for p in event.logp)
