"""Rewards for the tests of runs: one that a random model can learn, and several that misbehave."""

import contextlib
import os
import time
from collections.abc import Sequence

calls = 0


def digits(completion: str) -> float:
    """Share of digits among six characters: a random model begins at about a tenth."""
    return sum(c.isdigit() for c in completion) / 6


def raises(completion: str) -> float:
    raise ValueError("no reward today")


def raises_on_some(completion: str, n_tokens: int) -> float:
    if any(c.isdigit() for c in completion):
        raise ValueError("digits are not allowed")
    return n_tokens / 6


def hangs(completion: str) -> float:
    time.sleep(60)
    return 0.0


def infinite(completion: str) -> float:
    return float("inf")


def fills(completion: str) -> float:
    """In the call that LQLM_TEST_FILL names, once for a disk: leave no room on it."""
    global calls
    calls += 1
    call, _, disk = os.environ["LQLM_TEST_FILL"].partition(":")
    if calls == int(call) and not os.path.exists(f"{disk}/filled"):
        open(f"{disk}/filled", "w").close()
        with open(f"{disk}/filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1024))
    return digits(completion)


def digit_steps(steps: Sequence[str]) -> list[float]:
    """1 for each step that begins with a digit."""
    return [float(step[0].isdigit()) for step in steps]


def digit_steps_of_some(steps: Sequence[str]) -> list[float]:
    if steps[0][0].islower():
        raise ValueError("lower case")
    return digit_steps(steps)


def waits_or_calls(completion: str, n_tokens: int) -> float:
    """A completion "wait PATH" waits for the file that "call PATH" makes: only beside each other both are good."""
    what, path = completion.split()
    if what == "call":
        open(path, "w").close()
        return 1.0
    while not os.path.exists(path):
        time.sleep(0.01)
    return 1.0


def misbehaves(completion: str) -> float:
    """By the first word of the completion."""
    if completion == "dies":
        os._exit(3)
    if completion == "stuck":
        sum(range(10**12))  # one call into C, which no signal interrupts
    if completion == "slow":
        time.sleep(60)
    print("printed", completion)
    return float(len(completion))


def on_the_cpu(completion: str) -> float:
    """Whether jax would find no accelerator in this process."""
    return float(os.environ.get("JAX_PLATFORMS") == "cpu")


def knows(completion, words):
    """A thousandth for each of the words, if the completion is one."""
    return len(words) / 1000 if completion in words else 0.0


def fails_on(prompt, which):
    """An error for one prompt."""
    if prompt == which:
        raise ValueError("not this one")
    return 1.0
