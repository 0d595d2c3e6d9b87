"""Data of supervised fine-tuning: what everybody has, what is held out, and batches that a resumed run sees again."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from experiments import trained
from experiments.settings import mergeable
from experiments.sft.data import TOPICS, Records, StreamFeed, prepare, read_records, texts_in
from experiments.sft.evaluate import overlap, perplexity
from experiments.sft.scratch import tokenizer_of
from experiments.sft.settings import DataSettings, ScratchSettings
from experiments.sft.setup import build
from lqlm.adapters.configs import FullConfig, Ia3Config, LoraConfig, PrefixConfig, PromptConfig
from lqlm.io.datasets import Record
from lqlm.io.tokenizer import tokenizer_from_directory
from lqlm.models.init import init_base
from lqlm.models.transformer import bind
from lqlm.tasks.arithmetic import ArithmeticConfig
from tests.experiments.tiny_model import changed, tiny_sft


def questions(records):
    return [record.fields["instruction"] for record in records]


def test_everybody_has_arithmetic():
    train, heldout = read_records(DataSettings(heldout=20, limit=50), seed=0)
    assert (len(train), len(heldout)) == (50, 20) and not set(questions(train)) & set(questions(heldout))
    for record in heldout:
        question, answer = record.fields["instruction"], record.fields["output"]
        assert eval(question.removeprefix("What is ").partition("?")[0]) == int(answer)
    assert read_records(DataSettings(heldout=20), seed=1).heldout == heldout  # the seed of a run changes nothing here


def test_arithmetic_step_by_step():
    made = ArithmeticConfig(operators="+-", operands=(0, 9), terms=(3, 4), train=30, template="Work out {expression}.")
    train, heldout = read_records(DataSettings(heldout=20, made=made, worked=True), seed=0)
    assert (len(train), len(heldout)) == (30, 20)
    for record in train:
        expression = record.fields["instruction"].removeprefix("Work out ").rstrip(".")
        lines = record.fields["output"].split("\n")
        assert len(lines) == expression.count(" ") // 2 and all(eval(line.replace("=", "==")) for line in lines)
        assert int(lines[-1].split("=")[1]) == eval(expression)


def test_everybody_has_a_text():
    train, heldout = read_records(DataSettings(source=TOPICS, heldout=5), seed=0)
    assert len(heldout) == 5 and not {r.where for r in train} & {r.where for r in heldout}
    assert sum(len(record.fields["text"]) for record in train) > 100_000
    other = read_records(DataSettings(source=TOPICS, heldout=5), seed=1).heldout
    assert [r.where for r in heldout] != [r.where for r in other]


def test_held_out_records_from_elsewhere(records, tmp_path):
    elsewhere = tmp_path / "held.jsonl"
    elsewhere.write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    settings = DataSettings(source=str(records), heldout_source=str(elsewhere), heldout=0, limit=7)
    train, heldout = read_records(settings, seed=0)
    assert (len(train), len(heldout)) == (7, 3) and all(r.where.startswith(str(elsewhere)) for r in heldout)
    assert len(read_records(dataclasses.replace(settings, heldout=2), seed=0).heldout) == 2


def test_texts_at_any_depth():
    fields = {"messages": [{"role": "user", "content": "a"}], "n": 3, "more": ("b", {"c": "d"}, None)}
    assert list(texts_in(fields)) == ["user", "a", "b", "d"]


@pytest.fixture(scope="module")
def tokenizer(model):
    return tokenizer_from_directory(model)


def prepared(settings, tokenizer):
    return prepare(settings, read_records(settings.data, settings.seed), tokenizer, tokenizer.pad_id)


def test_batches_in_memory_are_functions_of_the_step(model, records, tmp_path, tokenizer):
    settings = tiny_sft(model, records, tmp_path)
    data, again = prepared(settings, tokenizer), prepared(settings, tokenizer)
    assert data.feed.fingerprint == again.feed.fingerprint
    for step in (5, 0, 3):
        rows, position = data.feed.at(step, [])
        assert rows.tokens_BT.shape == (4, 32) and position == []
        for one, other in zip(rows, again.feed.at(step, [])[0]):
            np.testing.assert_array_equal(one, other)
    other = prepared(dataclasses.replace(settings, seed=1), tokenizer).feed
    assert other.fingerprint != data.feed.fingerprint  # other records are held out
    assert data.feed.epoch(10) == pytest.approx(40 / len(data.feed.batches.rows.tokens_BT))


def test_records_that_teach_nothing_are_told(model, tmp_path, caplog):
    file = tmp_path / "data.jsonl"
    rows = [{"prompt": f"{n}", "completion": "" if n in (3, 7, 8) else f"{n}"} for n in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = tiny_sft(model, file, tmp_path, generate=0)
    skipped = build(settings).data.skipped["empty completion"]
    held = [record.fields["completion"] for record in read_records(settings.data, settings.seed).heldout]
    assert skipped == 3 - held.count("")
    assert caplog.messages == [f"nothing is learned from some records: empty completion: {skipped}"]


def test_a_stream_goes_on_from_any_position(model, records, tmp_path, tokenizer):
    streamed = {"stream": True, "heldout_source": str(records), "buffer": 9, "shuffle_buffer": 4}
    settings = changed(tiny_sft(model, records, tmp_path), "data", **streamed)

    def feed():
        return StreamFeed(settings, tokenizer, 32, tokenizer.pad_id)

    whole, positions, batches = feed(), [[]], []
    for step in range(6):
        rows, position = whole.at(step, positions[-1])
        batches.append(rows)
        positions.append(position)
    assert positions[-1][0] > 0
    for step in (0, 2, 5):  # each by a feed that has seen nothing, and by one that stands elsewhere
        for other in (feed(), whole):
            rows, position = other.at(step, positions[step])
            assert position == positions[step + 1]
            np.testing.assert_array_equal(rows.tokens_BT, batches[step].tokens_BT)


def test_a_tokenizer_is_trained_once(tmp_path):
    found = Records([Record("a", {"text": "the cat and the hat and the bat " * 9})], [])
    first = tokenizer_of(tmp_path / "tokenizer", found, 270)
    again = tokenizer_of(tmp_path / "tokenizer", Records([Record("b", {"text": "other words " * 9})], []), 270)
    assert first.encode("the cat") == again.encode("the cat") and len(first.encode("the cat")) < 7
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]


def test_overlap_of_texts():
    found = overlap(["the cat sat on the mat", " 4 "], ["the cat sat on the mat", "4"])
    assert found["exact_match"] == 1.0 and found["bleu"] == pytest.approx(100.0) and found["rougeL"] == 1.0
    assert overlap(["no", "4"], ["yes", "4"])["exact_match"] == 0.5


def test_perplexity_of_a_hopeless_model():
    assert perplexity(math.log(7.0)) == pytest.approx(7.0) and perplexity(1e5) == math.inf


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        (LoraConfig(), True),
        (LoraConfig(dora=True), True),
        (LoraConfig(lora_bias=True), False),
        (Ia3Config(), True),
        (PromptConfig(), False),
        (PrefixConfig(), False),
        (FullConfig(), False),
    ],
)
def test_what_can_be_merged_for_decoding(adapter, expected):
    assert mergeable(adapter) is expected
    assert (trained.policy(adapter, merged=True) is bind) is not expected
    assert trained.policy(adapter, merged=False) is bind


def test_the_shape_of_a_model_from_scratch():
    cfg = ScratchSettings(layers=3, width=24, heads=4, kv_heads=2).config(300)
    assert (cfg.vocab_size, cfg.head_dim, cfg.layers, cfg.family) == (300, 6, 3, "llama")
    base = jax.eval_shape(lambda key: init_base(key, cfg), jax.random.key(0))
    assert base["layers"]["k_proj"].shape == (3, 24, 12)
