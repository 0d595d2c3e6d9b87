"""TRL's own preparation of SFT data sets: the same tokens, the same targets, the same number of packed rows."""

import datasets
import numpy as np
import pytest

pytest.importorskip("trl")
import torch
import transformers
from trl import SFTConfig, SFTTrainer
from trl.data_utils import pack_dataset

from lqlm.io.bpe import train_bpe
from lqlm.tasks.instructions import Example, InstructionConfig, read_examples
from lqlm.tasks.packing import pack

pytestmark = [
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning"),
]
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "dog",
    "ran",
    "off",
    "to",
    "sea",
    "where",
    "it",
    "is",
    "5",
    "o'clock",
]


def sentence(rng):
    return " ".join(rng.choice(WORDS, rng.integers(1, 12))) + "."


def turn(role, rng):
    return {"role": role, "content": sentence(rng)}


def rows(form, n=24):
    rng = np.random.default_rng(0)
    make = {
        "text": lambda: {"text": sentence(rng)},
        "plain": lambda: {"prompt": sentence(rng), "completion": " " + sentence(rng)},
        "parts": lambda: {
            "prompt": [turn("system", rng), turn("user", rng)],
            "completion": [turn("assistant", rng)],
        },
        "messages": lambda: {"messages": [turn(r, rng) for r in ("user", "assistant") * 2]},
    }[form]
    return [make() for _ in range(n)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    rng = np.random.default_rng(1)
    return train_bpe([sentence(rng) for _ in range(200)], 300, tmp_path_factory.mktemp("tokenizer"))


def prepared(records, tokenizer, folder, max_length):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=tokenizer.vocab_size, **sizes))
    args = SFTConfig(output_dir=str(folder), max_length=max_length, use_cpu=True, bf16=False, report_to="none")
    data = datasets.Dataset.from_list(records)
    trainer = SFTTrainer(model, args, train_dataset=data, processing_class=tokenizer.inner)
    batch = trainer.data_collator(list(trainer.train_dataset))
    return batch["input_ids"].numpy(), batch["labels"].numpy()


@pytest.mark.parametrize(
    ("form", "max_length", "skips"),
    [
        *[(form, 512, False) for form in ("text", "plain", "parts", "messages")],
        *[("plain", 10, True), ("parts", 50, True), ("messages", 50, False)],  # truncated
    ],
)
def test_tokens_and_targets_equal_trl(form, max_length, skips, tokenizer, tmp_path):
    records = rows(form)
    config = InstructionConfig(max_length=max_length, completion_only=form != "messages")
    examples, skipped = read_examples(((form, record) for record in records), tokenizer, config)
    ids, labels = prepared(records, tokenizer, tmp_path, max_length)
    assert len(examples) + sum(skipped.values()) == len(records)
    assert bool(skipped) == skips  # TRL leaves the same ones out
    labels[:, 0] = -100  # shifted away: nothing predicts the first token
    for example, row, label in zip(examples, ids, labels, strict=True):
        n = len(example.tokens)
        assert row[:n].tolist() == example.tokens.tolist()
        assert (label[:n] != -100).tolist() == example.targets.tolist() and (label[n:] == -100).all()


@pytest.mark.parametrize("seed", range(3))
def test_as_many_rows_as_trl_packs(seed):
    lengths = np.random.default_rng(seed).integers(1, 200, 500)
    theirs = pack_dataset(datasets.Dataset.from_dict({"input_ids": [[0] * n for n in lengths]}), 256, "bfd")
    examples = [Example(np.zeros(n, np.int32), np.zeros(n, bool)) for n in lengths]
    assert len(pack(examples, 256, 0).tokens_BT) == len(theirs)
