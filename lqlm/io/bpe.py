"""A tokenizer trained on one's own text: byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2).

Every text can be encoded, because the 256 bytes are tokens, and decoding gives it back.  Words and single digits are
split before merging, as in SmolLM's tokenizer; or words and whole numbers, as in GPT-2's.
"""

import pathlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from lqlm.errors import UserError
from lqlm.io.disk import clear_when_full
from lqlm.io.tokenizer import Tokenizer, quiet_import, tokenizer_from_directory

if TYPE_CHECKING:
    import tokenizers

END, TURN, TURN_END, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
SPECIAL = (END, TURN, TURN_END, PAD)  # ids 0 to 3
SMALLEST = 256 + len(SPECIAL)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Numbers = Literal["digits", "whole"]
"""How numbers are split before merging: into single digits, or not at all."""


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    directory: str | pathlib.Path,
    *,
    min_frequency: int = 2,
    numbers: Numbers = "digits",
) -> Tokenizer:
    """Trains a tokenizer and writes it as a directory that :func:`tokenizer_from_directory` and transformers load.

    The same texts give the same files.  Four special tokens come first: ``<|endoftext|>`` (id 0: begin and end of a
    text, never added when encoding), ``<|im_start|>`` and ``<|im_end|>`` (turns of the chat template, ChatML) and
    ``<|pad|>``; then the bytes, then the merges, the most frequent first.  A text that itself contains the name of a
    special token is encoded with that token.

    Args:
        texts: any number, read once.
        vocab_size: tokens, special ones and bytes included; there are fewer when the texts have no more pairs to merge.
        directory: made when absent; other files in it stay.
        min_frequency: how often a pair must be there to be merged.
        numbers: each of the ``digits`` a token, or a frequent number as a ``whole``: fewer tokens, and nothing to add
            up where numbers are labels rather than sums.

    Returns:
        The tokenizer, as loaded from the directory; its `vocab_size` is the number of tokens there are.

    Raises:
        UserError: when there is no text, or the vocabulary has no room for bytes and special tokens.
    """
    if vocab_size < SMALLEST:
        raise UserError(f"tokenizer: vocab_size={vocab_size}; bytes and special tokens alone are {SMALLEST}: raise it")
    if min_frequency < 1:
        raise UserError(f"tokenizer: min_frequency={min_frequency}; a pair must be there at least once")
    with quiet_import():
        from transformers import PreTrainedTokenizerFast
    inner = PreTrainedTokenizerFast(
        tokenizer_object=_trained(_not_empty(texts), vocab_size, min_frequency, numbers),
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[TURN, TURN_END],
        clean_up_tokenization_spaces=False,
        chat_template=CHATML,
    )
    with clear_when_full(directory):
        inner.save_pretrained(str(directory))
    return tokenizer_from_directory(directory)


def _trained(texts: Iterator[str], vocab_size: int, min_frequency: int, numbers: Numbers) -> "tokenizers.Tokenizer":
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    built = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    built.pre_tokenizer = digits if numbers == "digits" else words
    built.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[AddedToken(name, normalized=False, special=True) for name in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    built.train_from_iterator(texts, trainer)
    return built


def _not_empty(texts: Iterable[str]) -> Iterator[str]:
    empty = True
    for text in texts:
        empty = empty and not text.strip()
        yield text
    if empty:
        raise UserError("tokenizer: the texts to train on are empty; give a file with text in it")
