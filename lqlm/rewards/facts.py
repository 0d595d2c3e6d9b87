"""Rewards of facts: a completion against a key of accepted answers, with SQuAD's normalisation and scores.

SQuAD: Rajpurkar et al. 2016, arXiv:1606.05250.  The key is the sample's reference answer; with `separator` it holds
several, as in ``"Neil Armstrong|Armstrong"``.  `tag` names the tag whose content is compared instead of the whole text.
"""

import collections
import re
import string

from lqlm.tasks.think import tag_content

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalized(text: str) -> str:
    """SQuAD's normalisation: lower case, no ASCII punctuation, no English articles, single blanks.

    An article that is the whole text stays, so that the answer "A" of a choice is something.

    >>> normalized("The  Eiffel Tower!"), normalized("A")
    ('eiffel tower', 'a')
    """
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split()) or " ".join(bare.split())


def _said(completion: str, tag: str | None) -> str:
    return normalized(completion if tag is None else tag_content(completion, tag) or "")


def _key(answer: str, separator: str | None) -> list[str]:
    facts = [normalized(part) for part in (answer.split(separator) if separator else [answer])]
    if not any(facts):
        raise ValueError(f"the reference answer {answer[:40]!r} holds no word to compare with; mend the data")
    return [fact for fact in facts if fact]


def exact_match(completion: str, answer: str, separator: str | None = None, tag: str | None = None) -> float:
    """1 when the completion, normalised, is one of the accepted answers: ``max_k [norm(y) = norm(a_k)]``.

    Args:
        completion: text of the model; an empty one gives 0.
        answer: the accepted answers.
        separator: what stands between two of them; None: there is one.
        tag: compare the content of this tag; 0 without it.

    >>> exact_match("The Eiffel Tower.", "Eiffel tower|La tour Eiffel", separator="|")
    1.0
    """
    return float(_said(completion, tag) in _key(answer, separator))


def token_f1(completion: str, answer: str, separator: str | None = None, tag: str | None = None) -> float:
    """``max_k 2 P R / (P + R)`` with P, R the shares of normalised words that completion and answer k have in common.

    Args:
        completion: text of the model; an empty one gives 0.
        answer: the accepted answers.
        separator: what stands between two of them; None: there is one.
        tag: compare the content of this tag; 0 without it.

    >>> token_f1("in the city of Paris", "Paris, France")  # 1 of 4 words, 1 of 2
    0.3333333333333333
    """
    said = collections.Counter(_said(completion, tag).split())
    scores = []
    for fact in _key(answer, separator):
        words = collections.Counter(fact.split())
        scores.append(2 * (said & words).total() / (said.total() + words.total()))
    return max(scores)


def mentions(completion: str, answer: str, separator: str | None = None, tag: str | None = None) -> float:
    """1 when an accepted answer stands somewhere in the completion, as whole words in a row.

    A completion that names every answer earns it too: use it for evaluation, or with a price on length.

    Args:
        completion: text of the model; an empty one gives 0.
        answer: the accepted answers.
        separator: what stands between two of them; None: there is one.
        tag: look into the content of this tag; 0 without it.

    >>> mentions("I think it was Neil Armstrong, in 1969.", "Armstrong"), mentions("Armstrongs", "Armstrong")
    (1.0, 0.0)
    """
    said = f" {_said(completion, tag)} "
    return float(any(f" {fact} " in said for fact in _key(answer, separator)))


def facts_recalled(completion: str, answer: str, separator: str = "|", tag: str | None = None) -> float:
    """Share of the key's facts that stand in the completion: ``1/K sum_k [norm(a_k) in norm(y)]``.

    Args:
        completion: text of the model; an empty one gives 0.
        answer: the facts, all of which are asked for.
        separator: what stands between two of them.
        tag: look into the content of this tag; 0 without it.

    >>> facts_recalled("Built in 1889 by G. Eiffel.", "1889|Eiffel|Paris|324 m")
    0.5
    """
    said, facts = f" {_said(completion, tag)} ", _key(answer, separator)
    return sum(f" {fact} " in said for fact in facts) / len(facts)
