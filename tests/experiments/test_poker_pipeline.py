"""From own logs to a measured agent on the smallest model: stages that are done once, and the agent at the table."""

import dataclasses
import json
import pathlib
import shutil
import types

import numpy as np
import pytest

from experiments.configdict import as_config, from_config
from experiments.poker import measure, pipeline
from experiments.poker.agent import AgentSettings, AskSettings, open_player
from experiments.poker.pipeline_settings import (
    EvaluateSettings,
    LogSettings,
    PipelineExperiment,
    SelectSettings,
    TrainSettings,
)
from experiments.poker.self_play import play_session
from experiments.poker.stages import run_stages
from experiments.settings import ModelSettings
from experiments.sft.settings import RunSettings, ScratchSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.errors import UserError
from lqlm.generation.sampling import SamplingConfig
from lqlm.io.monitor import CompilationCounter
from lqlm.optim.chains import OptimConfig
from lqlm.poker.arena.bots import CallBot
from lqlm.poker.arena.features import CLASSES, decision_table
from lqlm.poker.arena.match import play_match
from lqlm.poker.arena.rules import Rules
from lqlm.poker.arena.table import deal, play_hand
from lqlm.poker.compact import read_compact
from lqlm.poker.pokerstars import parse, render
from lqlm.poker.policy import Shapes
from lqlm.poker.record import known_cards
from lqlm.poker.replay import replay, validate
from lqlm.poker.state import state_of
from lqlm.poker.stream import Read, read_hands
from tests.experiments.tiny_model import save_model

STAGES = ["logs", "hands", "selected", "prompts", "records", "sft", "evaluate"]
LAST = ("evaluate", "notes/evaluate.json")  # seconds are measured there


def tiny(workdir, **changes):
    run = RunSettings(steps=3, rows=2, eval_every=0, eval_batch=4, checkpoint_every=2, samples=0)
    settings = PipelineExperiment(
        workdir=str(workdir),
        logs=LogSettings(sessions=12, hands=2, seats=3),
        select=SelectSettings(min_hands=1, train=0.5, valid=0.25),
        sft=TrainSettings(
            model=ScratchSettings(vocab_size=300, layers=2, width=32, ffn=48, max_positions=288),
            heldout=8,
            max_length=256,
            run=run,
        ),
        evaluate=EvaluateSettings(opponents=("call",), hands=4, samples=8, rounds=2, shapes=Shapes(rows=4)),
    )
    return dataclasses.replace(settings, **changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished pipeline."""
    settings = tiny(tmp_path_factory.mktemp("poker") / "run")
    assert pipeline.run_pipeline(settings) == STAGES
    return settings


@pytest.fixture(scope="module")
def player(made):
    return pipeline.player(made)


def below(settings, name=""):
    return pathlib.Path(settings.workdir) / name


def prompts_of(settings):
    return rows(below(settings, "prompts/train.jsonl"))


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(folder, without=()):
    """Results by name; what tells times and seconds is left out."""
    names = (
        "*.txt",
        "selected/*.jsonl",
        "hands/*.jsonl",
        "prompts/*.jsonl",
        "records/*.jsonl",
        "sft/model/*",
        "notes/*",
    )
    found = {path.relative_to(folder): path for name in names for path in folder.glob(f"**/{name}") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in found.items() if not str(name).startswith(without)}


def test_every_stage_leaves_its_files(made):
    folder = below(made)
    hands = list(read_hands([folder / "logs"]))
    assert len(hands) == 24 and all(isinstance(item, Read) for item in hands)
    counts = {part: len(rows(folder / "prompts" / f"{part}.jsonl")) for part in ("train", "valid", "test")}
    assert min(counts.values()) > 0
    record, row = rows(folder / "records/train.jsonl")[0], rows(folder / "prompts/train.jsonl")[0]
    assert record == {"prompt": row["prompt"] + "\n", "completion": row["completion"]}
    assert read_compact(row["prompt"]).me == row["seat"]
    found = json.loads((folder / "evaluate/evaluate.json").read_text())
    (match,) = found["matches"]
    assert (match["hero"], match["against"], match["hands"], match["illegal"]) == ("model", "call", 4, 0)
    assert [row["predictor"] for row in found["agreement"]][0::4] == ["majority", "model"]
    assert found["agreement"][-1]["decisions"] == counts["test"]
    assert "model - 1 x call" in (folder / "evaluate/table.txt").read_text()


def test_what_is_deleted_is_made_again_with_the_same_bytes(made, capsys):
    folder = below(made)
    before = contents(folder, LAST)
    assert pipeline.run_pipeline(made) == [] and "agreement, 95%" in capsys.readouterr().out
    gone = ("logs/session-0003.txt", "hands/hands-000002.jsonl", "selected/valid.jsonl", "prompts/train.jsonl")
    for name in (*gone, "records/train.jsonl", "sft/model/model.safetensors"):
        (folder / name).unlink()
    assert pipeline.run_pipeline(made) == STAGES[:-1]
    assert contents(folder, LAST) == before
    (folder / "notes/prompts.json").unlink()  # killed between the stage and its note
    assert pipeline.run_pipeline(made) == ["prompts"]
    assert contents(folder, LAST) == before


def test_other_settings_want_another_folder(made):
    other = dataclasses.replace(made, ask=AskSettings(template="paper"))
    with pytest.raises(UserError, match=r"prompts was made with other settings or inputs"):
        pipeline.run_pipeline(other)
    longer = dataclasses.replace(made, evaluate=dataclasses.replace(made.evaluate, hands=6))  # costs nothing but time
    assert pipeline.run_pipeline(longer) == ["evaluate"] == pipeline.run_pipeline(made)


def test_own_logs_are_the_same_hands_after_parsing():
    settings = LogSettings(hands=12, seats=4, bots=("tight", "random"))
    hands = play_session(settings, 3, 1)
    for hand in hands:
        validate(hand)
        assert dataclasses.replace(parse(render(hand)), site=hand.site) == hand
    assert len({hand.hand_id for hand in hands}) == 12 and {hand.table.button for hand in hands} == {1, 2, 3, 4}
    assert play_session(settings, 3, 1) == hands and play_session(settings, 4, 1) != hands
    assert {hand.session for hand in play_session(settings, 3, 2)}.isdisjoint(hand.session for hand in hands)


def test_predictions_are_distributions_over_what_is_legal(made, player):
    hands = list(measure.known_hands(below(made, "selected/test.jsonl")))
    probabilities, sizes = player.predictions(hands)
    table = decision_table(hands, lambda hole, board: 0.5)
    assert probabilities.shape == (len(table.labels), len(CLASSES))
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert (probabilities[~table.legal] == 0).all() and (probabilities[table.legal] > 0).all()
    raising = table.legal[:, 3] | table.legal[:, 4]
    assert (sizes[raising] > 0).all() and (sizes[~raising] == 0).all()


def test_the_tokens_of_a_question_are_those_of_training(made, player):
    prompt = rows(below(made, "prompts/train.jsonl"))[0]["prompt"]
    question = player.scorer.question(prompt, ["You should raise to 300.", "fold"])
    tokenizer = player.model.tokenizer
    assert tokenizer.decode(question.prompt) == prompt + "\n"
    assert [tokenizer.decode(answer) for answer in question.answers] == ["raise 300", "fold"]
    assert all(answer[-1] in tokenizer.eos_ids for answer in question.answers)
    with pytest.raises(UserError, match="exceed the model's context of 288"):
        player.scorer.question(prompt * 4, ["fold"])


def test_the_agent_of_probabilities_is_never_illegal(player):
    match = play_match(Rules(), player.agent(), [CallBot()], 2, 0, samples=4)
    assert match.illegal == 0 and match.decisions > 0


def test_another_question_at_the_table_compiles_nothing(made, player):
    score = player.agent().score
    found = {row["prompt"]: len(score.question(row["prompt"], ["fold"]).prompt) for row in prompts_of(made)}
    first, *others = [prompt for prompt, length in found.items() if 64 < length <= 128]
    score([first], [("fold", "call")])
    lengths = {found[prompt] for prompt in others[:5]}
    with CompilationCounter() as counter:
        for prompt in others[:5]:
            score([prompt], [("check", "bet 100", "all-in")])
    assert len(lengths) > 1 and counter.total == 0


def test_the_table_asks_as_the_logs_do(player):
    """What is asked during a hand is what ``prompts`` writes of its log."""
    asked = []

    def score(prompts, answers):
        asked.extend(prompts)
        return [np.zeros(len(several)) for several in answers]

    agent = dataclasses.replace(player.agent(), score=score)
    for number in range(4):
        rngs = [np.random.default_rng([number, at]) for at in range(3)]
        played = play_hand(Rules(), [agent] * 3, deal(np.random.default_rng(number), 3, 2), rngs, hand_id="7")
        hand = parse(render(played.hand))
        view, cards = player.settings.ask.view, known_cards(hand)
        states = [state_of(hand, decision, cards[decision.seat], view) for decision in replay(hand).decisions]
        assert asked == [player.settings.ask.prompt(state) for state in states]
        asked.clear()


def test_text_of_an_untrained_model_is_mapped_and_counted(player):
    match = play_match(Rules(), player.text_agent(SamplingConfig(max_new_tokens=4)), [CallBot()], 2, 0, samples=4)
    assert 0 < match.illegal <= match.decisions


def test_a_model_is_asked_in_its_chat_template(model):
    settings = AgentSettings(ModelSettings(source=str(model)), ask=AskSettings(chat=True), shapes=Shapes(rows=2))
    found = open_player(settings)
    question = found.scorer.question("me 1", ["call"])
    text = found.model.tokenizer.decode(question.prompt, skip_special=False)
    assert text == "<|im_start|>u\nme 1<|im_end|><|im_start|>a\n"
    # A match is kept in a file under the names of its agents, and played again when these change.
    names = {repr(open_player(dataclasses.replace(settings, temperature=t)).agent().score) for t in (1.0, 2.0)}
    assert len(names | {repr(found.scorer)}) == 2


@pytest.mark.slow
def test_an_adapter_of_a_model_in_4_bits(made, tmp_path):
    """All of it but the matches; the agent plays with the adapter, not with the model alone."""
    model = save_model(tmp_path / "model", max_position_embeddings=512)
    train = dataclasses.replace(
        made.sft,
        model=ModelSettings(source=str(model)),
        adapter=LoraConfig(rank=2, alpha=4.0),
        max_length=320,
        limit=20,
        optim=OptimConfig(learning_rate=0.05),
    )
    settings = dataclasses.replace(made, workdir=str(tmp_path / "run"), sft=train, ask=AskSettings(chat=True))
    shutil.copytree(below(made, "logs"), below(settings, "logs"))
    assert run_stages(below(settings), pipeline.stages(settings)[:-1]) == STAGES[:-1]
    (hand, *_) = measure.known_hands(below(settings, "selected/test.jsonl"))
    player = pipeline.player(settings)
    with_adapter, _ = player.predictions([hand])
    without, _ = open_player(dataclasses.replace(player.settings, adapter="")).predictions([hand])
    np.testing.assert_allclose(with_adapter.sum(1), 1)
    assert abs(with_adapter - without).max() > 1e-3


def test_settings_to_a_config_and_back(tmp_path):
    settings = tiny(tmp_path, logs=LogSettings(source=("a", "b")))
    assert from_config(PipelineExperiment, as_config(settings)) == settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogSettings(bots=("nobody",)), "give some of random, call"),
        (lambda: LogSettings(seats=11), "2-10"),
        (lambda: EvaluateSettings(opponents=()), "evaluate.opponents"),
        (lambda: EvaluateSettings(hands=0), "give 1 or more"),
        (lambda: SelectSettings(train=0.9, valid=0.2), "shares"),
        (lambda: AgentSettings(temperature=0.0), "temperature is 0.0"),
        (lambda: PipelineExperiment(sft=TrainSettings(adapter=LoraConfig())), "nothing to adapt"),
        (lambda: PipelineExperiment(ask=AskSettings(chat=True)), "no chat template"),
        (
            lambda: PipelineExperiment(sft=TrainSettings(model=ModelSettings(), adapter=LoraConfig(init="pissa"))),
            "which changes the base",
        ),
    ],
)
def test_settings_without_a_meaning(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_part_without_decisions_is_told_before_training(made, tmp_path):
    settings = dataclasses.replace(made, workdir=str(tmp_path), select=SelectSettings(train=1.0, valid=0.0))
    shutil.copytree(below(made, "logs"), tmp_path / "logs")
    with pytest.raises(UserError, match=r"valid\.jsonl has no decision; use more sessions"):
        pipeline.run_pipeline(settings)


def test_the_command_reads_a_config_file(cli, tmp_path):
    command = types.SimpleNamespace(main=pipeline.run, __doc__=pipeline.__doc__, DEFAULT=pipeline.DEFAULT)
    arguments = ("--config.logs.source=('nowhere.txt',)", f"--config.workdir={tmp_path}")
    ended = cli(*arguments, config="configs/poker_small.py", module=command, settings=PipelineExperiment)
    assert "nowhere.txt: no hand histories there" in ended.line()
