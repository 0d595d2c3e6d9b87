"""``--plan``: what a step takes, from shapes alone, against the step that is really run; and what to change."""

import dataclasses
import itertools
import json
import re

import jax
import pytest

from experiments.plan import __main__ as command
from experiments.plan.advice import advise, changes
from experiments.plan.memory import GIB, Memory, Usage, in_transit, measure, memory_of
from experiments.plan.rollouts import rollouts_of
from experiments.plan.settings import PlanSettings, job_of
from experiments.plan.shapes import SHAPES, abstract_base, llama, read_shape
from experiments.plan.steps import Job, sft
from experiments.sft.setup import build
from experiments.sft.step import batch_of
from lqlm.adapters.configs import FullConfig, Ia3Config, LoraConfig, PrefixConfig, PromptConfig
from lqlm.errors import UserError
from lqlm.models.hf_config import config_to_hf
from lqlm.optim.chains import OptimConfig
from lqlm.quant.qtensor import QuantConfig
from lqlm.trees import tree_bytes
from tests.experiments.tiny_model import tiny_sft
from tests.tiny import tiny_base, tiny_config

TINY = llama(layers=2, width=64, ffn=64, heads=2, vocab_size=64)


def test_the_plan_is_within_a_tenth_of_the_real_step(model, records, tmp_path):
    """The update of experiments.sft, compiled for its real arrays."""
    settings = tiny_sft(model, records, tmp_path)
    setup = build(settings)
    rows, _ = setup.data.feed.at(0, [])
    arguments = (setup.state, setup.model.base, batch_of(rows), jax.random.key(0))
    real = memory_of(setup.functions.update.lower(*arguments).compile())
    plan = PlanSettings(
        model=str(model),
        batch=rows.tokens_BT.shape[0],
        length=rows.tokens_BT.shape[1],
        micro_batches=settings.run.micro_batches,
        remat=settings.run.remat,
        logprob_chunk=settings.run.logprob_chunk,
        dtype=settings.model.dtype,
        quantize=settings.model.quantize,
        quant=settings.model.quant,
        adapter=settings.adapter,
        optim=settings.optim,
    )
    usage = measure(job_of(plan))
    assert usage.memory.device == pytest.approx(real.device, rel=0.1)
    assert usage.base == tree_bytes(setup.model.base) and usage.adapters == tree_bytes(setup.state.adapters)


def test_reward_models_and_ppo_are_planned_for_opt_too():
    """Beside SFT: a head for pairs; for PPO two adapters, the value function's with the head."""
    job = Job(tiny_config("opt"), QuantConfig("nf4", 32), adapter=LoraConfig(rank=2), batch=2, tokens=24, completion=8)
    sft_usage, judge, ppo_usage = (measure(job, step) for step in ("sft", "reward_model", "ppo"))
    head = 4 * (job.cfg.width + 1)
    assert judge.base == ppo_usage.base == sft_usage.base
    assert judge.adapters == sft_usage.adapters + head and ppo_usage.adapters == 2 * sft_usage.adapters + head
    assert ppo_usage.memory.arguments > judge.memory.arguments > sft_usage.memory.arguments
    assert min(ppo_usage.memory.temporaries, judge.memory.temporaries) > 0
    longer = measure(dataclasses.replace(job, completion=20), "reward_model")  # two of them for one prompt
    assert longer.memory.arguments > judge.memory.arguments
    with pytest.raises(UserError, match="completion is 512"):
        PlanSettings(completion=512)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "opt"])
@pytest.mark.parametrize("quant", [None, QuantConfig("nf4", 32)])
def test_abstract_bases_have_the_shapes_of_real_ones(family, quant):
    cfg = tiny_config(family)
    real = jax.eval_shape(lambda key: tiny_base(key, cfg, quant, "bfloat16"), jax.random.key(0))
    found = abstract_base(cfg, quant)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert shapes(found) == shapes(real)


KINDS = [LoraConfig(rank=4, init="pissa"), Ia3Config(), PromptConfig(tokens=4), PrefixConfig(tokens=4), FullConfig()]


@pytest.mark.parametrize("adapter", KINDS, ids=lambda x: type(x).__name__)
def test_every_adapter_can_be_planned_and_the_parts_add_up(adapter):
    quant = None if isinstance(adapter, FullConfig) else QuantConfig()
    usage = measure(Job(TINY, quant=quant, adapter=adapter, tokens=8, chunk=8))
    assert sum(usage.parts.values()) == usage.device >= usage.base + usage.adapters > 0
    if isinstance(adapter, FullConfig):
        assert usage.base == 0 and usage.adapters > 4 * TINY.vocab_size * TINY.width


def fits_by_hand(job):
    """A stand-in for the compiler: bytes that fall with every change that there is."""
    size = 1000 * (job.quant.bits if job.quant else 16)
    size += job.adapter.rank * (4 if job.adapter.dtype == "float32" else 2)
    size += job.batch // job.micro_batches * job.tokens * (1 if job.remat == "full" else 4)
    moments = 0 if job.optim.paging != "none" else job.adapter.rank * (2 if job.optim.optimizer == "adamw8bit" else 8)
    return Usage(size, 0, moments, 0, Memory(size, moments, 0, 0, 0, 0), 0, 0.0)


LARGE = Job(
    TINY,
    adapter=LoraConfig(rank=64),
    optim=OptimConfig(paging="none"),
    batch=4,
    tokens=512,
    remat="none",
)


@pytest.mark.parametrize(
    ("room", "words"),
    [
        (7000, ["remat=full"]),
        (6300, ["remat=full", "optim.paging=leaf"]),
        (4900, ["remat=full", "micro_batches=4"]),
        (4300, ["adapter.dtype=bfloat16", "micro_batches=4", "length=128"]),
        (2200, ["micro_batches=4", "length=64", "codebook=nf2"]),
        (10, ["remat=full", "codebook=nf2"]),
    ],
)
def test_suggestions_fit_and_none_is_idle(room, words):
    found = advise(LARGE, room, fits_by_hand)
    said = [s.change.words for s in found]
    last = -1
    for word in words:  # in this order, maybe with others between
        last = next(i for i, words_said in enumerate(said) if word in words_said and i > last)
    sizes = [fits_by_hand(LARGE).device, *(s.usage.device for s in found)]
    assert all(a > b for a, b in itertools.pairwise(sizes))
    if room < 2000:
        return
    assert sizes[-1] <= room
    for left_out in found[:-1]:
        job = LARGE
        for suggestion in found:
            job = job if suggestion is left_out else suggestion.change.apply(job)
        assert fits_by_hand(job).device > room


def test_nothing_is_suggested_where_it_fits():
    assert advise(LARGE, 10**9, fits_by_hand) == []


def test_changes_only_ever_take_away():
    small = dataclasses.replace(LARGE, adapter=LoraConfig(rank=4, dtype="bfloat16"), batch=1, tokens=8, chunk=8)
    small = dataclasses.replace(small, remat="full", quant=QuantConfig("nf2"))
    small = dataclasses.replace(small, optim=OptimConfig(paging="slice", optimizer="adamw8bit"))
    assert {change.apply(small) for change in changes(small)} == {small}


def test_moments_in_transit_count_where_they_exceed_the_temporaries():
    usage = Usage(10, 5, 0, 8, Memory(20, 30, 0, 0, 0, 0), 0, 0.0)
    assert usage.device == 50
    assert dataclasses.replace(usage, in_transit=40).device == 50 + 5 + 40 - 30


@pytest.mark.parametrize(("paging", "share"), [("whole", 1), ("leaf", 1 / 8), ("slice", 1 / 16)])
def test_less_is_in_transit_the_finer_the_paging(paging, share):
    adapter = LoraConfig(rank=64, targets=("[qkvo]_proj",))  # eight leaves of one size
    job = Job(llama(2, 64, 64, 2, 64), adapter=adapter, tokens=4, optim=OptimConfig(paging=paging))
    assert in_transit(job, sft(job), 1600) == 2 * 1600 * share
    assert in_transit(job, sft(job), 0) == 0


def test_models_by_name_file_and_header(model, tmp_path):
    assert read_shape("65B") is SHAPES["65B"] and read_shape(str(model)) == read_shape(f"{model}/config.json")
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(SHAPES["33B"])))  # no weights beside it
    assert read_shape(str(tmp_path)) == SHAPES["33B"]
    for wrong, words in {"8B": "is no shape", "nothing.gguf": "cannot be read as GGUF"}.items():
        with pytest.raises(UserError, match=words):
            read_shape(wrong)
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(UserError, match=r"config.json: config: model_type 'mamba' is not supported"):
        read_shape(str(tmp_path))


@pytest.fixture
def plan(cli, model):
    whole = {"config": "configs/plan.py", "module": command, "settings": PlanSettings}
    small = ("--config.length=32", "--config.adapter.rank=4", f"--config.model={model}")
    return lambda *arguments: cli(*small, *arguments, **whole)


def test_the_command_prints_and_writes(plan, tmp_path):
    ended = plan(f"--config.json={tmp_path / 'plan.json'}")
    assert ended.status == 0 and "it fits, 47.00" in ended.out and "on a GPU of 48 GiB less 1 in reserve" in ended.out
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["fits"] and sum(found["usage"]["parts"].values()) == found["usage"]["device"]
    assert found["suggestions"] == []


def test_rollouts_are_planned_by_hand():
    job = Job(TINY, batch=2, tokens=24, completion=8, group=3, dtype="float32")
    memory = Memory(0, 0, 0, 15, 0, 0)
    usage = Usage(base=10, adapters=20, moments=40, in_transit=0, memory=memory, logits=0, seconds=0.0)
    found = rollouts_of(job, usage, merge=True)
    assert (found.base, found.trained) == (10, 20 + 40 - 15)
    assert found.copy == 2 * 7 * 64 * 64 * 4
    assert found.cache == 2 * (16 + 3 * 8) * 2 * 2 * 2 * 32 * 4  # tokens; keys and values, layers, heads, width, bytes
    assert found.logits == 2 * 4 * 2 * 3 * 64
    assert rollouts_of(job, usage, merge=False).device == found.device - found.copy
    fewer = rollouts_of(job, usage, merge=True, slots=1, cache="bfloat16")
    assert (fewer.cache, fewer.logits) == (found.cache // 4, found.logits // 2)
    assert rollouts_of(job, usage, merge=True, slots=5) == found


def test_sampling_is_planned_beside_the_update(plan, tmp_path):
    ended = plan("--config.step=grpo", f"--config.json={tmp_path / 'plan.json'}")
    assert "its rollouts hold" in ended.out and "sampling fits, 47.00 GiB" in ended.out
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["fits"] and found["rollouts"]["copy"] > 0
    assert "rollouts" not in plan().out


def test_slots_are_suggested_where_sampling_does_not_fit(plan):
    room = ("--config.gpu_gib=0.015", "--config.reserve_gib=0.0")
    wide = ("--config.step=grpo", "--config.batch=64", "--config.micro_batches=64", "--config.group=64")
    found = plan(*wide, *room, "--config.suggest=False").out
    slots = int(re.search(r"run\.slots=(\d+) makes 0\.01 GiB", found)[1])
    assert 1 < slots < 64 and "sampling does not fit" in found
    assert "sampling fits" in plan(*wide, *room, f"--config.slots={slots}").out


def test_what_does_not_fit_is_said(plan):
    ended = plan("--config.gpu_gib=0.0001", "--config.reserve_gib=0.0", "--config.suggest=False")
    assert ended.status == 0 and "it does not fit: 0.00 GiB too much" in ended.out


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--config.batch=0", "batch is 0; give 1 or more"),
        ("--config.gpu_gib=0.5", "the GPU must have more"),
        ("--config.micro_batches=3", "a batch of 1 in 3 micro_batches: choose a divisor"),
        ("--config.model=12B", "'12B' is no shape (7B, 13B, 33B, 65B"),
        ("--config.remat=some", "config.remat is 'some'; choose"),
    ],
)
def test_bad_input_is_said_in_one_line(plan, argument, words):
    assert words in plan(argument).line()


@pytest.mark.slow
def test_7b_on_8_gib():
    usage = measure(job_of(PlanSettings(model="7B", gpu_gib=8.0)))
    assert 3.9 * GIB < usage.device < 5.5 * GIB and usage.parts["base"] > 0.6 * usage.device
