"""A tokenizer of words, small enough to read the tokens off."""

import re
from collections.abc import Mapping, Sequence

EOS, BOS = "<e>", "<b>"
_WORD = re.compile(r"<e>|<b>|<u>|<a>|<s>|\n+|[^\s<]+|[ <]")


class Words:
    """Words, runs of line ends and single blanks are tokens; ids are given as they come.

    A run of line ends is one token, so that a text that begins with one merges with a prompt that ends with one.
    """

    def __init__(self, template: bool = True, end: str = EOS, begin: bool = False):
        self.names = [EOS, BOS]
        self.eos_ids, self.has_chat_template = (0,), template
        self.end, self.begin = end, begin

    def encode_more(self, text: str) -> list[int]:
        found = _WORD.findall(text)
        assert "".join(found) == text
        self.names += [word for word in dict.fromkeys(found) if word not in self.names]
        return [self.names.index(word) for word in found]

    def encode(self, text: str) -> list[int]:
        return [1] * self.begin + self.encode_more(text)

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        turns = [f"<{m['role'][0]}>\n{m['content']}{self.end if m['role'] != 'user' else ''}\n" for m in messages]
        return "".join(turns) + "<a>\n" * add_generation_prompt

    def words(self, ids: Sequence[int]) -> str:
        return "".join(self.names[i] for i in ids)


class Forgetful(Words):
    """A template that leaves the answers before the last one out, as some do with what was thought."""

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        last = len(messages) - 1
        kept = [
            {**m, "content": "gone" if m["role"] == "assistant" and i < last else m["content"]}
            for i, m in enumerate(messages)
        ]
        return super().render(kept, add_generation_prompt)
