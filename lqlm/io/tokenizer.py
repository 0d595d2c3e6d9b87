"""Tokenizers from GGUF metadata or from a Hugging Face directory, behind one thin class."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lqlm.errors import UserError
from lqlm.io.safetensors import read_json
from lqlm.models.config import ModelConfig

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerBase

# Words and digits are split before the merges; GGUF only names the rule.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {"qwen2": _WORDS % "", "llama-bpe": _WORDS % "{1,3}"}
_PRE_TOKENIZERS = ("smollm", "qwen2", "llama-bpe", "default", "gpt-2")
_USE_DIRECTORY = "load the model from its Hugging Face directory instead"
# Special tokens that end a turn or a text in the supported families, besides the declared end of sequence.
_END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "</s>")
_CONTROL, _USER_DEFINED = 3, 4


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


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Builds the tokenizer that a GGUF file describes.

    Args:
      metadata: from :func:`lqlm.io.gguf.read_gguf`.

    Returns:
      The Tokenizer.

    Raises:
      UserError: if it is not byte-level BPE with a known rule for splitting words, or the vocabulary is damaged.
    """
    fields = {k.removeprefix("tokenizer.ggml."): v for k, v in metadata.items() if k.startswith("tokenizer.ggml.")}
    tokens = fields.get("tokens")
    if not tokens or len(fields.get("token_type", tokens)) != len(tokens):
        raise UserError(f"tokenizer: the GGUF file has no complete vocabulary; {_USE_DIRECTORY}")
    special = _special_tokens(fields, tokens)
    with quiet_import():
        from transformers import PreTrainedTokenizerFast
    inner = PreTrainedTokenizerFast(
        tokenizer_object=_byte_level_bpe(fields, tokens),
        clean_up_tokenization_spaces=False,
        chat_template=metadata.get("tokenizer.chat_template"),
        **special,
    )
    return _wrap(inner, [fields.get(key) for key in ("eos_token_id", "eot_token_id", "eom_token_id")])


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
    return _wrap(inner, [inner.eos_token_id, *_generation_eos(path)])


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


def _byte_level_bpe(fields: Mapping[str, Any], tokens: list[str]) -> "tokenizers.Tokenizer":
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    kind, rule = fields.get("model"), fields.get("pre", "default")
    if kind != "gpt2":
        raise UserError(f"tokenizer: GGUF tokenizers of type {kind!r} are not supported; {_USE_DIRECTORY}")
    if rule not in _PRE_TOKENIZERS:
        raise UserError(f"tokenizer: GGUF pre-tokenizer {rule!r} is not supported; {_USE_DIRECTORY}")
    built = Tokenizer(models.BPE(**_vocabulary(fields, tokens), ignore_merges=rule == "llama-bpe"))
    if rule == "qwen2":
        built.normalizer = normalizers.NFC()
    built.pre_tokenizer = pre_tokenizer(rule)
    built.decoder = decoders.ByteLevel()
    _add_begin_token(built, fields, tokens)
    types = fields.get("token_type", [])
    for wanted in (_CONTROL, _USER_DEFINED):
        named = [token for token, type_ in zip(tokens, types) if type_ == wanted]
        built.add_tokens([AddedToken(token, normalized=False, special=wanted == _CONTROL) for token in named])
    return built


def _vocabulary(fields: Mapping[str, Any], tokens: list[str]) -> dict[str, Any]:
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in fields.get("merges", [])]
    for merge in merges:
        if len(merge) != 2 or not {*merge, "".join(merge)} <= vocab.keys():
            raise UserError(f"tokenizer: GGUF merge {' '.join(merge)!r} does not fit the vocabulary; {_USE_DIRECTORY}")
    if len(vocab) != len(tokens):
        raise UserError(f"tokenizer: the GGUF vocabulary has a token twice; {_USE_DIRECTORY}")
    return {"vocab": vocab, "merges": merges}


def pre_tokenizer(rule: str) -> "tokenizers.pre_tokenizers.PreTokenizer":
    """How text is parted before byte pairs are merged, by the name that GGUF files give to the rule."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    if rule in _SPLITS:
        split = Split(Regex(_SPLITS[rule]), "isolated", invert=False)
        return Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    byte_level = ByteLevel(add_prefix_space=False, use_regex=True)
    return Sequence([Digits(individual_digits=True), byte_level]) if rule == "smollm" else byte_level


def _add_begin_token(built: "tokenizers.Tokenizer", fields: Mapping[str, Any], tokens: list[str]) -> None:
    from tokenizers import processors

    # Llama 3 files may leave the flag out; its tokenizer always begins a text.
    if fields.get("add_bos_token", fields.get("pre") == "llama-bpe"):
        begin = tokens[_token_id(fields, "bos_token_id", tokens)]
        special = [(begin, fields["bos_token_id"])]
        built.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=special
        )


def _special_tokens(fields: Mapping[str, Any], tokens: list[str]) -> dict[str, str]:
    keys = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}
    present = {name: key for name, key in keys.items() if key in fields}
    return {f"{name}_token": tokens[_token_id(fields, key, tokens)] for name, key in present.items()}


def _token_id(fields: Mapping[str, Any], key: str, tokens: list[str]) -> int:
    value = fields.get(key)
    if not isinstance(value, int) or not 0 <= value < len(tokens):
        raise UserError(f"tokenizer: {key} {value!r} is not one of the {len(tokens)} tokens; {_USE_DIRECTORY}")
    return value


def _generation_eos(path: pathlib.Path) -> list[int | None]:
    config = path / "generation_config.json"
    found = read_json(config).get("eos_token_id") if config.is_file() else None
    return found if isinstance(found, list) else [found]


def _wrap(inner: "PreTrainedTokenizerBase", declared: Sequence[int | None]) -> Tokenizer:
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
