# ruff: noqa: RUF001
import time

import hypothesis.strategies as st
import pytest
from hypothesis import given

from lqlm.rewards.combine import score_all
from lqlm.rewards.language import SCRIPTS, language_consistency
from lqlm.rewards.specs import RewardSpec, Sample, bind_all


@pytest.mark.parametrize(
    ("text", "script", "share"),
    [
        ("Three and four make seven.", "latin", 1),
        ("Drei und vier sind sieben", "latin", 1),  # the script, not the language
        ("Three and four make семь.", "latin", 4 / 5),
        ("Three and four make семь.", "cyrillic", 1 / 5),
        ("Сложим 3 и 4: получим seven", "cyrillic", 3 / 4),
        ("三加四等于七", "chinese", 1),
        ("三加四等于 seven", "chinese", 5 / 6),
        ("三加 x", "chinese", 2 / 3),
        ("三と四をたす", "japanese", 1),
        ("三と四をたす", "chinese", 2 / 6),
        ("삼 더하기 사", "korean", 1),
        ("हिन्दी में उत्तर", "devanagari", 1),  # vowel signs do not cut a word
        ("हिन्दी word", "devanagari", 1 / 2),
        ("don't won't", "latin", 1),
        ("helloмир", "latin", 1 / 2),
        ("café naïve Ｆｕｌｌ 𝐛𝐨𝐥𝐝", "latin", 1),
        ("3 + 4 = 7", "latin", 0),
        ("", "latin", 0),
        (" \n", "latin", 0),
        ("\0\ud800 word", "latin", 1),
        ("a-b,c.d", "latin", 1),
        ("ثلاثة three", "arabic", 1 / 2),
    ],
)
def test_shares(text, script, share):
    assert language_consistency(text, script) == pytest.approx(share)


def test_apostrophes_and_hyphens():
    assert language_consistency("don't да", "latin") == 1 / 2
    assert language_consistency("well-known да", "latin") == 2 / 3


def test_several_scripts():
    assert language_consistency("三加 x да", ["chinese", "latin"]) == 3 / 4


def test_only_the_reasoning():
    text = "<think>три плюс четыре</think><answer>seven</answer>"
    assert language_consistency(text, "cyrillic", tag="think") == 1.0
    assert language_consistency(text, "cyrillic") < 1.0  # the names of the tags are words too
    assert language_consistency("три", "cyrillic", tag="think") == 0.0


@pytest.mark.parametrize("script", ["english", "Latin", "", [], ["latin", "klingon"]])
def test_unknown_scripts(script):
    with pytest.raises(ValueError, match="give one or more of latin, cyrillic"):
        language_consistency("x", script)


@given(st.text(), st.sampled_from(sorted(SCRIPTS)))
def test_any_text_has_a_share(text, script):
    assert 0.0 <= language_consistency(text, script) <= 1.0
    assert language_consistency(text + " 123 !", script) == language_consistency(text, script)


@given(st.lists(st.sampled_from(["да", "one", "λ", "七"]), min_size=1), st.randoms())
def test_order_does_not_matter_and_scripts_share_the_whole(words, random):
    shares = {s: language_consistency(" ".join(words), s) for s in ("latin", "cyrillic", "greek", "chinese")}
    assert sum(shares.values()) == pytest.approx(1.0)
    random.shuffle(words)
    assert language_consistency(" ".join(words), "latin") == shares["latin"] == words.count("one") / len(words)


@pytest.mark.parametrize("part", ["x", "x ", "七", "ж!"])
def test_long_texts(part):
    start = time.monotonic()
    assert language_consistency(part * (10**6 // len(part)), "latin") == float("x" in part)
    assert time.monotonic() - start < 20.0


def test_it_is_a_reward():
    path = "lqlm.rewards.language.language_consistency"
    spec = RewardSpec("language", path, 0.5, {"script": ("latin",), "tag": "think"})
    samples = [Sample("q", t, "7", 3, False) for t in ("<think>all right</think>", "<think>так so</think>", "")]
    assert score_all(bind_all([spec], None), samples, task=None, timeout_s=5.0).total.tolist() == [0.5, 0.25, 0.0]
