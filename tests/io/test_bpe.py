import gzip
import json
import pathlib
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.errors import UserError
from lqlm.io.bpe import SMALLEST, SPECIAL, train_bpe
from lqlm.io.gguf_writer import _vocabulary
from lqlm.io.tokenizer import tokenizer_from_directory

DATA = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data" / "tinyshakespeare" / "input.txt.gz"
TEXTS = [
    "low low low low low lower lower newest newest newest newest newest newest widest widest widest\n",
    "Ärger 1999 ",
] * 2
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return train_bpe(TEXTS, 275, folder), folder


@given(text=st.text())
def test_decoding_undoes_encoding(trained, text):
    tokenizer, _ = trained
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == tokenizer.decode(ids, skip_special=False) == text
    assert all(len(SPECIAL) <= i < tokenizer.vocab_size for i in ids)


@pytest.mark.parametrize(
    "text", ["", " a  b ", "n 't 's", "a , b .", "\r\n\t\x00\ufeff", "e\u0301", "한글 👩‍👩‍👧", " \u2028 "]
)
def test_texts_that_others_clean_up_come_back(trained, text):
    assert trained[0].decode(trained[0].encode(text)) == text
    assert len(trained[0].encode(unicodedata.normalize("NFD", "é"))) == 3


def test_merges_by_hand(tmp_path):
    """Words a+a+b (1), _+a+a+b (2), _+a+b (1).

    Pairs: a b 4, a a 3, _ a 3; then a ab 3, _ a 2, _ ab 1; then _ aab 2, _ ab 1; then none is there twice.
    """
    tokenizer = train_bpe(["aab aab aab ab"], 300, tmp_path)
    merges = [tuple(merge) for merge in json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"]]
    assert merges == [("a", "b"), ("a", "ab"), ("\u0120", "aab")]
    assert tokenizer.vocab_size == SMALLEST + 3
    assert tokenizer.encode("ab aab") == [SMALLEST, SMALLEST + 2]
    assert train_bpe(["aab aab aab ab"], SMALLEST + 2, tmp_path).encode("ab aab") == [
        SMALLEST, tokenizer.encode(" ")[0], SMALLEST + 1
    ]  # fmt: skip


def test_numbers_are_split_into_digits_or_kept_whole(tmp_path):
    texts = ["eq63 odds40"] * 3
    digits, whole = (train_bpe(texts, 300, tmp_path / name, numbers=name) for name in ("digits", "whole"))
    assert [digits.decode([token]) for token in digits.encode("eq63 odds63")] == ["eq", "6", "3", " odds", "6", "3"]
    assert [whole.decode([token]) for token in whole.encode("eq63 odds63")] == ["eq", "63", " odds", "63"]
    assert whole.decode(whole.encode("7 of 1063")) == "7 of 1063"
    assert _vocabulary(whole, 300)["ggml.pre"] == "gpt-2" and _vocabulary(digits, 300)["ggml.pre"] == "smollm"


def test_special_tokens_and_vocabulary(trained):
    tokenizer, _ = trained
    assert (tokenizer.eos_ids, tokenizer.pad_id, tokenizer.vocab_size) == ((0, 2), 3, 275)
    assert tuple(tokenizer.inner.convert_ids_to_tokens(range(4))) == SPECIAL
    assert tokenizer.encode("a<|im_end|>")[-1] == 2 and tokenizer.decode(tokenizer.encode("a<|im_end|>")) == "a"
    digits = tokenizer.inner.convert_ids_to_tokens(tokenizer.encode("1999"))
    assert digits == list("1999")


def test_chat_is_chatml(trained):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "low"}]
    expected = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nlow<|im_end|>\n"
    assert trained[0].render(messages, False) == expected
    assert trained[0].render(messages) == expected + "<|im_start|>assistant\n"
    assert trained[0].decode(trained[0].chat(messages), skip_special=False) == expected + "<|im_start|>assistant\n"


def test_the_directory_loads_here_and_in_transformers(trained):
    from transformers import AutoTokenizer

    tokenizer, folder = trained
    theirs, ours = AutoTokenizer.from_pretrained(str(folder)), tokenizer_from_directory(folder)
    text, messages = "the lowest Ä 12", [{"role": "user", "content": "low"}]
    assert theirs.encode(text) == ours.encode(text) == tokenizer.encode(text)
    assert theirs.decode(theirs.encode(text)) == text
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 0, 3)
    assert theirs.apply_chat_template(messages, tokenize=False) == ours.render(messages, False)
    assert ours.eos_ids == tokenizer.eos_ids and ours.vocab_size == tokenizer.vocab_size == len(theirs)


def test_the_same_texts_give_the_same_files(trained, tmp_path):
    for name in ("first", "second"):
        train_bpe(iter(TEXTS), 275, tmp_path / name)  # an iterator, read once, does as well
    for file in FILES:
        content = (trained[1] / file).read_bytes()
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes() == content


def test_other_files_of_the_directory_stay(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    train_bpe(TEXTS, 270, tmp_path)
    train_bpe(TEXTS, 275, tmp_path)
    assert tokenizer_from_directory(tmp_path).vocab_size == 275
    assert (tmp_path / "model.safetensors").read_bytes() == b"weights"


def test_texts_without_enough_pairs_give_a_smaller_vocabulary(tmp_path):
    assert train_bpe(["abab"], 1000, tmp_path / "a").vocab_size == SMALLEST + 1  # "ab"; "abab" is there once
    assert train_bpe(["abab"], 1000, tmp_path / "b", min_frequency=1).vocab_size == SMALLEST + 2
    assert train_bpe(["abab"], SMALLEST, tmp_path / "c").vocab_size == SMALLEST


@pytest.mark.parametrize("texts", [[], [""], ["", " \n"]])
def test_no_text(tmp_path, texts):
    with pytest.raises(UserError, match="the texts to train on are empty"):
        train_bpe(texts, 300, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_bad_settings(tmp_path):
    with pytest.raises(UserError, match=f"vocab_size={SMALLEST - 1}; bytes and special tokens alone are {SMALLEST}"):
        train_bpe(TEXTS, SMALLEST - 1, tmp_path)
    with pytest.raises(UserError, match="min_frequency=0"):
        train_bpe(TEXTS, 300, tmp_path, min_frequency=0)


@pytest.mark.skipif(not DATA.exists(), reason="Tiny Shakespeare is not in ../shared/data")
def test_real_text_gets_shorter(tmp_path):
    text = gzip.decompress(DATA.read_bytes()).decode()[:200_000]
    tokenizer = train_bpe([text], 1024, tmp_path)
    assert tokenizer.vocab_size == 1024
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and len(ids) < 0.45 * len(text)
