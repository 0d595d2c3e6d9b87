"""Bad input to supervised fine-tuning ends in one line that names the file, the line or record, and the setting."""

import gzip
import json

import pytest

from experiments.sft import __main__ as sft
from tests.experiments.tiny_model import save_records


@pytest.fixture
def go(cli, model, tmp_path):
    """The command on a file of data, in a workdir of its own."""

    def call(data, *arguments, model=model):
        config = f"tests/experiments/tiny_sft_config.py:{model},{data}"
        return cli(f"--config.workdir={tmp_path / 'work'}", *arguments, config=config, module=sft)

    return call


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


GOOD = [{"prompt": f"{n}", "completion": f"{n}"} for n in range(12)]
FILES = {
    "missing field": (lines(*GOOD, {"prompt": "1"}), ["line 13", "completion"]),
    "other field": (lines({"question": "1", "answer": "2"}, *GOOD), ["line 1", "question", "prompt"]),
    "field of another type": (lines(*GOOD, {"prompt": "1", "completion": 3}), ["line 13", "completion", "int"]),
    "only empty completions": (
        lines(*({"prompt": f"{n}", "completion": ""} for n in range(12))),
        ["nothing to learn", "empty completion"],
    ),
    "not JSON": (lines(*GOOD) + "{'prompt': 1}\n", ["line 13", "not JSON"]),
    "no record": (lines(*GOOD, [1, 2]), ["line 13", "list instead of a record"]),
    "empty": ("", ["no records"]),
    "as few as are held out": (lines(*GOOD[:8]), ["8 records to hold out of 8"]),
}


@pytest.mark.parametrize("name", FILES)
def test_data_that_cannot_be_learned_from(go, tmp_path, name):
    text, words = FILES[name]
    file = tmp_path / "data.jsonl"
    file.write_text(text)
    line = go(file).line()
    for word in words:
        assert word in line, line


def test_files_that_cannot_be_read(go, tmp_path):
    assert "no such file" in go(tmp_path / "none.jsonl").line()
    truncated = tmp_path / "cut.jsonl.gz"
    truncated.write_bytes(gzip.compress(lines(*GOOD).encode())[:-12])
    assert "cut.jsonl.gz" in go(truncated).line()
    binary = tmp_path / "latin.jsonl"
    binary.write_bytes(b'{"prompt": "\xe9", "completion": "1"}\n')
    assert "not UTF-8" in go(binary).line()
    unknown = tmp_path / "data.parquet.txt.bin"
    unknown.write_bytes(b"123")
    assert "unknown kind of file" in go(unknown).line()


SETTINGS = {
    "nothing held out": (["--config.data.heldout=0"], ["data.heldout is 0", "data.heldout_source"]),
    "stream without held-out": (["--config.data.stream=True"], ["data.stream", "data.heldout_source"]),
    "unpacked stream": (
        ["--config.data.stream=True", "--config.data.heldout_source=x.jsonl", "--config.run.packing=False"],
        ["data.stream", "run.packing"],
    ),
    "held-out of nothing": (["--config.data.source=", "--config.data.heldout_source=x"], ["data.source is empty"]),
    "no such held-out": (["--config.data.heldout_source=none.jsonl"], ["none.jsonl", "no such file"]),
    "odd micro-batches": (["--config.run.micro_batches=3"], ["run.micro_batches 3", "run.rows 4"]),
    "short rows": (["--config.run.length=9"], ["run.length 9", "text.max_length 24"]),
    "long rows": (["--config.run.length=0", "--config.text.max_length=65"], ["65", "64 positions"]),
    "no room to generate": (["--config.run.new_tokens=62"], ["62 new tokens", "context of 64"]),
    "unknown loss": (["--config.run.loss=mse"], ["config.run.loss", "'nll', 'dft'"]),
    "patience without evaluations": (["--config.run.patience=1", "--config.run.eval_every=0"], ["run.patience"]),
    "unknown form": (["--config.text.form=chat"], ["config.text.form", "'messages'"]),
    "other kind of model": (["--config.model.kind=other"], ["config.model.kind", "pretrained, scratch"]),
    "misspelt": (["--config.data.sourc=x"], ["did you mean source"]),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_cannot_be(go, records, name):
    arguments, words = SETTINGS[name]
    line = go(records, *arguments).line()
    for word in words:
        assert word in line, line


SCRATCH = {
    "small vocabulary": (["--config.model.vocab_size=100"], ["vocab_size=100", "260"]),
    "odd heads": (["--config.model.heads=3"], ["width 32, heads 3"]),
    "long rows": (["--config.text.max_length=65", "--config.run.length=0"], ["65", "64 positions"]),
}


@pytest.mark.parametrize("name", SCRATCH)
def test_a_model_from_scratch_that_cannot_be(go, records, name):
    arguments, words = SCRATCH[name]
    line = go(records, *arguments, model="scratch").line()
    for word in words:
        assert word in line, line


def test_other_data_than_the_run_was_begun_with(go, tmp_path):
    file = save_records(tmp_path / "data.jsonl")
    arguments = ["--config.run.eval_every=0", "--config.run.generate=0"]
    assert go(file, "--config.run.steps=1", *arguments).status == 0
    save_records(file, count=41)
    assert "begun on other data" in go(file, "--config.run.steps=2", *arguments).line()
