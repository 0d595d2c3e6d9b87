"""A byte-level tokenizer of a few letters, for tests that write whole model directories."""

from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lqlm.io.tokenizer import Tokenizer


def tiny_tokenizer(size: int = 40) -> Tokenizer:
    """``<|im_end|>`` (0), letters a to h, merges ab and abc, then fillers."""
    vocab = {"<|im_end|>": 0, **{letter: i for i, letter in enumerate("abcdefgh", start=1)}, "ab": 9, "abc": 10}
    vocab |= {f"[{i}]": i for i in range(len(vocab), size)}
    built = Inner(models.BPE(vocab=vocab, merges=[("a", "b"), ("ab", "c")]))
    built.pre_tokenizer, built.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner = PreTrainedTokenizerFast(tokenizer_object=built, eos_token="<|im_end|>", chat_template="{{ messages }}")
    return Tokenizer(inner, (0,), 0, len(inner))
