"""A trained model as a player: at the table, and held against the decisions of others."""

import dataclasses
import functools
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np

from experiments import trained
from experiments.decoding import make_sampler, texts_of
from experiments.poker.ask import AskSettings, Scorer, tokens_of
from experiments.poker.files import fingerprint
from experiments.settings import ModelSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.errors import UserError
from lqlm.generation.rollout import check_context, pad_prompts, round_up
from lqlm.generation.sampling import SamplingConfig
from lqlm.io.load import LoadedModel
from lqlm.io.peft import load_peft
from lqlm.poker.answers import act_of, write_answer
from lqlm.poker.arena.actions import BlindChoices
from lqlm.poker.arena.features import CLASSES, Known, size_in_pots
from lqlm.poker.arena.language import LanguageAgent, TextAgent, action_probabilities
from lqlm.poker.policy import Question, Shapes, answer_logprobs, legal_answers, score_questions
from lqlm.poker.profiles import Profile, Profiles
from lqlm.poker.replay import Decision, replay
from lqlm.poker.state import State, names_of, state_of
from lqlm.types import PyTree


@dataclasses.dataclass(frozen=True)
class AgentSettings:
    """A model at the table.

    Attributes:
        model: which, and how it is held.
        adapter: a PEFT directory; empty: none.
        ask: how decisions are put into words.
        shapes: what arrays are padded to; one row at the table, where there is one decision at a time.
        temperature: of the probabilities of the legal answers; small: the best one.
        chunk: tokens whose logits are held at once.
        merge: play from one dense copy of the linear layers, the adapter merged in; else as the model is held.
    """

    model: ModelSettings = ModelSettings()
    adapter: str = ""
    ask: AskSettings = AskSettings()
    shapes: Shapes = Shapes()
    temperature: float = 1.0
    chunk: int = 1024
    merge: bool = True

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if self.temperature <= 0:
            raise UserError(f"temperature is {self.temperature}; give more than 0, a little for the best answer only")


@dataclasses.dataclass(frozen=True)
class Player:
    """A model that is loaded, ready to play and to be held against decisions.

    Attributes:
        settings: of the model and its words.
        model: with its tokenizer.
        policy: base and adapters to compute with.
        scorer: of answers, many questions at once.
    """

    settings: AgentSettings
    model: LoadedModel
    policy: tuple[PyTree, PyTree | None]
    scorer: Scorer

    def agent(self, profiles: Mapping[str, Profile] | None = None) -> LanguageAgent:
        """For the table: it draws from the probabilities of the legal answers, so that nothing illegal can come out.

        Args:
            profiles: of players by name, from the hands so far, where habits are told; whoever plays the hands adds
                to them.  None: habits are not told.
        """
        one = dataclasses.replace(self.scorer, shapes=dataclasses.replace(self.settings.shapes, rows=1))
        ask = self.settings.ask
        told = profiles if "habits" in ask.features else None
        menu, temperature = BlindChoices(ask.choices), self.settings.temperature
        return LanguageAgent(one, menu, view=ask.view, write=ask.prompt, temperature=temperature, profiles=told)

    def text_agent(self, sampling: SamplingConfig, seed: int = 0) -> TextAgent:
        """For the table: it writes its answer, greedily or sampled; what is illegal the table maps and counts."""
        sample, ask = make_sampler(self.model, sampling, 1), self.settings.ask
        tokenizer, multiple = self.model.tokenizer, self.settings.shapes.prompt

        def answer(prompt: str) -> str:
            tokens, _ = tokens_of(ask.record(prompt, "fold"), tokenizer)
            check_context(len(tokens), sampling.max_new_tokens, self.model.config.max_positions, "a prompt")
            padded = pad_prompts([tokens], round_up(len(tokens), multiple), tokenizer.pad_id)
            # The same prompt draws the same text: an agent keeps no state between decisions.
            key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(prompt.encode()))
            return texts_of(tokenizer, sample(*self.policy, *padded, key))[0][0]

        return TextAgent(answer, ask.view, ask.prompt)

    def predictions(self, hands: Iterable[Known]) -> tuple[np.ndarray, np.ndarray]:
        """Every decision of a seat whose cards are known, in the order of ``decision_table``.

        Returns:
            float64 ``[rows, 5]``, probabilities of fold, check, call, bet and raise; and float64 ``[rows]``, the size
            in pots of the most probable bet or raise (0 where none is allowed).
        """
        asked = list(_decisions(hands, self.settings.ask))
        prompts = [self.settings.ask.prompt(state) for _, state, _ in asked]
        answers = [tuple(map(write_answer, legal_answers(state))) for _, state, _ in asked]
        scores = self.scorer(prompts, answers)
        rows = [_prediction(*one, logprobs, self.settings.temperature) for one, logprobs in zip(asked, scores)]
        table = np.array(rows, np.float64).reshape(-1, len(CLASSES) + 1)
        return table[:, :-1], table[:, -1]

    def words(self, hands: Iterable[Known], rows: int = 64) -> np.ndarray:
        """Probabilities of the five words alone, from the tokens of the words without any size: much faster.

        ``p(word) = p(its tokens | prompt) / sum over the legal words``: answers begin with their word, so this differs
        from :meth:`predictions` only by what the model gives to sizes that are not among the choices.

        Args:
            hands: as for :meth:`predictions`, and in the same order.
            rows: prompts that are scored at once.

        Returns:
            float64 ``[rows, 5]``.
        """
        states = [state for _, state, _ in _decisions(hands, self.settings.ask)]
        named = [(*state.legal, *(["all-in"] if state.all_in else [])) for state in states]
        asked = [self._words_of(state, words) for state, words in zip(states, named)]
        shapes = Shapes(rows=rows, prompt=16, answers=4, tokens=max(len(a) for q in asked for a in q.answers))
        scores = score_questions(self.scorer.score, asked, shapes, self.scorer.pad_id)
        table = np.zeros((len(states), len(CLASSES)))
        for row, state, words, logprobs in zip(table, states, named, scores):
            for word, chance in zip(words, action_probabilities(logprobs, self.settings.temperature)):
                row[CLASSES.index(state.legal[-1] if word == "all-in" else word)] += chance
        return table

    def _words_of(self, state: State, words: Sequence[str]) -> Question:
        """The words as answers: the tokens that they begin with, whatever follows."""
        prompt = self.settings.ask.prompt(state)
        tokens, _ = tokens_of(self.settings.ask.record(prompt, words[0]), self.scorer.tokenizer)
        template = self.settings.ask.template
        return Question(tokens, [self._beginning(prompt, _begins(template, word)) for word in words])

    def _beginning(self, prompt: str, text: str) -> list[int]:
        """The tokens that a text begins with whether it ends there or goes on."""
        ended, longer = (self.scorer.tail(prompt, more) for more in (text, f"{text} 1"))
        return [token for token, other in zip(ended, longer) if token == other]


def _begins(template: str, word: str) -> str:
    """How an answer of a template begins."""
    if template != "paper":
        return word
    return "You should go all-in" if word == "all-in" else f"You should {word}"


def _decisions(hands: Iterable[Known], ask: AskSettings) -> Iterator[tuple[Decision, State, int]]:
    profiles = Profiles()
    for _, hand, known in hands:
        played = replay(hand)
        habits = names_of(hand, profiles.of) if "habits" in ask.features else None
        for decision in played.decisions:
            if decision.seat in known:
                state = state_of(hand, decision, known[decision.seat], ask.view, profiles=habits)
                yield decision, state, hand.money.decimals
        if habits is not None:
            profiles.add(hand, played)


def _prediction(
    decision: Decision, state: State, decimals: int, logprobs: np.ndarray, temperature: float
) -> list[float]:
    """Probabilities of the five words, and the size of the most probable bet or raise."""
    row, best, size = dict.fromkeys(CLASSES, 0.0), 0.0, 0.0
    for answer, chance in zip(legal_answers(state), action_probabilities(logprobs, temperature)):
        word = state.legal[-1] if answer.word == "all-in" else answer.word
        row[word] += float(chance)
        if word in ("bet", "raise") and chance > best:
            best, size = float(chance), size_in_pots(decision, act_of(answer, decision, decimals).amount)
    return [*row.values(), size]


def open_player(settings: AgentSettings) -> Player:
    """Load a model and its adapter; nothing is compiled before the first question.

    Raises:
        UserError: when model or adapter cannot be read.
    """
    model = trained.load(settings.model, LoraConfig())
    adapters, kind = load_peft(settings.adapter, model.config) if settings.adapter else (None, LoraConfig())
    merge = settings.merge and (settings.model.quantize or adapters is not None)
    policy = trained.policy(kind, merge)(trained.products(model.base, settings.model), adapters)
    scorer = Scorer(
        tokenizer=model.tokenizer,
        score=_scoring(policy, model, settings.chunk),
        ask=settings.ask,
        shapes=settings.shapes,
        pad_id=model.tokenizer.pad_id,
        limit=model.config.max_positions,
        name=_name(settings, model.checksum),
    )
    return Player(settings, model, policy, scorer)


def _scoring(policy: tuple[PyTree, PyTree | None], model: LoadedModel, chunk: int) -> Callable[..., jax.Array]:
    compiled = jax.jit(functools.partial(answer_logprobs, cfg=model.config, chunk=chunk))
    return lambda *arrays: compiled(*policy, *arrays)


def _name(settings: AgentSettings, checksum: str) -> str:
    """What model, adapter and words are, in a few letters."""
    files = sorted(pathlib.Path(settings.adapter).glob("*")) if settings.adapter else []
    contents = [zlib.crc32(file.read_bytes()) for file in files if file.is_file()]
    plain = {**dataclasses.asdict(settings), "adapter": contents}
    return fingerprint([plain, checksum])
