"""Texts as they come: the same whatever the pieces, and the definition of the first stop text spelled out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lqlm.generation.stop import Detokenizer, StopMatcher, TextStream, beginning, first_stop

TEXTS = st.text("abc", max_size=12)
STOPS = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)


def until_stop(text, stops):
    """By the definition, one character after the other: the text, and whether it was cut."""
    for end in range(len(text) + 1):
        ends = [stop for stop in stops if text[:end].endswith(stop)]
        if ends:
            return text[: end - max(map(len, ends))], True
    return text, False


@settings(max_examples=300)
@given(st.lists(st.text("abc", max_size=5), max_size=6), STOPS)
def test_any_pieces_give_the_text_before_the_first_stop(pieces, stops):
    matcher, said, come = StopMatcher(stops), "", ""
    want, cut = until_stop("".join(pieces), stops)
    for piece in pieces:
        come, said = come + piece, said + matcher.push(piece)
        assert want.startswith(said)  # never more than is right
        held = until_stop(come, stops)[0][len(said) :]
        assert not held or any(stop.startswith(held) for stop in stops)  # nor less than is certain
    assert said + matcher.flush() == want and matcher.stopped == cut


@given(TEXTS, STOPS)
def test_first_stop_and_beginning(text, stops):
    want, cut = until_stop(text, stops)
    assert first_stop(text, stops) == (len(want) if cut else None)
    tails = [text[i:] for i in range(len(text))]
    assert beginning(text, stops) == max(
        (len(tail) for tail in tails for stop in stops if stop.startswith(tail) and stop != tail), default=0
    )


def utf8(tokens):
    return bytes(tokens).decode(errors="replace")


@given(st.one_of(st.text(max_size=8).map(str.encode), st.binary(max_size=12)))
def test_pieces_of_any_bytes_join_to_their_text(data):
    detokenizer = Detokenizer(utf8)
    pieces = [detokenizer.push(byte) for byte in data]
    assert "".join(pieces) + detokenizer.flush() == utf8(data)


@given(st.text(max_size=8))
def test_a_character_is_saidwith_its_last_byte(text):
    detokenizer, said = Detokenizer(utf8), ""
    for character in text.replace("\ufffd", ""):
        for byte in character.encode():
            said += detokenizer.push(byte)
        assert said.endswith(character)
    assert said == text.replace("\ufffd", "")


def test_a_token_costs_the_same_wherever_it_stands():
    longest = []
    detokenizer = Detokenizer(lambda tokens: longest.append(len(tokens)) or utf8(tokens))
    assert "".join(detokenizer.push(97 + i % 26) for i in range(500)) == utf8([97 + i % 26 for i in range(500)])
    assert max(longest) == 2


def words(tokens):
    """As SentencePiece: a space before every word but the first of a text."""
    return " ".join("wxyz"[token] for token in tokens)


def test_a_space_that_the_first_token_of_a_text_lacks():
    detokenizer = Detokenizer(words)
    assert "".join(detokenizer.push(token) for token in (0, 3, 2, 1)) == "w z y x"


@given(st.text("aé€", max_size=8), st.text("aé€", min_size=1, max_size=3))
def test_a_stream_joins_both(text, stop):
    stream, data = TextStream(utf8, (stop,)), text.encode()
    said = ""
    for i, byte in enumerate(data):
        said += stream.push(byte, last=i == len(data) - 1)
        if stream.stopped:
            break
    want, cut = until_stop(text, (stop,))
    assert (said, stream.stopped) == (want, cut)
    if cut:
        assert i + 1 == len((want + stop).encode())  # at the token that completes it


@pytest.mark.parametrize("last", [b"\xc3", b"E\xc3"])
def test_what_is_held_back_comes_at_the_end(last):
    stream = TextStream(utf8, ("END", "\ufffd!"))
    assert "".join(stream.push(byte, last=i == len(last) - 1) for i, byte in enumerate(last)) == utf8(last)


def test_without_a_decode_function_there_is_no_text():
    stream = TextStream(None, ("a",))
    assert stream.push(97, last=True) == "" and not stream.stopped
