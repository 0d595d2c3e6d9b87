"""What every command shares: settings from a file and the command line, one line for bad input, and quiet libraries."""

import difflib
import logging
import os
import pathlib
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # so that the reported peak is the run's own
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no torch is meant so

import absl.logging
import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags
from tqdm import tqdm

from experiments.help import describe
from lqlm.errors import UserError

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
HELP = ("-h", "--help", "-help", "--helpshort", "--helpfull")


def run(
    main: Callable[[Any], None], settings: type, usage: str, default_config: str, argv: Sequence[str] | None = None
) -> None:
    """Run ``main(config)`` on the settings of the command line; bad input ends in one line and status 2.

    Args:
        main: what to do with the ConfigDict.
        settings: the dataclass that the ConfigDict describes; ``--help`` lists its fields.
        usage: what ``--help`` says before that.
        default_config: the file that is read when ``--config`` is not given.
        argv: the command line, from the command's name on; None for that of the process.
    """
    if "cache" not in flags.FLAGS:
        flags.DEFINE_string("cache", ".cache/jax", "Folder of compiled programs, kept between runs; empty for none.")
    app.run(
        lambda config: _guard(lambda: main(config)),
        argv=None if argv is None else list(argv),
        flags_parser=lambda argv: _guard(lambda: _parse(argv, settings, usage, default_config)),
    )


def _parse(argv: list[str], settings: type, usage: str, default_config: str) -> ConfigDict:
    wants_help = any(argument in HELP for argument in argv[1:])
    argv = [argument for argument in argv if argument not in HELP]
    path, argv = _take_config(argv, default_config)
    config = load_config(path)
    _check_keys(config, argv)
    # The flags of single keys are made from the arguments: a dict's at once, a file's only when --config is parsed.
    config_flags.DEFINE_config_dict("config", config, sys_argv=argv)
    try:
        rest = flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, SyntaxError) as error:
        raise UserError(f"{_one_line(error)} (see --help)") from error
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r} is no flag; write --config FILE --config.key=value (see --help)")
    if wants_help:
        print(f"{usage.strip()}\n\n{describe(settings, config, path)}")
        sys.exit(0)
    return config


def _take_config(argv: list[str], default: str) -> tuple[str, list[str]]:
    """The path after ``--config`` (the last one given), and the other arguments."""
    path, rest, following = default, [], iter(argv)
    for argument in following:
        if argument in ("--config", "-config"):
            path = next(following, "")
        elif argument.startswith(("--config=", "-config=")):
            path = argument.partition("=")[2]
        else:
            rest.append(argument)
    return path, rest


def load_config(path: str) -> ConfigDict:
    """What ``get_config()`` of a file returns; ``file.py:text`` calls ``get_config("text")``.

    Raises:
        UserError: naming file, line and cause, when there is no such file or it does not run.
    """
    file, colon, argument = path.partition(":")
    if not pathlib.Path(file).is_file():
        raise UserError(f"--config={path}: no such file; give a Python file with get_config(), such as one in configs/")
    try:
        config = runpy.run_path(file)["get_config"](*[argument] * bool(colon))
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except KeyError as error:
        cause = "it has no get_config()" if error.args == ("get_config",) else _one_line(error)
        raise UserError(f"{file}{_line_in(file, error)}: {cause}") from error
    except Exception as error:  # it is the user's program
        raise UserError(f"{file}{_line_in(file, error)}: {_one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{file}: get_config() returned {type(config).__name__}; it must return as_config(...)")
    return config


def _line_in(file: str, error: Exception) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
    return "" if line is None else f":{line}"


def _one_line(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    kind = "" if isinstance(error, flags.Error) else f"{type(error).__name__}: "
    return kind + " ".join(text.split())


def _check_keys(config: ConfigDict, argv: list[str]) -> None:
    """Every ``--config.a.b`` names a key that is there: ml_collections ends in a traceback otherwise."""
    for argument in argv:
        flag = argument.partition("=")[0].lstrip("-").removeprefix("no")
        if argument.startswith("-") and flag.startswith("config."):
            _check_key(config, flag)


def _check_key(config: ConfigDict, flag: str) -> None:
    section, where = config, "config"
    for key in flag.split(".")[1:]:
        keys = list(section) if isinstance(section, ConfigDict) else []
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            known = f"it has {', '.join(map(str, keys)) or 'none'}"
            if not isinstance(section, ConfigDict):
                known = f"{where} is no section"
            raise UserError(f"--{flag}: {where} has no key {key!r}; {f'did you mean {near[0]}?' if near else known}")
        section, where = section[key], f"{where}.{key}"


class _Warnings(logging.Handler):
    """One line for each warning of lqlm, above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(f"warning: {record.getMessage()}", file=sys.stderr)


def set_logging() -> None:
    """Of lqlm, warnings are shown; of the libraries below it, errors: orbax logs each of its steps."""
    absl.logging.set_verbosity(absl.logging.ERROR)
    logger = logging.getLogger("lqlm")
    logger.handlers, logger.propagate = [_Warnings(logging.WARNING)], False
    logger.setLevel(logging.WARNING)


def _guard(call: Callable[[], Any]) -> Any:
    set_logging()
    try:
        return call()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def use_compilation_cache() -> None:
    """Keep compiled programs in ``--cache``, so that a second run starts within seconds."""
    if flags.FLAGS.cache:
        jax.config.update("jax_compilation_cache_dir", os.path.abspath(flags.FLAGS.cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
