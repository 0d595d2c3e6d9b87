"""Tokenizers from the metadata of a GGUF file, which names its rule for splitting words without writing it down."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lqlm.errors import UserError
from lqlm.io.tokenizer import Tokenizer, quiet_import, wrapped

if TYPE_CHECKING:
    import tokenizers

# Words and digits are split before the merges; GGUF only names the rule.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {"qwen2": _WORDS % "", "llama-bpe": _WORDS % "{1,3}"}
_PRE_TOKENIZERS = ("smollm", "qwen2", "llama-bpe", "default", "gpt-2")
_USE_DIRECTORY = "load the model from its Hugging Face directory instead"
_CONTROL, _USER_DEFINED = 3, 4


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
    return wrapped(inner, [fields.get(key) for key in ("eos_token_id", "eot_token_id", "eom_token_id")])


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
