import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.errors import UserError
from lqlm.io.bpe import train_bpe
from lqlm.io.datasets import DataSource, records
from lqlm.tasks.instructions import InstructionConfig, Skip, hold_out, prompts, read_examples, tokenize
from lqlm.tasks.records import PREAMBLE, PREAMBLE_INPUT, alpaca_prompt
from tests.tasks.words import Forgetful, Words

DATA = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data" / "self_instruct"
LONG = InstructionConfig()


def chat(*contents, first="user"):
    """Messages of alternating roles; an assistant's content has the form "A..."."""
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


def learned(fields, tokenizer=None, config=LONG):
    """The text and what is learned of it, of the only example of a record."""
    tokenizer = tokenizer or Words()
    (example,) = tokenize("here", fields, tokenizer, config).examples
    assert example.tokens.dtype == np.int32 and example.targets.dtype == np.bool_
    assert example.tokens.shape == example.targets.shape and not example.targets[0]
    return tokenizer.words(example.tokens), tokenizer.words(example.tokens[example.targets])


def test_of_a_conversation_the_assistants_turns_are_learned():
    text, target = learned({"messages": chat("hi", "ho", "more", "no more")})
    assert text == "<u>\nhi\n<a>\nho<e>\n<u>\nmore\n<a>\nno more<e>\n"
    assert target == "ho<e>\nno more<e>\n"
    # a turn of the user after it, and one that says nothing, are not learned
    assert learned({"messages": chat("hi", "ho", "bye")}) == ("<u>\nhi\n<a>\nho<e>\n<u>\nbye\n", "ho<e>\n")
    assert learned({"messages": chat("hi", " ", "bye", "ciao")})[1] == "ciao<e>\n"


def test_of_a_conversation_in_two_parts_the_second_is_learned():
    parts = {"prompt": chat("a", "b", "c"), "completion": chat("d", "e", "f", first="assistant")}
    assert learned(parts) == (Words().render(chat("a", "b", "c", "d", "e", "f"), False), "d<e>\nf<e>\n")


def test_plain_prompts_and_completions_stand_as_they_are():
    assert learned({"prompt": "2 + 2 =", "completion": " 4"}) == ("2 + 2 = 4<e>", " 4<e>")
    begun = learned({"prompt": "2 + 2 =", "completion": " 4"}, Words(begin=True))
    assert begun == ("<b>2 + 2 = 4<e>", " 4<e>")
    assert learned({"prompt": "a ", "completion": "b<e>"}) == ("a b<e>", "b<e>")  # not a second end token
    assert learned({"prompt": "", "completion": "a b"}) == ("a b<e>", " b<e>")


def test_instructions_become_a_conversation():
    fields = {"instruction": "add", "input": "1 2", "output": "3"}
    assert learned(fields) == ("<u>\nadd\n\n1 2\n<a>\n3<e>\n", "3<e>\n")
    for empty in ({"input": ""}, {"input": None}, {}):
        assert learned({"instruction": "add", "output": "3", **empty})[0] == "<u>\nadd\n<a>\n3<e>\n"


def test_without_a_template_instructions_are_written_as_alpaca_did():
    """The peer's text: github.com/tatsu-lab/stanford_alpaca, train.py."""
    plain = Words(template=False, begin=True)
    text, target = learned({"instruction": "add", "input": "1 2", "output": "3"}, plain)
    assert text == (
        "<b>Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nadd\n\n### Input:\n1 2\n\n### Response:\n3<e>"
    )
    assert target == "3<e>"
    assert alpaca_prompt("add") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nadd\n\n### Response:\n"
    )
    assert alpaca_prompt("add").startswith(PREAMBLE) and alpaca_prompt("add", "x").startswith(PREAMBLE_INPUT)
    assert learned({"instruction": "add", "output": "3"}, plain, InstructionConfig(system="be good"))[0].startswith(
        "<b>be good\n\n###"
    )


def test_every_instance_of_an_instruction_is_an_example():
    several = [{"input": "b a", "output": "a b"}, {"input": "1", "output": ""}, {"output": "z"}]
    tokenizer, fields = Words(), {"instruction": "sort", "instances": several, "name": "x"}
    found = tokenize("here", fields, tokenizer, LONG)
    texts = [tokenizer.words(example.tokens) for example in found.examples]
    assert texts == ["<u>\nsort\n\nb a\n<a>\na b<e>\n", "<u>\nsort\n<a>\nz<e>\n"]
    assert found.skipped == [Skip.EMPTY]
    asked = prompts("here", fields, tokenizer, LONG)
    assert [(p.text, p.reference) for p in asked] == [("<u>\nsort\n\nb a\n<a>\n", "a b"), ("<u>\nsort\n<a>\n", "z")]


def test_system_prompt():
    config = InstructionConfig(system="be good")
    assert learned({"messages": chat("hi", "ho")}, config=config)[0].startswith("<s>\nbe good<e>\n<u>\nhi")
    assert learned({"instruction": "hi", "output": "ho"}, config=config)[0].startswith("<s>\nbe good<e>\n<u>\nhi")
    own = [{"role": "system", "content": "be bad"}, *chat("hi", "ho")]
    assert learned({"messages": own}, config=config)[0].startswith("<s>\nbe bad<e>\n<u>\nhi")
    parts = {"prompt": chat("hi"), "completion": chat("ho", first="assistant")}
    assert learned(parts, config=config) == ("<s>\nbe good<e>\n<u>\nhi\n<a>\nho<e>\n", "ho<e>\n")
    parts = {"prompt": chat("a", "b"), "completion": chat("c", "d")}
    assert learned(parts, config=config)[1] == learned(parts)[1] == "d<e>\n"
    with pytest.raises(UserError, match="here: a system prompt is set"):
        learned({"prompt": "a", "completion": "b"}, config=config)


def test_everything_but_the_first_token_is_learned_if_wanted():
    config = InstructionConfig(completion_only=False)
    assert learned({"messages": chat("hi", "ho")}, config=config) == ("<u>\nhi\n<a>\nho<e>\n", "\nhi\n<a>\nho<e>\n")
    assert learned({"prompt": "a ", "completion": "b"}, config=config) == ("a b<e>", " b<e>")
    assert learned({"messages": chat("hi", "ho", "a", "b")}, Forgetful(), config)[0].count("gone") == 1


def test_a_template_without_an_end_token_gets_one():
    text, target = learned({"messages": chat("hi", "ho")}, Words(end=""))
    assert (text, target) == ("<u>\nhi\n<a>\nho\n<e>", "ho\n<e>")


def test_a_token_never_reaches_over_the_begin_of_a_completion():
    r"""The prompt ends with a line end and the completion begins with one: "\n\n" would be one token."""
    tokenizer = Words()
    fields = {"messages": chat("hi", "\nho")}
    (example,) = tokenize("here", fields, tokenizer, LONG).examples
    (asked,) = prompts("here", fields, tokenizer, LONG)
    n = len(asked.tokens)
    assert example.tokens[:n].tolist() == asked.tokens and not example.targets[:n].any() and example.targets[n:].all()
    assert tokenizer.words(example.tokens) == tokenizer.render(fields["messages"], False)


def test_a_completion_that_is_encoded_by_itself_has_no_begin_token():
    assert learned({"prompt": "a\n", "completion": "\nb"}, Words(begin=True)) == ("<b>a\n\nb<e>", "\nb<e>")


def test_a_template_that_changes_what_it_wrote_is_refused():
    with pytest.raises(UserError, match=r"here: the chat template writes the messages before message 1 in another"):
        tokenize("here", {"messages": chat("hi", "ho", "a", "b")}, Forgetful(), LONG)
    assert learned({"messages": chat("hi", "ho")}, Forgetful())[1] == "ho<e>\n"


def test_texts_are_cut_into_pieces_that_learn_each_token_once():
    tokenizer, config = Words(), InstructionConfig(max_length=4)
    words = [f"w{i}" for i in range(1, 6)]
    found = tokenize("here", {"text": " ".join(words)}, tokenizer, config)
    assert [tokenizer.words(e.tokens) for e in found.examples] == ["w1 w2 ", " w3 w4", "w4 w5<e>"]
    assert "".join(tokenizer.words(e.tokens[e.targets]) for e in found.examples) == " w2 w3 w4 w5<e>"
    assert learned({"text": "a b<e>"}) == ("a b<e>", " b<e>")


@given(st.integers(1, 40), st.integers(2, 12), st.booleans())
def test_no_token_of_a_text_is_lost(n, length, begin):
    tokenizer = Words(begin=begin)
    text = "\n".join(f"w{i}" for i in range(n))
    whole = [*tokenizer.encode(text), 0]
    found = tokenize("here", {"text": text}, tokenizer, InstructionConfig(max_length=length)).examples
    assert [t for e in found for t in e.tokens[e.targets]] == whole[1:]
    assert all(1 < len(e.tokens) <= length and e.targets[1:].all() and not e.targets[0] for e in found)


@pytest.mark.parametrize(
    ("truncation", "text", "target"),
    [("end", "<u>\nhi\n<a>\nho ho", "ho ho"), ("start", "<a>\nho ho ho<e>\n", "ho ho ho<e>\n")],
)
def test_truncation(truncation, text, target):
    config = InstructionConfig(max_length=9, truncation=truncation)
    assert learned({"messages": chat("hi", "ho ho ho")}, config=config) == (text, target)


def test_truncation_that_leaves_nothing():
    tokenizer, fields = Words(), {"messages": chat("hi", "ho ho ho")}
    for truncation, reason in (("end", Skip.NO_TARGET), ("skip", Skip.TOO_LONG)):
        config = InstructionConfig(max_length=6, truncation=truncation)
        assert tokenize("here", fields, tokenizer, config) == ([], [reason])
        with pytest.raises(UserError, match=f"there and all before it: nothing to learn from .{reason}: 2"):
            read_examples([("here", fields), ("there", fields)], tokenizer, config)
    with pytest.raises(UserError, match="here: 13 tokens, but max_length is 6"):
        tokenize("here", fields, tokenizer, InstructionConfig(max_length=6, truncation="error"))
    exact = InstructionConfig(max_length=13, truncation="error")
    assert learned(fields, config=exact)[1] == "ho ho ho<e>\n"
    # cut so that a completion is all that is left: its first token has nothing before it
    assert (
        learned({"prompt": "a ", "completion": "b c"}, config=InstructionConfig(max_length=3, truncation="start"))[1]
        == "c<e>"
    )


EMPTY = [
    {"prompt": "a", "completion": " \n"},
    {"instruction": "a", "output": ""},
    {"messages": chat("a", "")},
    {"text": " "},
    {"instruction": "a", "instances": [{"input": "b", "output": ""}]},
]


@pytest.mark.parametrize("fields", EMPTY)
def test_empty_completions_are_counted_and_only_empty_ones_are_an_error(fields):
    good = ("good", {"prompt": "a", "completion": "b"})
    found = read_examples([("bad", fields), good, ("bad", fields)], Words(), LONG)
    assert len(found.examples) == 1 and found.skipped == {"empty completion": 2}
    with pytest.raises(UserError, match=r"line 7 and all before it: nothing to learn from \(empty completion: 2\)"):
        read_examples([("line 6", fields), ("line 7", fields)], Words(), LONG)


def test_no_records():
    with pytest.raises(UserError, match=r"nothing to learn from \(no records\)"):
        read_examples([], Words(), LONG)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"no form of record has its fields \(none\); the forms are: messages; prompt and completion"),
        ({"question": "a"}, r"no form of record has its fields \(question\)"),
        ({"prompt": "a"}, r'no field "completion" \(fields: prompt\)'),
        ({"completion": "a"}, 'no field "prompt"'),
        ({"instruction": "a", "input": "b"}, 'no field "output"'),
        ({"output": "a"}, 'no field "instruction"'),
        ({"instruction": "a", "instances": [{"input": "b"}]}, r'instance 0: no field "output"'),
        ({"instruction": "a", "instances": []}, 'the field "instances" is no list'),
        ({"instruction": "a", "instances": "b"}, 'the field "instances" is no list'),
        ({"prompt": "a", "completion": None}, 'the field "completion" holds NoneType'),
        ({"prompt": 3, "completion": "a"}, 'the field "prompt" holds int'),
        ({"prompt": "a", "completion": chat("b")}, 'the field "completion" holds list'),
        ({"prompt": chat("b"), "completion": "a"}, 'the field "completion" is no list of messages'),
        ({"instruction": "a", "input": 1, "output": "b"}, 'the field "input" holds int'),
        ({"text": ["a"]}, 'the field "text" holds list'),
        ({"messages": []}, 'the field "messages" is no list'),
        ({"messages": "a"}, 'the field "messages" is no list'),
        ({"messages": ["a"]}, 'message 0 of the field "messages" has no text under "role"'),
        ({"messages": [{"role": "user", "content": None}]}, 'message 0 .* no text under "content"'),
        ({"messages": chat("a")}, 'no message has the role "assistant"'),
        ({"prompt": chat("a", "b"), "completion": chat("c")}, 'no message has the role "assistant"'),
    ],
)
def test_bad_records(fields, message):
    with pytest.raises(UserError, match=f"file, line 3.*{message}") as raised:
        tokenize("file, line 3", fields, Words(), LONG)
    assert "\n" not in str(raised.value)


def test_the_form_may_be_told():
    both = {"instruction": "a", "output": "b", "text": "c d", "question": "e", "answer": "f"}
    assert learned(both)[0] == "<u>\na\n<a>\nb<e>\n"
    assert learned(both, config=InstructionConfig(form="text"))[0] == "c d<e>"
    renamed = InstructionConfig(form="completion", prompt="question", completion="answer")
    assert learned(both, config=renamed)[0] == "ef<e>"
    with pytest.raises(UserError, match='here: no field "messages"'):
        tokenize("here", both, Words(), InstructionConfig(form="messages"))


@pytest.mark.parametrize("bad", [{"form": "chat"}, {"truncation": "left"}, {"max_length": 1}])
def test_bad_settings(bad):
    ((name, value),) = bad.items()
    with pytest.raises(UserError, match=f"{name}={value!r}"):
        InstructionConfig(**bad)


def test_prompts_are_what_stands_before_the_reference():
    tokenizer = Words(begin=True)
    (asked,) = prompts("here", {"messages": chat("a", "b", "c", "d", "e")}, tokenizer, LONG)
    assert (asked.text, asked.reference) == (tokenizer.render(chat("a", "b", "c")), "d")
    assert asked.tokens == tokenizer.encode_more(asked.text)  # the template writes all special tokens
    (asked,) = prompts("here", {"prompt": "a", "completion": "b"}, tokenizer, LONG)
    assert (asked.tokens, asked.reference) == (tokenizer.encode("a"), "b")
    assert prompts("here", {"prompt": "a", "completion": " "}, tokenizer, LONG) == []
    with pytest.raises(UserError, match="here: a plain text asks for no completion"):
        prompts("here", {"text": "a"}, tokenizer, LONG)


@given(st.integers(1, 30), st.integers(0, 40), st.integers(0, 3))
def test_holding_out(n, held, seed):
    items = [f"item {i}" for i in range(n)]
    if held >= n:
        with pytest.raises(UserError, match=f"{held} records to hold out of {n}"):
            hold_out(items, held, seed)
        return
    train, heldout = hold_out(items, held, seed)
    assert len(heldout) == held and sorted(train + heldout) == sorted(items)
    assert train == [x for x in items if x in train] and heldout == [x for x in items if x in heldout]
    assert hold_out(items, held, seed) == (train, heldout)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    texts = ["What is the sum of 2 and 3? It is 5.\n", "Write a poem about the sea.\n\nThe sea, the sea."] * 3
    return train_bpe(texts, 300, tmp_path_factory.mktemp("tokenizer"))


@given(st.lists(st.text(max_size=12), min_size=2, max_size=6))
def test_a_real_tokenizer_gives_the_tokens_of_its_template(trained, contents):
    """Of a conversation of any text, tokens are the template's and targets decode to the assistant's turns."""
    messages = chat(*contents)
    found = tokenize("here", {"messages": messages}, trained, LONG)
    wanted = [m["content"] for m in messages if m["role"] == "assistant"]
    if not any(text.strip() for text in wanted):
        assert found.skipped == [Skip.EMPTY]
        return
    (example,) = found.examples
    assert trained.decode(example.tokens, skip_special=False) == trained.render(messages, False)
    target = trained.decode(example.tokens[example.targets], skip_special=False)
    assert target == "".join(f"{text}<|im_end|>\n" for text in wanted if text.strip())
    if not any(text.startswith("\n") for text in wanted):
        assert example.tokens.tolist() == trained.chat(messages, add_generation_prompt=False)


@pytest.mark.skipif(not DATA.exists(), reason="the Self-Instruct files are not in ../shared/data/self_instruct")
def test_real_instructions(trained):
    config = InstructionConfig(max_length=16384, truncation="error")
    for name, count in (("seed_tasks", 175), ("user_oriented_instructions", 252)):
        source = DataSource(str(DATA / f"{name}.jsonl.gz"))
        found = read_examples(records(source), trained, config)
        assert len(found.examples) == count and found.skipped == {}
        asked = [p for where, fields in records(source) for p in prompts(where, fields, trained, config)]
        for example, prompt in zip(found.examples, asked, strict=True):
            target = trained.decode(example.tokens[example.targets], skip_special=False)
            assert target == f"{prompt.reference}<|im_end|>\n"
            assert example.tokens[: len(prompt.tokens)].tolist() == prompt.tokens
