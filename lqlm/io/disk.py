"""Files that are either whole or absent, and one clear line when the disk is full."""

import contextlib
import errno
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

from lqlm.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# TensorStore (below orbax) raises a ValueError whose text ends in the words of strerror.
FULL_WORDS = tuple(os.strerror(code) for code in FULL)


def is_disk_full(error: BaseException) -> bool:
    """Whether an exception, or one that it was raised from, says that no more could be written.

    >>> is_disk_full(OSError(errno.ENOSPC, "No space left on device"))
    True
    >>> is_disk_full(OSError(errno.EACCES, "Permission denied"))
    False
    """
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    if any(words in str(error) for words in FULL_WORDS):
        return True
    below = error.__cause__ or error.__context__
    return below is not None and is_disk_full(below)


@contextlib.contextmanager
def clear_when_full(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns a full disk (or quota, or file-size limit) inside the block into a UserError that names ``path``."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise UserError(
            f"disk full while writing {os.fspath(path)}: nothing saved is lost; free some space and start the same "
            "command again"
        ) from error


def write_atomic(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Writes a whole file beside its place and renames it there: a reader sees the old one or the new one.

    Args:
        path: of the file; its directory is made.
        data: text (written as UTF-8) or bytes.

    Raises:
        UserError: when the disk is full; the old file stays.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    write_streamed(path, lambda beside: _fill(beside, content))


Content = bytes | Callable[[BinaryIO], None]
"""What a file shall hold: bytes, or a function that writes them to the open file (for what is large)."""


def write_streamed(path: str | os.PathLike[str], write: Callable[[pathlib.Path], None]) -> None:
    """As :func:`write_atomic`, for a large file: ``write`` gets the path beside its place and fills it.

    Args:
        path: of the file; its directory is made.
        write: writes the whole file at the path it is given.

    Raises:
        UserError: when the disk is full; the old file stays.
    """
    target = pathlib.Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    with clear_when_full(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(beside)
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)


def write_directory(path: str | os.PathLike[str], files: Mapping[str, Content]) -> None:
    """Puts a directory of these files in place at once; an older one of the same files is replaced.

    Between the two renames of a replacement there is a moment without the directory: a process killed just then leaves
    the old one beside it, which :func:`recover_directory` brings back.

    Args:
        path: of the directory.
        files: name -> content, or a function that writes it.

    Raises:
        UserError: when the disk is full, or when other files lie in the directory; it stays as it was.
    """
    target = pathlib.Path(path).absolute()
    recover_directory(target)
    others = sorted(p.name for p in target.iterdir() if p.name not in files) if target.exists() else []
    if others:
        raise UserError(f"{target} holds other files ({others[0]}); choose a new or empty directory")
    beside = target.with_name(f".{target.name}.part")
    shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed
    with clear_when_full(target):
        try:
            beside.mkdir(parents=True)
            for name, content in files.items():
                _fill(beside / name, content)
            _exchange(beside, target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _fill(path: pathlib.Path, content: Content) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
        return
    with path.open("wb") as file:
        content(file)


def _exchange(beside: pathlib.Path, target: pathlib.Path) -> None:
    old = _old(target)
    if target.exists():
        target.rename(old)
    beside.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def recover_directory(path: str | os.PathLike[str]) -> None:
    """Ends what a :func:`write_directory` that was killed had begun: one whole directory remains."""
    target = pathlib.Path(path).absolute()
    if _old(target).exists():
        if target.exists():
            shutil.rmtree(_old(target))
        else:
            _old(target).rename(target)


def _old(target: pathlib.Path) -> pathlib.Path:
    return target.with_name(f".{target.name}.old")
