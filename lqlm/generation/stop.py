"""From tokens to text as they come: characters that need several tokens, and texts that end a completion."""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
"""The text of tokens, such as :meth:`lqlm.io.tokenizer.Tokenizer.decode`."""
UNFINISHED = "\ufffd"
"""What a tokenizer writes for the bytes of a character that is not complete."""


class Detokenizer:
    """Tokens in, text out: the pieces joined, with the last :meth:`flush`, are the text of all tokens.

    A piece is held back while it ends inside a character.  Only the tokens since the piece before the last are decoded
    again, so that a token costs the same wherever it stands, and a tokenizer that treats the first token of a text
    unlike others (SentencePiece leaves out its space) sees one before it.

    >>> text = Detokenizer(lambda tokens: bytes(tokens).decode(errors="replace"))
    >>> [text.push(byte) for byte in "aé".encode()]
    ['a', '', 'é']
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._before: list[int] = []
        self._new: list[int] = []

    def push(self, token: int) -> str:
        """The text that is certain now and was not before."""
        self._new.append(token)
        piece = self._piece()
        if not piece or piece.endswith(UNFINISHED):
            return ""
        self._before, self._new = self._new, []
        return piece

    def held(self) -> str:
        """What is held back, as it reads until now."""
        return self._piece() if self._new else ""

    def flush(self) -> str:
        """What was held back, where no token follows."""
        piece = self.held()
        self._before, self._new = self._new, []
        return piece

    def _piece(self) -> str:
        return self._decode(self._before + self._new)[len(self._decode(self._before)) :]


class StopMatcher:
    """Text in, the text before the first stop text out.

    The first is the one that is complete first; of several that end at the same character, the longest.  So the result
    does not depend on how the text is cut into pieces.  What could be the beginning of a stop text is held back.

    >>> stop = StopMatcher(("END",))
    >>> [stop.push(piece) for piece in ("one E", "N two EN", "D three")]
    ['one ', 'EN two ', '']
    >>> stop.stopped
    True

    Attributes:
        stopped: whether a stop text has come; no more text is given after it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stopped = False
        self._stops = tuple(stops)
        self._held = ""

    def push(self, piece: str) -> str:
        """The text that is certain now to come before any stop text, and was not before."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = first_stop(text, self._stops)
        self.stopped = found is not None
        keep = len(text) - beginning(text, self._stops) if found is None else found
        self._held = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """What was held back, where no text follows."""
        held, self._held = self._held, ""
        return "" if self.stopped else held


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the stop text begins that is complete first, the longest of those that end there; None without any.

    >>> first_stop("abcd", ("bc", "abcd", "abc")), first_stop("abcd", ("x",))
    (0, None)
    """
    found = [(start + len(stop), start) for stop in stops if (start := text.find(stop)) >= 0]
    return min(found)[1] if found else None


def beginning(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of a text that is the beginning of a stop text, and not all of it.

    >>> beginning("one E", ("END", "x"))
    1
    """
    sizes = (size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size]))
    return max(sizes, default=0)


class TextStream:
    """Tokens of one sample in, its text out up to a stop text.

    Args:
        decode: tokens to text; None, for a caller who wants tokens only, gives no text and never stops.
        stops: texts that end the sample.
    """

    def __init__(self, decode: Decode | None, stops: Sequence[str] = ()) -> None:
        self._detokenizer = None if decode is None else Detokenizer(decode)
        self._matcher = StopMatcher(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop text has come."""
        return self._matcher.stopped

    def push(self, token: int, last: bool) -> str:
        """The text that is certain now: all that is left, where no token follows."""
        if self._detokenizer is None:
            return ""
        text = self._matcher.push(self._detokenizer.push(token))
        if last:
            text += self._matcher.push(self._detokenizer.flush()) + self._matcher.flush()
        return text
