"""The panel of experts: who is asked what, who leaves, and what is counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.errors import UserError
from lqlm.generation.panel import LEAVE, PanelConfig, Reply, discuss, majority


class Script:
    """Answers by a function of (round, expert), and remembers what was asked."""

    def __init__(self, says):
        self.says, self.asked = says, []

    def __call__(self, conversations):
        self.asked.append(conversations)
        number = len(self.asked) - 1
        experts = [int(c[0]["content"].split()[3]) for c in conversations]
        return [Reply(self.says(number, expert), 10 + expert) for expert in experts]


def test_each_sees_the_steps_of_all_but_not_those_of_its_own_round():
    script = Script(lambda number, expert: f"step {number} of {expert}")
    (panel,) = discuss(["What is 2 + 2?"], script, PanelConfig(experts=2, rounds=2))
    first, second, last = script.asked
    assert "Steps so far" not in first[1][1]["content"]
    assert "Expert 1: step 0 of 1\nExpert 2: step 0 of 2" in second[0][1]["content"]
    assert "step 1 of 1" not in second[1][1]["content"] and "step 1 of 1" in last[1][1]["content"]
    assert all("What is 2 + 2?" in c[1]["content"] for asked in script.asked for c in asked)
    assert panel.answers == {1: "step 2 of 1", 2: "step 2 of 2"} and panel.tokens == 3 * (11 + 12)


def test_who_is_wrong_leaves_and_is_not_asked_again():
    script = Script(lambda number, expert: LEAVE if (number, expert) == (0, 2) else str(expert))
    (panel,) = discuss(["q"], script, PanelConfig(experts=3, rounds=2))
    assert panel.present == [1, 3] and set(panel.answers) == {1, 3}
    assert [len(asked) for asked in script.asked] == [3, 2, 2]
    assert all(expert != 2 for expert, _ in panel.steps)


def test_the_last_one_stays():
    (panel,) = discuss(["q"], Script(lambda *_: LEAVE), PanelConfig(experts=3, rounds=3))
    assert panel.present == [3] and set(panel.answers) == {3}


def test_panels_do_not_see_each_other():
    script = Script(lambda number, expert: f"{number}")
    panels = discuss(["first", "second"], script, PanelConfig(experts=1, rounds=1))
    assert [panel.question for panel in panels] == ["first", "second"]
    assert "second" not in script.asked[1][0][1]["content"]


@given(st.lists(st.none() | st.sampled_from("abc"), max_size=8))
def test_majority_is_a_most_frequent_answer(answers):
    winner, given_ones = majority(answers), [a for a in answers if a is not None]
    if not given_ones:
        assert winner is None
    else:
        assert given_ones.count(winner) == max(map(given_ones.count, given_ones))


@pytest.mark.parametrize("wrong", [{"experts": 0}, {"rounds": -1}])
def test_an_impossible_panel_is_refused(wrong):
    with pytest.raises(UserError, match="experts >= 1 and rounds >= 0"):
        PanelConfig(**wrong)
