"""From own logs to a measured agent on the smallest model: stages that are done once, and the agent at the table."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import types
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.command import load_config
from experiments.configdict import as_config, from_config
from experiments.grpo.settings import RunSettings as GRPORun
from experiments.pairs.settings import PairRunSettings
from experiments.plan.shapes import opt
from experiments.poker import ablation, measure, models, pipeline, select, tuning
from experiments.poker.agent import AgentSettings, Player, open_player
from experiments.poker.ask import AskSettings, Scorer
from experiments.poker.bot_logs import play_session
from experiments.poker.contestants import player as player_of
from experiments.poker.data_settings import LogSettings, SelectSettings
from experiments.poker.files import read_rows, write_rows
from experiments.poker.pairs import as_legal, told_pairs, valued_pairs
from experiments.poker.pipeline import _records_of
from experiments.poker.pipeline_settings import LEARNED, STAGES, EvaluateSettings, PipelineExperiment, TrainSettings
from experiments.poker.self_play_settings import MatchSettings, SelfPlayRun, TableSettings
from experiments.poker.stages import run_stages
from experiments.poker.tuning_settings import (
    CHIPS,
    AdaptSettings,
    GRPOStage,
    JudgeSettings,
    PairSettings,
    PPOStage,
    SelfPlayStage,
)
from experiments.ppo.settings import RunSettings as PPORun
from experiments.rollouts.prompts import build_task
from experiments.rollouts.settings import RewardSettings
from experiments.settings import ModelSettings
from experiments.sft.settings import RunSettings, ScratchSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.ppo import PPOConfig
from lqlm.errors import UserError
from lqlm.generation.sampling import SamplingConfig
from lqlm.io.bpe import train_bpe
from lqlm.io.export import save_hf
from lqlm.io.monitor import CompilationCounter
from lqlm.io.reward_model import load_reward_model
from lqlm.models.heads import sequence_scores
from lqlm.models.init import init_base
from lqlm.optim.chains import OptimConfig
from lqlm.poker.answers import Answer, write_answer, write_short
from lqlm.poker.arena.actions import BlindChoices
from lqlm.poker.arena.bots import CallBot
from lqlm.poker.arena.features import CLASSES, decision_table
from lqlm.poker.arena.language import action_probabilities
from lqlm.poker.arena.match import play_match
from lqlm.poker.arena.rules import Rules
from lqlm.poker.arena.table import deal, play_hand
from lqlm.poker.compact import read_compact
from lqlm.poker.pokerstars import parse, render
from lqlm.poker.policy import Shapes, legal_answers
from lqlm.poker.record import known_cards
from lqlm.poker.replay import replay, validate
from lqlm.poker.state import state_of
from lqlm.poker.stream import Read, read_hands
from lqlm.tasks.pairs import PairConfig, read_pairs
from lqlm.tasks.poker import PokerConfig, big_blinds
from tests.experiments.tiny_model import save_model

LAST = ("evaluate", "notes/evaluate.json")  # seconds are measured there


def tiny(workdir, **changes):
    run = RunSettings(steps=3, rows=2, eval_every=0, eval_batch=4, checkpoint_every=2, samples=0)
    short = {"steps": 2, "eval_every": 0, "eval_batch": 2, "checkpoint_every": 1, "samples": 1}
    sampling, optim = SamplingConfig(max_new_tokens=6), OptimConfig(learning_rate=0.05)
    settings = PipelineExperiment(
        workdir=str(workdir),
        logs=LogSettings(sessions=12, hands=2, seats=3),
        select=SelectSettings(min_hands=1, train=0.5, valid=0.25),
        sft=TrainSettings(
            model=ScratchSettings(vocab_size=300, layers=2, width=32, ffn=48, max_positions=320),
            heldout=8,
            max_length=288,
            run=run,
        ),
        adapt=AdaptSettings(adapter=LoraConfig(rank=2, alpha=4.0)),
        task=PokerConfig(source="", heldout_source="", limit=8, heldout=2, playouts=1),
        pairs=PairSettings(limit=20),
        reward_model=JudgeSettings(heldout=4, optim=optim, run=PairRunSettings(pairs=2, **short)),
        ppo=PPOStage(sampling=sampling, optim=optim, run=PPORun(prompts=2, epochs=1, **short)),
        grpo=GRPOStage(sampling=sampling, optim=optim, run=GRPORun(prompts=2, group=2, **short)),
        self_play=SelfPlayStage(
            start="grpo",
            table=TableSettings(hands=2, playouts=1),
            match=MatchSettings(opponents=(), hands=4),
            optim=optim,
            run=SelfPlayRun(rows=2, updates=1, **short),
        ),
        evaluate=EvaluateSettings(opponents=("call",), hands=4, samples=8, rounds=2, shapes=Shapes(rows=4), texts=6),
    )
    return dataclasses.replace(settings, **changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished pipeline."""
    settings = tiny(tmp_path_factory.mktemp("poker") / "run")
    assert pipeline.run_pipeline(settings) == list(STAGES)
    return settings


@pytest.fixture(scope="module")
def player(made):
    return player_of(made)


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
        "pairs/*",
        "sft/model/*",
        "*/adapter/*",
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
    assert [turn["content"] for turn in record["messages"]] == [row["prompt"], row["completion"]]
    assert read_compact(row["prompt"]).me == row["seat"]
    for stage in ("reward_model", "ppo", "grpo", "self_play"):
        assert (folder / stage / "adapter/adapter_model.safetensors").is_file()
    found = json.loads((folder / "evaluate/evaluate.json").read_text())
    assert [(match["hero"], match["against"], match["hands"]) for match in found["matches"]] == [
        (stage, "call", 4) for stage in LEARNED
    ]
    assert all(match["illegal"] == 0 for match in found["matches"])
    predictors = [row["predictor"] for row in found["agreement"]]
    assert predictors[0] == "majority" and predictors[5].startswith("sft, prior^")
    assert (predictors[4], *predictors[6:]) == LEARNED
    assert found["agreement"][-1]["decisions"] == counts["test"]
    assert "sft - 1 x call" in (folder / "evaluate/table.txt").read_text()


def test_the_ablation_has_every_stage_on_the_same_cards(made):
    rows = json.loads(below(made, "evaluate/ablation.json").read_text())
    assert tuple(row["stage"] for row in rows) == LEARNED
    sft, judge, *_ = rows
    assert sft["illegal text"] == 1 and "illegal text" not in judge  # three steps teach nobody to speak
    assert sft["texts"] == 6 and sft["tokens per prompt"] > 60 and sft["seconds per decision"] > 0
    found = json.loads(below(made, "evaluate/evaluate.json").read_text())
    wins = {match["hero"]: match["mbb"]["all-in"][0] for match in found["matches"]}
    for row in rows:
        (line,) = row["matches"].values()
        assert ("more than sft" in line) == (row["stage"] != "sft")
        if row["stage"] != "sft":  # two deals are too few for a slope: nothing but all-in adjustment
            assert line["more than sft"][0] == pytest.approx(wins[row["stage"]] - wins["sft"], abs=0.01)
    text = below(made, "evaluate/ablation.txt").read_text().splitlines()
    assert len(text) == 1 + 5 + 1 + 1 + 5 and text[1].startswith("sft ") and text[-1].startswith("self_play ")


def test_what_is_deleted_is_made_again_with_the_same_bytes(made, capsys):
    folder = below(made)
    before = contents(folder, LAST)
    assert pipeline.run_pipeline(made) == [] and "agreement, 95%" in capsys.readouterr().out
    gone = ("logs/session-0003.txt", "hands/hands-000002.jsonl", "selected/valid.jsonl", "prompts/train.jsonl")
    learned = ("sft/model/model.safetensors", "pairs/train.jsonl", "grpo/adapter/adapter_model.safetensors")
    for name in (*gone, "records/train.jsonl", *learned):
        (folder / name).unlink()
    remade = [name for name in STAGES if name not in ("reward_model", "ppo", "self_play", "evaluate")]
    assert pipeline.run_pipeline(made) == remade
    assert contents(folder, LAST) == before
    (folder / "notes/prompts.json").unlink()  # killed between the stage and its note
    assert pipeline.run_pipeline(made) == ["prompts"]
    assert contents(folder, LAST) == before


def test_the_stages_go_on_from_each_other(made, tmp_path):
    """What each experiment begins with, by what SFT trained."""
    folder, own = below(made), json.loads(below(made, "ppo/config.json").read_text())
    assert own["model"]["source"] == str(folder / "sft/model") and own["start"] == "" and not own["model"]["quantize"]
    assert own["reward_model"]["path"] == own["value"]["path"] == str(folder / "reward_model/adapter")
    assert json.loads(below(made, "grpo/config.json").read_text())["task"]["source"].endswith("selected/train.jsonl")
    after_ppo = dataclasses.replace(made, grpo=dataclasses.replace(made.grpo, start="ppo"))
    assert tuning.grpo(after_ppo).start == str(folder / "ppo/adapter")
    played = json.loads(below(made, "self_play/config.json").read_text())
    assert played["start"] == str(folder / "grpo/adapter") and played["ask"]["chat"] is True
    lora = TrainSettings(model=ModelSettings(source="base"), adapter=LoraConfig(rank=3))
    chained = dataclasses.replace(made, sft=lora, adapt=AdaptSettings(quantize=True))
    alone = dataclasses.replace(chained, self_play=SelfPlayStage())
    assert tuning.self_play(alone).start == str(folder / "sft/adapter")
    for make in (tuning.reward_model, tuning.ppo, tuning.grpo):
        found = make(chained)
        assert (found.model, found.adapter) == (lora.model, lora.adapter)
        assert found.start == str(folder / "sft/adapter")


def test_a_policy_of_the_league_can_be_asked_for(made):
    """The first one is what self-play began with; any other adapter over the same model may stand in its place."""
    asked = [row["prompt"] for row in prompts_of(made)[:4]], [("fold", "call")] * 4

    def scores(player):
        return np.array(player.scorer(*asked))

    def opened(name):
        return models.open_model(models.ModelChoice("one", made.workdir, adapter=str(below(made, name))), 4)

    began, ended = (scores(player_of(made, stage)) for stage in ("grpo", "self_play"))
    np.testing.assert_allclose(scores(opened("self_play/league/000000")), began, atol=1e-4)
    np.testing.assert_allclose(scores(opened("self_play/adapter")), ended, atol=1e-4)
    assert np.abs(ended - began).max() > 1e-3


def test_omaha_from_own_logs(made, tmp_path):
    """Four cards in logs, prompts, self-play and matches."""
    few = tuple(name for name in STAGES if name not in ("pairs", "reward_model", "ppo", "grpo"))
    logs = dataclasses.replace(made.logs, game="omaha")
    alone = dataclasses.replace(made.self_play, start="sft")
    settings = dataclasses.replace(made, workdir=str(tmp_path), stages=few, logs=logs, self_play=alone)
    assert tuning.self_play(settings).table.game == "omaha"
    pipeline.run_pipeline(settings)
    shown = prompts_of(settings)
    assert all(row["prompt"].startswith("PLO ") and len(read_compact(row["prompt"]).cards) == 4 for row in shown)
    found = json.loads(below(settings, "evaluate/evaluate.json").read_text())
    assert [match["game"] for match in found["matches"]] == ["Omaha", "Omaha"]


def test_stages_that_are_left_out(made):
    def needed(**changes):
        return [(one.name, one.after) for one in pipeline.stages(dataclasses.replace(made, **changes))]

    few = tuple(name for name in STAGES if name not in ("pairs", "reward_model", "ppo"))
    assert dict(needed(stages=few))["evaluate"] == ("selected", "sft", "grpo", "self_play")
    assert dict(needed(stages=few))["self_play"] == ("sft", "grpo")
    assert dict(needed(stages=few, self_play=SelfPlayStage()))["self_play"] == ("sft",)
    assert "ppo" not in dict(needed(stages=few))
    chips = PPOStage(judge=0.0, value="new", rewards=CHIPS)
    assert dict(needed(ppo=chips, stages=(*few, "ppo")))["ppo"] == ("selected", "records", "sft")
    assert tuning.ppo(dataclasses.replace(made, ppo=chips)).reward_model.path == ""
    beside = dataclasses.replace(made.ppo, ptx_rows=2, ppo=PPOConfig(ptx_coef=1.0))
    rows = tuning.ppo(dataclasses.replace(made, ppo=beside)).pretraining
    assert (
        rows.rows == 2 and rows.data.source == str(below(made, "records/train.jsonl")) and rows.text.max_length == 288
    )


def test_pairs_hold_what_was_done_against_another_legal_answer(made):
    asked, every = prompts_of(made), AskSettings(chat=True)
    found = rows(below(made, "pairs/train.jsonl"))
    assert len(found) == 20
    by_prompt = {row["prompt"]: row["completion"] for row in asked}
    for pair in found:
        (question,), (good,), (bad,) = (pair[side] for side in ("prompt", "chosen", "rejected"))
        offered = [write_short(answer) for answer in legal_answers(read_compact(question["content"]))]
        assert good["content"] == by_prompt[question["content"]] != bad["content"]
        assert {good["content"], bad["content"]} <= set(offered)
    again, other = (list(told_pairs(lambda: asked, PairSettings(), every, seed)) for seed in (0, 1))
    assert list(told_pairs(lambda: asked, PairSettings(), every, 0)) == again != other
    assert len(again) == len(asked) and all(pair["chosen"] != pair["rejected"] for pair in again + other)


def save_opt(folder, tokenizer):
    """An OPT of two layers with random weights."""
    shape = dataclasses.replace(opt(2, 32, 2), vocab_size=tokenizer.vocab_size)
    save_hf(folder, init_base(jax.random.key(0), shape, dtype="float32", std=0.02), shape, tokenizer)


def test_the_papers_recipe_finds_its_players_in_own_logs(tmp_path):
    """Few of its sessions, steps and weights; its model is asked for before anything is played."""
    settings = from_config(PipelineExperiment, load_config("configs/poker_opt13b.py"))
    logs, task = LogSettings(sessions=8, hands=100), dataclasses.replace(settings.task, heldout=2)
    found = dataclasses.replace(settings, workdir=str(tmp_path / "run"), logs=logs, task=task)
    with pytest.raises(UserError, match=r"runs/opt-1\.3b: no such path here"):
        pipeline.run_pipeline(found)
    assert not (tmp_path / "run").exists()
    stages = ("logs", "hands", "selected", "prompts", "records", "pairs")
    select = dataclasses.replace(settings.select, train=0.5, valid=0.25, min_hands=20)
    pipeline.run_pipeline(dataclasses.replace(found, stages=stages, select=select))
    learned = rows(tmp_path / "run" / "records" / "train.jsonl")
    assert len(learned) > 20 and len(rows(tmp_path / "run" / "pairs" / "train.jsonl")) > 20
    texts = [turn["content"] for row in learned for turn in row["messages"]]
    save_opt(tmp_path / "opt", train_bpe(texts, 1500, tmp_path / "bpe"))
    few = {"steps": 2, "eval_every": 0, "eval_batch": 2, "checkpoint_every": 2, "samples": 0}
    whole = as_config(dataclasses.replace(found, stages=(*stages, "sft", "reward_model", "ppo"), select=select))
    whole.sft.model.source, whole.sft.model.dtype, whole.sft.heldout = str(tmp_path / "opt"), "float32", 4
    whole.reward_model.heldout, whole.sft.adapter.rank = 4, 4
    for stage in (whole.sft, whole.reward_model, whole.ppo):
        stage.run.update(few)
        stage.optim.warmup_steps = 0
    settings = from_config(PipelineExperiment, whole)
    assert pipeline.run_pipeline(settings) == ["sft", "reward_model", "ppo"]
    (step, *_) = read_rows(tmp_path / "run" / "ppo" / "metrics.jsonl")
    assert player_of(settings, "ppo").model.config.family == "opt" and step


def test_pairs_by_tiers_turn_round_for_the_worst_players(made):
    asked = [dict(row, tier=("good", "bad", "unknown")[number % 3]) for number, row in enumerate(prompts_of(made))]
    ask, tiers = AskSettings(), PairSettings("tiers", best=("good",), worst=("bad",))
    found = list(told_pairs(lambda: asked, tiers, ask, 0))
    ranked = [row for row in asked if row["tier"] != "unknown"]
    assert len(found) == len(ranked)
    for pair, row in zip(found, ranked):
        assert pair["prompt"] == row["prompt"] + "\n"
        assert pair["chosen" if row["tier"] == "good" else "rejected"] == row["completion"]
    with pytest.raises(UserError, match=r"no decision of the tiers high, negative \(there are: bad, good, unknown\)"):
        next(told_pairs(lambda: asked, PairSettings("tiers"), ask, 0))


def test_only_records_are_those_of_some_players(made, tmp_path):
    few = dataclasses.replace(made, workdir=str(tmp_path), stages=STAGES[:5])
    few = dataclasses.replace(few, select=dataclasses.replace(made.select, tiers=("negative",)))
    shutil.copytree(below(made, "logs"), below(few, "logs"))
    pipeline.run_pipeline(few)
    asked = prompts_of(few)
    assert asked == prompts_of(made) and {row["tier"] for row in asked} > {"negative"}
    learned = [turns["messages"][0]["content"] for turns in rows(below(few, "records/train.jsonl"))]
    assert learned == [row["prompt"] for row in asked if row["tier"] == "negative"]


def test_a_style_is_asked_for_in_training_and_at_the_table(made, tmp_path):
    """The same words in the prompts, in the decisions that PPO and GRPO ask, and where the agent plays."""
    bold = dataclasses.replace(made, workdir=str(tmp_path), stages=STAGES[:5])
    bold = dataclasses.replace(bold, ask=dataclasses.replace(made.ask, style="bold"))
    shutil.copytree(below(made, "logs"), below(bold, "logs"))
    pipeline.run_pipeline(bold)
    asked = prompts_of(bold)
    assert len(asked) == len(prompts_of(made)) and bold.ask.view.style == "bold"
    for row, plain in zip(asked, prompts_of(made)):
        assert set(row["prompt"].splitlines()) - set(plain["prompt"].splitlines()) == {"style bold"}
    task = build_task(tuning.task(bold))
    assert {item.question for item in task.train} <= {row["prompt"] for row in asked}


def test_pairs_by_values_prefer_what_wins_more_chips(made):
    task = build_task(tuning.task(made))
    by_question = {item.question: item for item in task.train}
    found = list(valued_pairs(task, PairSettings("values", lead=0.0), made.ask, 0))
    for pair in found:
        item = by_question[pair["prompt"][0]["content"]]
        good, bad = (big_blinds(pair[side][0]["content"], item) for side in ("chosen", "rejected"))
        assert good > bad and item.answer in (pair["chosen"][0]["content"], pair["rejected"][0]["content"])
    clear = list(valued_pairs(task, PairSettings("values", lead=10.0), made.ask, 0))
    assert 0 < len(clear) < len(found) <= 8 and all(pair in found for pair in clear)


def test_everything_is_a_size_of_its_own():
    state = read_compact(
        "NLH chips 50/100 1-2-3 sb2\nme 1 ThKc 1000 ; -\n2 900 p100\n3 900 p100\n"
        "pot 200 ; fold call raise 300 600 1000 all 1000"
    )
    assert as_legal(Answer("raise", Decimal(1000)), state) == Answer("all-in")
    assert as_legal(Answer("raise", Decimal(600)), state) == Answer("raise", Decimal(600))


def test_rollouts_and_pairs_have_the_tokens_of_supervised_learning(made, player):
    tokenizer = player.model.tokenizer
    task = build_task(tuning.task(made))
    assert {item.question for item in task.train} <= {row["prompt"] for row in prompts_of(made)}
    for item in task.train:
        asked = player.scorer.question(item.question, [item.answer])
        assert tokenizer.chat(task.messages(item)) == asked.prompt
    records = [(str(n), row) for n, row in enumerate(rows(below(made, "pairs/train.jsonl")))]
    judge = player_of(made, "reward_model")
    for pair, (_, row) in zip(read_pairs(records, tokenizer, PairConfig()).pairs, records):
        texts = [row[side][0]["content"] for side in ("chosen", "rejected")]
        asked = judge.scorer.question(row["prompt"][0]["content"], texts)
        assert (pair.prompt, [pair.chosen, pair.rejected]) == (asked.prompt, [list(one) for one in asked.answers])


def test_the_player_of_a_reward_model_takes_what_scores_most(made):
    judge = player_of(made, "reward_model")
    prompt = prompts_of(made)[0]["prompt"]
    several = tuple(write_answer(answer) for answer in legal_answers(read_compact(prompt)))
    adapters, _ = load_reward_model(below(made, "reward_model/adapter"), judge.model.config)
    question = judge.scorer.question(prompt, several)
    texts = [[*question.prompt, *answer] for answer in question.answers]
    longest = max(map(len, texts))
    tokens = jnp.array([text + [0] * (longest - len(text)) for text in texts])
    mask = jnp.array([[True] * len(text) + [False] * (longest - len(text)) for text in texts])
    scores = jax.jit(functools.partial(sequence_scores, cfg=judge.model.config))(
        judge.model.base, adapters, tokens, mask
    )
    (found,) = judge.scorer([prompt], [several])
    np.testing.assert_allclose(found, np.asarray(scores), atol=1e-5)
    chances = action_probabilities(found, judge.settings.temperature)
    assert chances[np.argmax(scores)] > 0.99
    assert judge.scorer.name != player_of(made, "sft").scorer.name != player_of(made, "grpo").scorer.name


def test_a_text_counts_when_it_is_an_answer_that_the_prompt_offers(made):
    for row in prompts_of(made)[:20]:
        assert ablation.is_offered(row["completion"], row["prompt"], "compact")
        assert not ablation.is_offered("raise 1", row["prompt"], "compact")
        assert not ablation.is_offered("mumble", row["prompt"], "compact")


def test_other_settings_want_another_folder(made):
    other = dataclasses.replace(made, ask=AskSettings(template="paper", chat=True))
    with pytest.raises(UserError, match=r"prompts was made with other settings or inputs"):
        pipeline.run_pipeline(other)
    few = tuple(name for name in STAGES if name not in ("pairs", "reward_model", "ppo", "grpo", "self_play"))
    longer = dataclasses.replace(made, stages=few, evaluate=dataclasses.replace(made.evaluate, hands=6))
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
    asked = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(question.prompt, skip_special=False) == asked
    assert [tokenizer.decode(answer) for answer in question.answers] == ["raise 300\n", "fold\n"]
    assert all(answer[-2] in tokenizer.eos_ids for answer in question.answers)
    with pytest.raises(UserError, match="exceed the model's context of 320"):
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
    """SFT trains an adapter over it and the reward model goes on from that; the agent plays with the adapter."""
    model = save_model(tmp_path / "model", max_position_embeddings=512)
    train = dataclasses.replace(
        made.sft,
        model=ModelSettings(source=str(model)),
        adapter=LoraConfig(rank=2, alpha=4.0),
        max_length=320,
        limit=20,
        optim=OptimConfig(learning_rate=0.05),
    )
    first = STAGES[: STAGES.index("ppo")]
    settings = dataclasses.replace(made, workdir=str(tmp_path / "run"), sft=train, stages=first)
    shutil.copytree(below(made, "logs"), below(settings, "logs"))
    assert run_stages(below(settings), pipeline.stages(settings)) == list(first)
    assert json.loads(below(settings, "reward_model/config.json").read_text())["start"] == str(
        below(settings, "sft/adapter")
    )
    (hand, *_) = measure.known_hands(below(settings, "selected/test.jsonl"))
    player = player_of(settings)
    with_adapter, _ = player.predictions([hand])
    without, _ = open_player(dataclasses.replace(player.settings, adapter="")).predictions([hand])
    np.testing.assert_allclose(with_adapter.sum(1), 1)
    assert abs(with_adapter - without).max() > 1e-3


def test_folds_are_left_out_of_what_sft_learns(tmp_path):
    rows = [
        {"action": word, "tier": tier, "prompt": "p", "completion": f"{word}."}
        for word in ("fold", "call")
        for tier in ("high", "low")
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    chosen = SelectSettings(tiers=("high",), without=("fold",))
    (record,) = _records_of(tiny(tmp_path, select=chosen), tmp_path / "rows.jsonl")
    assert record["messages"][-1]["content"] == "call."


def test_the_command_of_select_is_told_what_the_settings_tell():
    chosen = SelectSettings(cards="showdown", by="collected", min_hands=7, top=0.3, bottom=0.1, seed=5)
    options = select._options(["HANDS", "--out", "OUT", *chosen.arguments])
    assert (options.cards, options.by, options.min_hands, options.top, options.bottom, options.seed) == (
        *("showdown", "collected", 7, 0.3, 0.1, 5),
    )
    assert select._options(["HANDS", "--out", "OUT", *SelectSettings().arguments]).top is None


def test_an_agent_chooses_among_the_bets_that_it_learned():
    ask = AskSettings(choices=(2, 4))
    scorer = Scorer(None, None, ask, Shapes(), 0, 64, "none")
    assert Player(AgentSettings(ask=ask), None, (None, None), scorer).agent().menu == BlindChoices((2, 4))


def test_the_words_of_a_task_are_those_of_the_pipeline(tmp_path):
    """Whatever its own section says."""
    few = tiny(tmp_path, stages=("logs", "hands", "selected"))
    own = dataclasses.replace(few.task, raisers="10%", style="wild", features=("draws",))
    found = tuning.task(dataclasses.replace(few, task=own))
    assert (found.raisers, found.style, found.features) == (few.ask.raisers, few.ask.style, few.ask.features)


def test_hands_to_predict_are_those_of_the_sessions_that_are_there(tmp_path):
    settings = tiny(tmp_path, evaluate=EvaluateSettings(test_hands=2))
    found = []
    for first in (0, 10):
        write_rows(tmp_path / "selected/test.jsonl", ({"n": first + n} for n in range(6)))
        os.utime(tmp_path / "selected/test.jsonl", (first + 1, first + 1))
        found.append([row["n"] for row in read_rows(ablation._hands(settings, "test"))])
    assert len(found[0]) == 2 and [n + 10 for n in found[0]] == found[1]


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
        (lambda: SelectSettings(top=0.9, bottom=0.2), "shares"),
        (lambda: SelectSettings(by="collected"), "set select.top and select.bottom"),
        (lambda: SelectSettings(without=("fold", "post")), "select.without: post; give some of fold, check"),
        (lambda: AgentSettings(temperature=0.0), "temperature is 0.0"),
        (lambda: PipelineExperiment(sft=TrainSettings(adapter=LoraConfig())), "nothing to adapt"),
        (lambda: PipelineExperiment(ask=AskSettings()), "stage grpo asks in the chat template"),
        (lambda: PipelineExperiment(stages=("logs", "magic")), "give some of logs, hands"),
        (lambda: PipelineExperiment(stages=STAGES[:5] + STAGES[6:]), "pairs|reads what sft leaves; name sft too"),
        (
            lambda: PipelineExperiment(stages=tuple(set(STAGES) - {"reward_model"})),
            "ppo reads what reward_model leaves",
        ),
        (
            lambda: PipelineExperiment(ask=AskSettings(chat=True, features=("draws",)), logs=LogSettings(game="omaha")),
            "draws are told in hold'em alone",
        ),
        (lambda: AskSettings(choices=(3, -1)), "give bets in big blinds, none below 0"),
        (lambda: PPOStage(judge=0.0), "there must be some reward"),
        (lambda: PairSettings(best=("a",), worst=("a",)), "none of them in both"),
        (
            lambda: PipelineExperiment(sft=TrainSettings(model=ModelSettings(), adapter=LoraConfig(init="pissa"))),
            "which changes the base",
        ),
    ],
)
def test_settings_without_a_meaning(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (GRPOStage(optim=OptimConfig(schedule="cosine", warmup_steps=30)), "set total_steps above warmup_steps"),
        (GRPOStage(rewards={"none": RewardSettings("lqlm.rewards.poker.nothing")}), "no 'nothing' in 'lqlm.rewards"),
    ],
)
def test_what_a_late_stage_refuses_is_told_before_the_first(tmp_path, stage, message):
    with pytest.raises(UserError, match=message):
        pipeline.run_pipeline(tiny(tmp_path, grpo=stage))
    assert not list(tmp_path.iterdir())


def test_a_part_without_decisions_is_told_before_training(made, tmp_path):
    few = dataclasses.replace(made, stages=STAGES[:5])
    settings = dataclasses.replace(few, workdir=str(tmp_path), select=SelectSettings(train=1.0, valid=0.0))
    shutil.copytree(below(made, "logs"), tmp_path / "logs")
    with pytest.raises(UserError, match=r"valid\.jsonl has no decision; use more sessions"):
        pipeline.run_pipeline(settings)


def test_the_command_reads_a_config_file(cli, tmp_path):
    command = types.SimpleNamespace(main=pipeline.run, __doc__=pipeline.__doc__, DEFAULT=pipeline.DEFAULT)
    arguments = ("--config.logs.source=('nowhere.txt',)", f"--config.workdir={tmp_path}")
    ended = cli(*arguments, config="configs/poker_small.py", module=command, settings=PipelineExperiment)
    assert "nowhere.txt: no hand histories there" in ended.line()
