"""Completions for people: files of prompts, conversations, and the panel, on a tiny model."""

import io
import json

import pytest

from experiments.generate import __main__ as generate
from experiments.generate.chat import Chat, talk
from experiments.generate.prompts import finished
from experiments.generate.report import table
from experiments.generate.session import open_session
from experiments.generate.settings import GenerateSettings
from experiments.panel import __main__ as panel
from experiments.panel.settings import PanelExperiment
from experiments.settings import ModelSettings
from lqlm.errors import UserError
from lqlm.generation.beam import BeamConfig, beam_search
from lqlm.generation.requests import EngineStats
from lqlm.generation.rollout import pad_prompts
from lqlm.generation.sampling import SamplingConfig
from lqlm.generation.slots import EngineConfig
from lqlm.io.load import load_model

SMALL = [
    "--config.engine.prompt_buckets=(16, 32)",
    "--config.sampling.max_new_tokens=6",
    "--config.model.quantize=False",
]


@pytest.fixture
def prompts(tmp_path):
    lines = [{"prompt": f"{a}+{a}=", "topic": a} for a in range(5)]
    lines.append({"id": "talk", "messages": [{"role": "user", "content": "hi"}], "max_new_tokens": 2})
    return write(tmp_path / "prompts.jsonl", lines)


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def command(cli, model, tmp_path):
    def call(*arguments):
        given = [f"--config.model.source={model}", f"--config.output={tmp_path / 'out.jsonl'}", *SMALL, *arguments]
        return cli(*given, config="configs/generate_smollm2.py", module=generate, settings=GenerateSettings)

    return call


def read(path):
    return {record["id"]: record for record in map(json.loads, path.read_text().splitlines())}


def test_a_file_of_prompts_killed_and_gone_on_with(command, prompts, tmp_path):
    options = [
        f"--config.input={prompts}",
        "--config.engine.slots=2",
        "--config.engine.group=2",
        "--config.logprobs=True",
    ]
    ended = command(*options)
    assert ended.status == 0 and "6 prompts completed" in ended.out and "time to first token" in ended.out
    out, found = tmp_path / "out.jsonl", read(tmp_path / "out.jsonl")
    assert set(found) == {"1", "2", "3", "4", "5", "talk"} and found["3"]["topic"] == 2
    for record in found.values():
        assert len(record["completions"]) == 2
        for completion in record["completions"]:
            assert completion["finish"] in ("eos", "length") and 1 <= completion["tokens"] <= 6
            assert len(completion["logprobs"]) == len(completion["token_ids"]) == completion["tokens"]
    assert max(c["tokens"] for c in found["talk"]["completions"]) <= 2
    lines = out.read_text().splitlines()
    out.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])  # killed while it wrote
    ended = command(*options)
    assert ended.status == 0 and "3 prompts completed" in ended.out
    assert read(out) == found


def test_a_seed_gives_the_same_completions_and_another_seed_others(command, prompts, tmp_path):
    found = []
    for seed in (0, 0, 1):
        (tmp_path / "out.jsonl").unlink(missing_ok=True)
        assert command(f"--config.input={prompts}", f"--config.seed={seed}").status == 0
        found.append(read(tmp_path / "out.jsonl"))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    "line, said",
    [
        ('{"prompt": "a"', "prompts.jsonl:2: no JSON"),
        ('{"text": "a"}', "prompts.jsonl:2: a line is one object with either prompt"),
        ('{"prompt": "a", "messages": []}', "prompts.jsonl:2: a line is one object with either prompt"),
        ('{"prompt": ""}', "prompts.jsonl:2: prompt is ''"),
        ('{"messages": []}', "prompts.jsonl:2: messages must be a list"),
        ('{"messages": [{"role": "user"}]}', "prompts.jsonl:2: messages must be a list"),
        ('{"prompt": "a", "id": "1"}', "prompts.jsonl:2: id '1' occurs twice"),
        ('{"prompt": "a", "max_new_tokens": 7}', "prompts.jsonl:2: max_new_tokens is 7; raise sampling.max_new_tokens"),
        ('{"prompt": "a", "max_new_tokens": 0.5}', "prompts.jsonl:2: max_new_tokens is 0.5"),
        (json.dumps({"prompt": "a" * 80}), "prompts.jsonl:2: 80 prompt tokens + 6 new tokens exceed"),
    ],
)
def test_a_wrong_line_is_named_and_what_was_done_stays(command, tmp_path, line, said):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "1+1="}\n' + line + "\n")
    ended = command(f"--config.input={path}", "--config.engine.slots=1")
    assert said in ended.line()
    assert finished(str(tmp_path / "out.jsonl")) <= {"1"}


def test_an_output_of_something_else_is_refused(command, prompts, tmp_path):
    (tmp_path / "out.jsonl").write_text('{"loss": 1}\n')
    assert "holds something else than completions" in command(f"--config.input={prompts}").line()


def test_a_conversation_remembers_and_forgets():
    said = []

    def answer(messages):
        said.append([m["content"] for m in messages])
        yield from ("an", "swer")

    out = io.StringIO()
    talk(
        Chat(answer, "be brief"), ["one", " ", "two", "/undo", "/what", "three", "/reset", "four", "/quit", "five"], out
    )
    assert said == [
        ["be brief", "one"],
        ["be brief", "one", "answer", "two"],
        ["be brief", "one", "answer", "three"],
        ["be brief", "four"],
    ]
    assert out.getvalue().count("answer\n") == 4 and out.getvalue().count("/reset begins anew") == 2


def test_what_cannot_be_answered_is_said_and_not_remembered():
    def answer(messages):
        raise UserError("too long")
        yield

    chat, out = Chat(answer), io.StringIO()
    talk(chat, ["one"], out)
    assert "too long; /undo or /reset makes room" in out.getvalue() and chat.messages == []


def test_the_model_answers_a_conversation(model):
    settings = GenerateSettings(
        model=ModelSettings(source=str(model), quantize=True),
        sampling=SamplingConfig(max_new_tokens=5),
        engine=EngineConfig(slots=1, prompt_buckets=(32,)),
    )
    session = open_session(settings)
    texts = ["".join(session.answer([{"role": "user", "content": "hi"}])) for _ in range(2)]
    assert texts[0] == texts[1] and session.engine.stats.tokens >= 1


@pytest.mark.parametrize(
    "wrong",
    [{"input": "a", "output": ""}, {"input": "a", "output": "a"}, {"engine": EngineConfig(group=2)}],
)
def test_settings_without_a_meaning_are_refused(wrong):
    with pytest.raises(UserError):
        GenerateSettings(**wrong)


def test_the_panel_is_compared_at_equal_tokens(cli, model, tmp_path):
    options = [f"--config.model.source={model}", f"--config.report={tmp_path / 'panel.json'}", "--config.problems=2"]
    options += ["--config.task.operands=(0, 40)", "--config.task.train=4", "--config.task.heldout=4"]
    options += ["--config.model.quantize=False", "--config.sampling.max_new_tokens=4"]
    roomy = save_long(model, tmp_path)
    options += [f"--config.model.source={roomy}", "--config.engine.prompt_buckets=(600,)", "--config.engine.slots=2"]
    ended = cli(*options, config="configs/panel_smollm2.py", module=panel, settings=PanelExperiment)
    assert ended.status == 0, ended
    report = json.loads((tmp_path / "panel.json").read_text())
    single, vote, experts = report["methods"]
    assert single["problems"] == vote["problems"] == experts["problems"] == 2
    assert abs(vote["tokens"] - experts["tokens"]) <= single["tokens"]  # the nearest number of votes
    assert len(report["panels"]) == 2 and "experts left" in ended.out


def save_long(model, tmp_path):
    """The tiny model, with room for what a panel reads."""
    import shutil

    folder = tmp_path / "long"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1024}))
    return folder


def test_the_report_says_every_figure():
    stats = EngineStats(
        prompts=3,
        prompt_tokens=30,
        tokens=20,
        prefill_seconds=1.0,
        decode_seconds=3.0,
        steps=8,
        refills=2,
        places=40,
        occupied=30,
        cache_bytes=3 * 2**19,
        first_token_seconds=[0.5, 0.1, 0.2],
        token_seconds=[0.04, 0.01, 0.02],
    )
    assert table(stats).splitlines() == [
        "prompts 3, of 30 tokens; tokens sampled 20, 5.0/s",
        "prefill 1.00 s, decoding 3.00 s in 8 steps; 75% of the places in use, 2 refilled",
        "key/value cache 1.5 MiB",
        "time to first token: 100 / 200 / 500 ms",
        "time per output token: 10 / 20 / 40 ms",
    ]


def test_a_file_completed_by_a_beam(command, prompts, model, tmp_path):
    lines = [json.loads(line) for line in prompts.read_text().splitlines()]
    prompts.write_text("".join(json.dumps({k: v for k, v in x.items() if k != "max_new_tokens"}) + "\n" for x in lines))
    options = [f"--config.input={prompts}", "--config.search=beam", "--config.beam.beams=3", "--config.beam.n_best=2"]
    options += ["--config.beam.max_new_tokens=5", "--config.engine.slots=4", "--config.logprobs=True"]
    ended = command(*options)
    assert ended.status == 0 and "6 prompts completed" in ended.out
    found = read(tmp_path / "out.jsonl")
    assert len(found) == 6
    loaded = load_model(str(model), None, "float32")
    ends = {"eos_ids": loaded.tokenizer.eos_ids, "pad_id": loaded.tokenizer.pad_id}
    beam = BeamConfig(max_new_tokens=5, beams=3, n_best=2)
    row = pad_prompts([loaded.tokenizer.encode(lines[0]["prompt"])], 16, loaded.tokenizer.pad_id)
    want = beam_search(loaded.base, None, *row, loaded.config, beam, **ends)
    first = found["1"]["completions"]
    assert [one["score"] for one in first] == pytest.approx(want.scores_BG[0].tolist(), abs=1e-4)
    for rank, one in enumerate(first):
        tokens = want.completions.tokens_BGC[0, rank][want.completions.mask_BGC[0, rank]].tolist()
        assert one["token_ids"] == tokens and one["text"] == loaded.tokenizer.decode(tokens)
        assert one["tokens"] == len(tokens) == len(one["logprobs"])
    kept = (tmp_path / "out.jsonl").read_text()
    assert "0 prompts completed" in command(*options).out and (tmp_path / "out.jsonl").read_text() == kept


def test_a_beam_is_for_files(command, prompts):
    assert "search 'beam' completes a file" in command("--config.search=beam").line()
    assert (
        "has its own max_new_tokens, which a beam cannot keep"
        in command(f"--config.input={prompts}", "--config.search=beam", "--config.beam.max_new_tokens=5").line()
    )
