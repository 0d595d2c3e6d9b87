"""Rewards of form: reasoning and answer in tags of their own, as R1 asks for (arXiv:2501.12948, section 2.2.2).

A form that is never sampled teaches nothing: look at the score before training, and give the graded reward or a cold
start where it is 0.
"""

from lqlm.tasks.think import ThinkFormat


def think_format(completion: str, think_tag: str = "think", answer_tag: str = "answer") -> float:
    """1 for a completion that is one ``<think>...</think>``, then one ``<answer>...</answer>``, and nothing else.

    Blanks between and around the tags are allowed, blank contents are not; a tag that is repeated, also inside of the
    reasoning, gives 0, as does an empty completion.

    Args:
        completion: text of the model.
        think_tag: name of the reasoning's tag.
        answer_tag: name of the answer's tag.

    >>> think_format("<think>3 + 4 is 7.</think> <answer>7</answer>"), think_format("<answer>7</answer>")
    (1.0, 0.0)
    """
    return float(ThinkFormat(think_tag, answer_tag).sections(completion) is not None)


def tag_count(completion: str, think_tag: str = "think", answer_tag: str = "answer") -> float:
    """``1/4 sum over the four tags of [the tag is there exactly once]``: the graded form.

    It does not look at order or contents, so it is to be added to `think_format`, not to replace it.  Unlike the
    `tag_count_reward` of open-r1 it asks for no line breaks around the tags.

    Args:
        completion: text of the model; an empty one gives 0.
        think_tag: name of the reasoning's tag.
        answer_tag: name of the answer's tag.

    >>> tag_count("<think>3 + 4 is 7. <answer>7</answer>"), tag_count("7")
    (0.75, 0.0)
    """
    return sum(completion.count(tag) == 1 for tag in ThinkFormat(think_tag, answer_tag).tags) / 4
