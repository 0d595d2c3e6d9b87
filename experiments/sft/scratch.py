"""A model that begins at random, with a tokenizer trained on the text that it will learn."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib

import jax

from experiments.sft.data import Records, texts_in
from experiments.sft.settings import ScratchSettings, SFTExperiment
from experiments.workdir import Workdir
from lqlm.errors import UserError
from lqlm.io.bpe import Numbers, train_bpe
from lqlm.io.load import LoadedModel
from lqlm.io.tokenizer import Tokenizer, tokenizer_from_directory
from lqlm.models.init import init_base
from lqlm.types import Key


def make_model(settings: SFTExperiment, found: Records, key: Key) -> LoadedModel:
    """Tokenizer and random weights; a run that goes on finds the same ones.

    Args:
        settings: of the run; its ``model`` is of kind "scratch".
        found: the records, whose texts train the tokenizer; those of a stream are its held-out ones.
        key: of the weights; consumed.
    """
    shape = settings.model
    assert isinstance(shape, ScratchSettings)
    folder = Workdir(pathlib.Path(settings.workdir)).tokenizer
    tokenizer = tokenizer_of(folder, found, shape.vocab_size, shape.numbers)
    config = shape.config(tokenizer.vocab_size)
    base = jax.jit(functools.partial(init_base, cfg=config, dtype=shape.dtype, std=shape.std))(key)
    return LoadedModel(base, config, tokenizer, "scratch", _checksum(folder, shape, settings.seed))


def tokenizer_of(folder: pathlib.Path, found: Records, vocab_size: int, numbers: Numbers = "digits") -> Tokenizer:
    """The tokenizer in a folder, trained and put there, whole or not at all, when there is none."""
    if not folder.is_dir():
        texts = (text for _, fields in found.train or found.heldout for text in texts_in(fields))
        beside = folder.with_name(f".{folder.name}.part")
        train_bpe(texts, vocab_size, beside, numbers=numbers)
        os.rename(beside, folder)
    return tokenizer_from_directory(folder)


def _checksum(folder: pathlib.Path, shape: ScratchSettings, seed: int) -> str:
    """Of all that the weights depend on."""
    try:
        tokenizer = (folder / "tokenizer.json").read_bytes()
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); begin the run in a new workdir") from error
    sizes = json.dumps(dataclasses.asdict(shape), sort_keys=True)
    return hashlib.sha256(tokenizer + f"{sizes}/{seed}".encode()).hexdigest()
