"""The R1 pipeline on the tiny model: what each stage leaves, how it goes on, and what it refuses."""

import dataclasses
import json

import pytest

from experiments.configdict import as_config
from experiments.grpo.settings import RunSettings as RLRun
from experiments.pairs.settings import PairData, PairRunSettings
from experiments.r1 import __main__ as r1
from experiments.r1.rejection import SAMPLES, reject
from experiments.r1.score import remember, scores
from experiments.r1.settings import AlignmentStage, JudgeSettings, R1Experiment, RejectionStage, RLStage, SFTStage
from experiments.r1.stages import before, demonstration
from experiments.rollouts.drawing import accepted, pairs, samples
from experiments.rollouts.settings import RewardSettings, ThinkSettings
from experiments.settings import ModelSettings
from experiments.sft.settings import RunSettings as SFTRun
from lqlm.adapters.configs import LoraConfig
from lqlm.errors import UserError
from lqlm.generation.sampling import SamplingConfig
from lqlm.io.metrics import read_jsonl
from lqlm.tasks.arithmetic import ArithmeticConfig
from lqlm.tasks.gsm8k import Gsm8kConfig
from lqlm.tasks.think import ThinkFormat
from tests.experiments.conftest import run_all
from tests.experiments.tiny_model import tiny

FORM = ThinkFormat("t", "a")
DIGITS = {"digits": RewardSettings("tests.experiments.rewards.digits")}


def tiny_r1(model, workdir, **changes):
    sft = SFTRun(steps=2, rows=2, packing=False, eval_every=0, eval_batch=2, checkpoint_every=1)
    rl = RLRun(steps=2, prompts=2, group=2, eval_every=0, eval_batch=2, checkpoint_every=1, samples=1)
    pair = PairRunSettings(steps=2, pairs=2, eval_every=0, eval_batch=2, checkpoint_every=1)
    sampling = SamplingConfig(max_new_tokens=6)
    task = ArithmeticConfig(operands=(0, 9), operators="+", train=9, heldout=3, template="{expression}=")
    settings = R1Experiment(
        workdir=str(workdir),
        model=ModelSettings(source=str(model)),
        adapter=LoraConfig(rank=4, alpha=8.0),
        task=ThinkSettings(task, FORM, system=""),
        cold_start=SFTStage(examples=6, heldout=2, max_length=64, run=sft),
        reasoning=RLStage(rewards=DIGITS, sampling=sampling, run=rl),
        rejection=RejectionStage(
            rewards=DIGITS, sampling=sampling, batch=2, samples=3, threshold=0.0, heldout=2, max_length=64, run=sft
        ),
        alignment=AlignmentStage(
            judge=JudgeSettings(data=PairData(heldout=1), run=pair), rewards=DIGITS, sampling=sampling, run=rl
        ),
    )
    return dataclasses.replace(settings, **changes)


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.slow
def test_four_stages_go_on_from_each_other(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("experiments.command.use_compilation_cache", lambda: None)
    settings = tiny_r1(model, tmp_path / "r1")
    settings = dataclasses.replace(settings, rejection=dataclasses.replace(settings.rejection, threshold=0.15))
    r1.main(as_config(settings))
    folder = tmp_path / "r1"
    found = scores(settings)
    assert list(found) == ["base", "cold_start", "reasoning", "rejection", "alignment"]
    assert all(one.keys() == {"accuracy", "accuracy_strict", "format", "words"} for one in found.values())
    for stage in list(found)[1:]:
        assert (folder / stage / "adapter/adapter_model.safetensors").is_file(), stage
    configs = {stage: json.loads((folder / stage / "config.json").read_text()) for stage in list(found)[1:]}
    configs["judge"] = json.loads((folder / "alignment/reward_model/config.json").read_text())
    assert len({config["seed"] for config in configs.values()}) == 5  # or two stages would share keys and problems
    begun = {stage: configs[stage]["start"] for stage in list(found)[1:]}
    assert begun == {
        "cold_start": "",
        "reasoning": str(folder / "cold_start/adapter"),
        "rejection": "",  # the base anew, as in the paper
        "alignment": str(folder / "rejection/adapter"),
    }
    demonstrations = read_jsonl(folder / "cold_start/conversations.jsonl")
    assert len(demonstrations) == 6
    for row in demonstrations:
        question, reply = (row["messages"][n]["content"] for n in (-2, -1))
        value = eval(question.removesuffix("="))
        assert reply == f"<t>{question.removesuffix('=')} = {value}</t>\n<a>{value}</a>"
    assert len(list((folder / "rejection/rejection").glob("*.json"))) == 5  # 9 problems, 2 at once
    judged = json.loads((folder / "alignment/config.json").read_text())["reward_model"]
    assert judged == {"path": str(folder / "alignment/reward_model/adapter"), "weight": 0.2, "scenarios": []}
    assert "rewards/reward_model/mean" in read_jsonl(folder / "alignment/metrics.jsonl")[-1]
    rows = {(row["id"], row["completion"]): row["reward"] for row in samples(folder / "rejection" / SAMPLES)}
    compared = read_jsonl(folder / "alignment/pairs.jsonl")
    assert len(compared) >= 3
    for row in compared:
        name = "arithmetic/" + row["prompt"][-1]["content"].removesuffix("=")
        assert rows[name, row["chosen"][0]["content"]] >= 0.15 > rows[name, row["rejected"][0]["content"]]
    capsys.readouterr()

    written = files(folder)
    r1.main(as_config(settings))  # all of it is over: nothing is done again
    again = files(folder)
    changed = {path.name for path in written if written[path] != again[path]}
    assert again.keys() == written.keys() and not changed
    assert "after stage alignment" in capsys.readouterr().out
    other = dataclasses.replace(settings, cold_start=dataclasses.replace(settings.cold_start, examples=5))
    with pytest.raises(UserError, match=r"cold_start/conversations.jsonl: the run in .* learned from these records"):
        r1.main(as_config(other))
    assert files(folder) == again


@pytest.mark.slow
def test_rejection_sampling_goes_on_with_the_next_batch(model, tmp_path):
    settings = tiny_r1(model, tmp_path)
    run, _ = run_all(tiny(model, tmp_path / "policy", steps=1))
    adapter = str(run.workdir.adapter)
    whole = reject(settings, adapter, tmp_path / "one")
    parts = sorted((tmp_path / "one/rejection").glob("*.json"))
    texts = [path.read_text() for path in parts]
    parts[3].unlink()
    stamp = parts[2].stat().st_mtime_ns
    assert reject(settings, adapter, tmp_path / "one") == whole
    assert [path.read_text() for path in parts] == texts and parts[2].stat().st_mtime_ns == stamp
    assert len(whole) == 9 and len(json.loads(texts[0])) == 6 and len(json.loads(texts[-1])) == 3
    warmer = dataclasses.replace(settings.rejection, sampling=SamplingConfig(max_new_tokens=6, temperature=0.5))
    with pytest.raises(UserError, match="its samples were drawn with another sampling; remove the folder"):
        reject(dataclasses.replace(settings, rejection=warmer), adapter, tmp_path / "one")
    dense = dataclasses.replace(settings, model=ModelSettings(source=str(model), quantize=False))
    with pytest.raises(UserError, match="its samples were drawn with another model; remove the folder"):
        reject(dense, adapter, tmp_path / "one")
    told = tmp_path / "one/rejection_settings.json"
    told.write_text(told.read_text().replace('"set of problems": "', '"set of problems": "x'))
    with pytest.raises(UserError, match="its samples were drawn with another set of problems; remove the folder"):
        reject(settings, adapter, tmp_path / "one")
    told.write_text(told.read_text().replace('"set of problems": "x', '"set of problems": "'))
    with pytest.raises(
        UserError, match=r"nowhere/adapter_model.safetensors: No such file or directory; give the folder"
    ):
        reject(settings, "nowhere", tmp_path / "two")
    high = dataclasses.replace(settings, rejection=dataclasses.replace(settings.rejection, threshold=2.0))
    with pytest.raises(UserError, match=r"of 27 samples none has a reward of 2\.0 \(the best has"):
        reject(high, adapter, tmp_path / "one")


def test_the_shortest_different_good_ones_are_kept():
    texts = [
        ("a", "long one", 1.0),
        ("a", "ab", 1.0),
        ("a", "ab", 1.0),
        ("a", "x", 0.9),
        ("b", "y", 0.0),
        ("c", "z", 2.0),
    ]
    rows = [{"id": n, "completion": text, "tokens": len(text), "reward": worth} for n, text, worth in texts]
    rows[0]["tokens"] = 1  # tokens count, not characters
    assert [row["completion"] for row in accepted(rows, 1.0, 1)] == ["long one", "z"]
    rows[0]["tokens"] = 8
    assert [row["completion"] for row in accepted(rows, 1.0, 2)] == ["ab", "long one", "z"]
    assert [row["completion"] for row in accepted(rows, 1.0, 1)] == ["ab", "z"]
    assert accepted([], 1.0, 1) == []
    compared = [(good["completion"], bad["completion"]) for good, bad in pairs(rows, 1.0)]
    assert compared == [("ab", "x")]  # of b nothing was accepted, of c nothing refused


def test_a_demonstration_has_the_form_of_the_task(model, tmp_path):
    settings = tiny_r1(model, tmp_path)
    assert demonstration(settings, "3 + 4 = 7", "7") == "<t>3 + 4 = 7</t>\n<a>7</a>"
    plain = dataclasses.replace(settings, task=ArithmeticConfig())
    assert demonstration(plain, "3 + 4 = 7", "7") == "7"  # "Answer with the number only."
    for how, end in (("label", "Answer: 7"), ("tag", "<answer>7</answer>")):
        one = dataclasses.replace(settings, task=ArithmeticConfig(answer_format=how))
        assert demonstration(one, "3 + 4 = 7", "7") == f"3 + 4 = 7\n{end}"
    school = dataclasses.replace(settings, task=Gsm8kConfig())
    assert demonstration(school, "3 + 4 = 7", "7") == "3 + 4 = 7\n#### 7"


def test_a_score_is_of_the_adapter_that_is_there(model, tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr("experiments.r1.score.measure", lambda *args: measured.append(args) or {"accuracy": 0.5})
    settings, adapter = tiny_r1(model, tmp_path), tmp_path / "adapter"
    adapter.mkdir()
    for content, count in ((b"one", 1), (b"one", 1), (b"two", 2)):
        (adapter / "adapter_model.safetensors").write_bytes(content)
        assert remember(settings, "reasoning", adapter) == {"accuracy": 0.5} and len(measured) == count
    remember(dataclasses.replace(settings, eval_items=2), "reasoning", adapter)
    assert len(measured) == 3 and scores(settings) == {"reasoning": {"accuracy": 0.5}}


def test_without_a_cold_start_reasoning_begins_with_the_base(model, tmp_path):
    settings = tiny_r1(model, tmp_path, stages=("reasoning", "rejection"), zero=True)
    assert before(settings, "reasoning") == ""
    with pytest.raises(UserError, match="run stage reasoning first"):
        before(settings, "rejection")
    with pytest.raises(UserError, match="leave cold_start out of stages"):
        tiny_r1(model, tmp_path, zero=True)


def test_bad_input_is_one_line(model, tmp_path):
    settings = tiny_r1(model, tmp_path)
    with pytest.raises(UserError, match="no such adapter; stage reasoning goes on from it, so run stage cold_start"):
        before(settings, "reasoning")
    for stages in ((), ("reasoning", "cold_start"), ("thinking",)):
        with pytest.raises(UserError, match=r"give some of cold_start, reasoning, rejection, alignment, in this order"):
            dataclasses.replace(settings, stages=stages)
    with pytest.raises(UserError, match="hold out at least 1"):
        SFTStage(examples=4, heldout=4)
    with pytest.raises(UserError, match="which changes the base"):
        dataclasses.replace(settings, adapter=LoraConfig(init="olora"))
