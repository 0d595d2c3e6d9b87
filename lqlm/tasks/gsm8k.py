"""GSM8K grade-school problems (Cobbe et al. 2021, arXiv:2110.14168), from local files or the `datasets` library.

A record holds "question" and "answer"; the answer is a worked solution whose last line is "#### N".
"""

import dataclasses
import gzip
import json
import pathlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

from lqlm.errors import UserError
from lqlm.tasks.base import AnswerFormat, Item, Task, only_number

SYSTEM = "Solve the problem step by step. End with a line of the form: #### N, where N is the answer as a number."


@dataclasses.dataclass(frozen=True)
class Gsm8kConfig:
    """Where the problems come from, and how many of them are used.

    Attributes:
        train_path, test_path: .jsonl or .jsonl.gz files; None for both: the dataset.
        dataset, subset: name on the hub and its configuration, read with `datasets`.
        train, heldout: use at most so many, from the start of each split; None: all.
        system: system prompt, which asks for the strict format "#### N".
    """

    train_path: str | None = None
    test_path: str | None = None
    dataset: str = "openai/gsm8k"
    subset: str = "main"
    train: int | None = None
    heldout: int | None = None
    system: str | None = SYSTEM

    def __post_init__(self) -> None:
        if (self.train_path is None) != (self.test_path is None):
            raise UserError("gsm8k task: only one of train_path and test_path is given; give both, or none of them")
        if any(n is not None and n < 1 for n in (self.train, self.heldout)):
            raise UserError(f"gsm8k task: train={self.train}, heldout={self.heldout}; give 1 or more, or None for all")


def reference_answer(solution: str) -> str | None:
    """The number after the last "####" of a worked solution, without commas; None when there is none.

    >>> reference_answer("He pays 2 * 540 = 1080.\\n#### 1,080")
    '1080'
    """
    _, mark, tail = solution.rpartition("####")
    return only_number(tail) if mark else None


def _item(record: Any, where: str, name: str) -> Item:
    if not isinstance(record, Mapping):
        raise UserError(f'{where}: not a record; each line must be like {{"question": ..., "answer": "... #### 7"}}')
    for field in ("question", "answer"):
        if not isinstance(record.get(field), str):
            found = ", ".join(map(str, record)) or "none"
            raise UserError(f'{where}: no text in the field "{field}" (fields: {found}); rename or add it')
    answer = reference_answer(record["answer"])
    if answer is None:
        raise UserError(f'{where}: the field "answer" has no number after "####"; end the solution with "#### 7"')
    return Item(record["question"], answer, name, record["answer"].rpartition("####")[0].strip())


def _open(path: pathlib.Path) -> TextIO:
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")


def _records(path: pathlib.Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, decoded record) of each line that is not blank."""
    number = 0
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, json.loads(line)
    except json.JSONDecodeError as error:
        cause = f"{error.msg} at column {error.colno}"
        raise UserError(f"{path}, line {number}: not JSON ({cause}); mend the line") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the path of a GSM8K .jsonl or .jsonl.gz file") from None
    except (EOFError, zlib.error, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}, after line {number}: cannot be read ({error}); fetch the file again") from None


def read_jsonl(path: str, split: str) -> list[Item]:
    """The items of a .jsonl or .jsonl.gz file, named "gsm8k/{split}/{line number from 0}"."""
    items = [_item(r, f"{path}, line {n}", f"gsm8k/{split}/{n - 1}") for n, r in _records(pathlib.Path(path))]
    if not items:
        raise UserError(f"{path}: no problems in the file; fetch the file again")
    return items


def _hub(name: str, subset: str, split: str) -> Iterable[Any]:
    try:
        import datasets

        return datasets.load_dataset(name, subset, split=split)
    except Exception as error:  # the hub's client raises many kinds, none of them documented
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(
            f"gsm8k task: cannot load the {split} split of {name!r} ({cause}); check the name and the network, "
            "or give train_path and test_path of local .jsonl files"
        ) from error


def _split(config: Gsm8kConfig, split: str, path: str | None, limit: int | None) -> list[Item]:
    if path is not None:
        return read_jsonl(path, split)[:limit]
    records = _hub(config.dataset, config.subset, split)
    items = [_item(r, f"{config.dataset}, {split} record {i}", f"gsm8k/{split}/{i}") for i, r in enumerate(records)]
    return items[:limit]


def gsm8k_task(config: Gsm8kConfig) -> Task:
    """Train and test split as training and held-out items; strict is "#### N" on the last line."""
    return Task(
        name="gsm8k",
        train=_split(config, "train", config.train_path, config.train),
        heldout=_split(config, "test", config.test_path, config.heldout),
        strict=AnswerFormat.HASHES.extract,
        system=config.system,
    )
