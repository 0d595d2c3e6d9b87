"""BLEU and ROUGE: how many words of a reference a text repeats, in order.

Computed by the reference implementations, sacrebleu and rouge-score, with their default settings.  The scores of a
corpus are for evaluation; those of one completion are rewards (see :mod:`lqlm.rewards.functions` for their arguments).
"""

import functools
from collections.abc import Sequence

import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from lqlm.errors import UserError

ROUGE = ("rouge1", "rouge2", "rougeL")


def corpus_bleu(completions: Sequence[str], references: Sequence[str]) -> float:
    """BLEU of a corpus, 0 to 100: 100 BP (p1 p2 p3 p4)^(1/4) (Papineni et al. 2002; sacrebleu, Post 2018).

    p_n is the share of n-grams that are in the reference too, BP = min(1, exp(1 - |references| / |completions|)) in
    words.  Counts are summed over the corpus, so the mean of sentence scores is another number.

    Args:
        completions: n texts.
        references: n texts, one for each.

    >>> corpus_bleu(["the cat sat on the mat"], ["the cat sat on the mat"])
    100.0
    """
    _check(completions, references)
    return min(100.0, float(sacrebleu.corpus_bleu(list(completions), [list(references)]).score))


def corpus_rouge(completions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Means of ROUGE-1, ROUGE-2 and ROUGE-L, F1, 0 to 1 (Lin 2004), under "rouge1", "rouge2" and "rougeL".

    Words are runs of a-z and 0-9 in lower case, without stemming: texts in other scripts have none and score 0.

    Args:
        completions: n texts.
        references: n texts, one for each.
    """
    _check(completions, references)
    scores = [_rouge(c, r) for c, r in zip(completions, references, strict=True)]
    return {name: sum(score[name] for score in scores) / len(scores) for name in ROUGE}


def bleu(completion: str, answer: str) -> float:
    """BLEU of one text, 0 to 1, over as many orders of n-grams as it has; those not found at all are smoothed.

    >>> bleu("the cat", "the cat")
    1.0
    """
    return min(1.0, sacrebleu.sentence_bleu(completion, [answer]).score / 100)


def rouge_1(completion: str, answer: str) -> float:
    """ROUGE-1 of one text, 0 to 1: F1 of the words that both have.

    >>> rouge_1("the cat", "the cat sat on the mat")
    0.5
    """
    return _rouge(completion, answer)["rouge1"]


def rouge_2(completion: str, answer: str) -> float:
    """ROUGE-2 of one text, 0 to 1: F1 of the pairs of neighbouring words that both have."""
    return _rouge(completion, answer)["rouge2"]


def rouge_l(completion: str, answer: str) -> float:
    """ROUGE-L of one text, 0 to 1: F1 of the longest sequence of words that both have in the same order.

    >>> rouge_l("sat the cat", "the cat sat")  # two of three words
    0.6666666666666666
    """
    return _rouge(completion, answer)["rougeL"]


def _rouge(completion: str, answer: str) -> dict[str, float]:
    return {name: float(score.fmeasure) for name, score in _scorer().score(answer, completion).items()}


@functools.cache
def _scorer() -> RougeScorer:
    return RougeScorer(list(ROUGE))


def _check(completions: Sequence[str], references: Sequence[str]) -> None:
    if not completions or len(completions) != len(references):
        raise UserError(
            f"overlap: {len(completions)} completions and {len(references)} references; give one for each, at least one"
        )
