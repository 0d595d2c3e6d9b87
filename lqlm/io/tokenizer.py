"""Tokenizers from a Hugging Face directory, and the thin class that all of them stand behind."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lqlm.errors import UserError
from lqlm.io.safetensors import read_json
from lqlm.models.config import ModelConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Special tokens that end a turn or a text in the supported families, besides the declared end of sequence.
_END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "</s>")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Text to token ids and back.

    Attributes:
      inner: the transformers tokenizer.
      eos_ids: every id that ends a completion: the declared end of sequence first, then end of turn.
      pad_id: the id to fill rows with; it may be one of eos_ids, so never tell padding by it.
      vocab_size: number of tokens; the model may have more rows.
    """

    inner: "PreTrainedTokenizerBase"
    eos_ids: tuple[int, ...]
    pad_id: int
    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with what the model wants before it (Llama 3: a begin token; the others: nothing)."""
        return self.inner.encode(text)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of token ids, special tokens left out or written."""
        return str(self.inner.decode(list(ids), skip_special_tokens=skip_special))

    def encode_more(self, text: str) -> list[int]:
        """Token ids of a text that goes on after others, or that has all its special tokens written: none is added."""
        return self.inner.encode(text, add_special_tokens=False)

    @property
    def has_chat_template(self) -> bool:
        """Whether conversations can be written in a format that the model knows."""
        return self.inner.chat_template is not None

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a conversation in the model's chat template; arguments as :meth:`chat`."""
        if not self.has_chat_template:
            raise UserError("tokenizer: the model has no chat template; use an instruction-tuned model or plain text")
        import jinja2

        plain = [dict(message) for message in messages]
        try:
            text = self.inner.apply_chat_template(plain, add_generation_prompt=add_generation_prompt, tokenize=False)
        except jinja2.TemplateError as error:
            raise UserError(f"tokenizer: the chat template refuses these messages ({error})") from error
        return str(text)

    def chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> list[int]:
        """Token ids of a conversation in the model's chat template.

        Args:
          messages: each with ``role`` (``system``, ``user`` or ``assistant``) and ``content``.
          add_generation_prompt: whether to end with the opening of the assistant's turn.
        """
        return self.encode_more(self.render(messages, add_generation_prompt))  # the template has written special tokens


def tokenizer_from_directory(path: str | pathlib.Path) -> Tokenizer:
    """Reads the tokenizer of a Hugging Face directory; code in the directory is never run.

    Args:
      path: has ``tokenizer.json`` and, normally, ``tokenizer_config.json``.

    Returns:
      The Tokenizer.

    Raises:
      UserError: if the tokenizer is missing or damaged.
    """
    path = pathlib.Path(path)
    if not (path / "tokenizer.json").is_file():
        raise UserError(f"{path / 'tokenizer.json'}: no such file; save the model's fast tokenizer there")
    with quiet_import():
        from transformers import PreTrainedTokenizerFast
    try:
        # Not AutoTokenizer: it picks a class by the model's family, and some of these rebuild the splitting rules and
        # add special tokens of their own instead of taking tokenizer.json as it is.
        inner = PreTrainedTokenizerFast.from_pretrained(str(path), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the parsers below raise bare Exception
        raise UserError(
            f"{path}: the tokenizer cannot be read ({_first_line(error)}); fetch its files again"
        ) from error
    return wrapped(inner, [inner.eos_token_id, *_generation_eos(path)])


def check_vocabulary(tokenizer: Tokenizer, config: ModelConfig) -> None:
    """Refuses a tokenizer with an id that the model has no embedding for.

    Args:
      tokenizer: the tokenizer.
      config: of the model.

    Raises:
      UserError: naming the first such token.
    """
    beyond = {i: token for token, i in tokenizer.inner.get_vocab().items() if i >= config.vocab_size}
    if beyond:
        first = min(beyond)
        raise UserError(
            f"tokenizer: token {beyond[first]!r} has id {first} but the model has {config.vocab_size} embeddings; "
            "use the tokenizer that belongs to the model"
        )


def _generation_eos(path: pathlib.Path) -> list[int | None]:
    config = path / "generation_config.json"
    found = read_json(config).get("eos_token_id") if config.is_file() else None
    return found if isinstance(found, list) else [found]


def wrapped(inner: "PreTrainedTokenizerBase", declared: Sequence[int | None]) -> Tokenizer:
    """A transformers tokenizer with all its ids that end a completion, those that are declared first.

    Raises:
      UserError: if there is none.
    """
    vocab = inner.get_vocab()
    special = {token.content for token in inner.added_tokens_decoder.values() if token.special}
    ends = [i for i in declared if i is not None]
    ends += [vocab[token] for token in _END_TOKENS if token in special]
    if not ends:
        raise UserError("tokenizer: no token ends a completion; set eos_token in tokenizer_config.json")
    eos_ids = tuple(dict.fromkeys(ends))
    pad_id = eos_ids[0] if inner.pad_token_id is None else inner.pad_token_id
    return Tokenizer(inner, eos_ids, pad_id, len(inner))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Keeps transformers from advising, when first imported, to install torch: tokenizers need none."""
    name = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
