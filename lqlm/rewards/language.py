"""Language consistency: the share of a text's words that are in the target language (R1, arXiv:2501.12948, 2.3.2).

What is told apart is the script, with the names of the Unicode database: English from Chinese, Russian or Arabic.
Languages that share a script, as English and German do, are the same to it, and so are loan words and the variables of
a formula, which are Latin in every language.
"""

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence

from lqlm.tasks.think import tag_content

# First words of Unicode character names; the scripts of one writing system count as one.
SCRIPTS: dict[str, tuple[str, ...]] = {
    **{
        name: (name.upper(),)
        for name in (
            "latin", "cyrillic", "greek", "arabic", "hebrew", "devanagari", "bengali", "tamil", "telugu", "gujarati",
            "gurmukhi", "kannada", "malayalam", "sinhala", "thai", "lao", "khmer", "myanmar", "tibetan", "georgian",
            "armenian", "ethiopic", "hangul", "hiragana", "katakana",
        )
    },
    "chinese": ("CJK",),
    "japanese": ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"),
    "korean": ("HANGUL",),
}  # fmt: skip
_UNSPACED = {"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"}  # a character is a word
# Not "runs of letters": the vowel signs of Indic scripts are none to Python, and an apostrophe stands inside of a word.
_PIECES = re.compile(r"[^\s!-&(-@\[-`{-~]+")


@functools.lru_cache(maxsize=1 << 14)
def _script(letter: str) -> str:
    # Compatibility forms (full width, mathematical alphabets) are read as the letter that they stand for.
    return unicodedata.name(unicodedata.normalize("NFKC", letter)[0], "?").split()[0]


def _words(text: str) -> Iterator[tuple[str, int]]:
    """(script, number of words) of each run of letters of one script inside of a word."""
    for piece in _PIECES.finditer(text):
        for script, letters in itertools.groupby(filter(str.isalpha, piece[0]), _script):
            yield script, len(list(letters)) if script in _UNSPACED else 1


def language_consistency(completion: str, script: str | Sequence[str], tag: str | None = None) -> float:
    """Words in the target script / words; in scripts written without blanks each character is a word.

    A text without any word, and so an empty one, gives 0: silence is not consistent.

    Args:
        completion: text of the model.
        script: key of `SCRIPTS`, or several, such as "latin" or ["chinese", "latin"].
        tag: look at the content of this tag only, as R1 does for the chain of thought ("think"); 0 without it.

    >>> language_consistency("We add 3 and 4, so 所以 it is 7.", "latin")  # six words and two characters
    0.75
    """
    names = [script] if isinstance(script, str) else list(script)
    unknown = [name for name in names if name not in SCRIPTS]
    if unknown or not names:
        raise ValueError(f"script {unknown} is not known; give one or more of {', '.join(SCRIPTS)}")
    target = {part for name in names for part in SCRIPTS[name]}
    text = completion if tag is None else tag_content(completion, tag) or ""
    total = right = 0
    for found, count in _words(text):
        total += count
        right += count * (found in target)
    return right / total if total else 0.0
