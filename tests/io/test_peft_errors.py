"""PEFT directories and adapters that do not fit: one line that names the file and the tensor."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest

from lqlm.adapters.configs import FullConfig, Ia3Config, LoraConfig, PrefixConfig, PromptConfig
from lqlm.errors import UserError
from lqlm.io.peft import load_peft, save_peft
from lqlm.io.peft_config import lora_fields
from lqlm.models.config import ModelConfig
from tests.io.peft_cases import WEIGHTS, edit_config, edit_weights, model_config, put, random_adapters
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def golden(goldens):
    return goldens / "peft"


@pytest.fixture(scope="module")
def cfg(golden) -> ModelConfig:
    return model_config(golden, "lora")


def check_refusal(golden, cfg, tmp_path, case, edit, words):
    directory = pathlib.Path(shutil.copytree(golden / case, tmp_path / "adapter"))
    edit(directory)
    with pytest.raises(UserError, match=words) as info:
        load_peft(directory, cfg)
    assert "\n" not in str(info.value) and str(directory) in str(info.value)


Q_A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
IA3_K = "base_model.model.model.layers.1.self_attn.k_proj.ia3_l"
M = "base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector"
PROMPT = "prompt_embeddings"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda d: edit_config(d, peft_type="LOHA"),
            r"adapter_config\.json: peft_type 'LOHA' is not supported; only LORA, IA3, PROMPT_TUNING, P_TUNING, PREFIX",
        ),
        (lambda d: edit_config(d, peft_type="IA3"), r"lora_A\.weight has no place in .* layers with \(IA\)\^3"),
        (lambda d: edit_config(d, peft_type="PREFIX_TUNING"), r"num_virtual_tokens = None; it must be a whole number"),
        (lambda d: edit_config(d, use_dora=True), r"tensor .*down_proj\.lora_magnitude_vector is missing"),
        (lambda d: edit_config(d, lora_bias=True), r"tensor .*down_proj\.lora_B\.bias is missing"),
        (lambda d: edit_config(d, use_dora=True, lora_bias=True), r"adapter_config\.json: lora\.lora_bias cannot be"),
        (lambda d: edit_config(d, bias="some"), r"adapter_config\.json: bias = 'some' is not supported"),
        (lambda d: edit_config(d, use_qalora=True, qalora_group_size=5), r"group_size 5 does not divide the 16 inputs"),
        (lambda d: edit_config(d, use_qalora=True, qalora_group_size=0), r"qalora_group_size = 0; it must be a whole"),
        (lambda d: edit_config(d, use_qalora=True, qalora_group_size=4), r"lora_A\.weight has shape .* need \[3, 4\]"),
        (
            lambda d: edit_config(d, rank_pattern={"q_proj": 2}),
            r"q_proj\.lora_A\.weight has shape \[3, 16\]; rank 2 of",
        ),
        (lambda d: edit_config(d, rank_pattern={"q_proj": 0}), r"adapter_config\.json: rank_pattern = .*above 0"),
        (lambda d: edit_config(d, rank_pattern=["q_proj"]), r"rank_pattern = \['q_proj'\]; it must be an object"),
        (lambda d: edit_config(d, alpha_pattern={"(": 2}), r"adapter_config\.json: .*'\(' is not a regular expression"),
        (lambda d: edit_config(d, alpha_pattern={"q_proj": "2"}), r"alpha_pattern = .*numbers above 0"),
        (lambda d: edit_config(d, lora_alpha=0), r"adapter_config\.json: lora\.alpha is 0\.0; it must be above 0"),
        (lambda d: edit_config(d, lora_dropout=1.5), r"adapter_config\.json: lora\.dropout is 1\.5"),
        (lambda d: edit_config(d, init_lora_weights="pissa"), r"init_lora_weights = 'pissa' is not supported"),
        (lambda d: edit_config(d, layers_to_transform=[0]), r"layers_to_transform = \[0\] is not supported"),
        (
            lambda d: edit_config(d, r=4),
            r"tensor .*lora_A\.weight has shape \[3, \d+\]; rank 4 of adapter_config\.json",
        ),
        (lambda d: edit_config(d, r=None), r"adapter_config\.json: r = None; it must be a whole number"),
        (lambda d: edit_config(d, lora_alpha="8"), r"lora_alpha = '8' and .* must be numbers"),
        (lambda d: edit_config(d, r=0), r"r = 0.*at least 1"),
        (lambda d: (d / "adapter_config.json").write_text("{"), r"adapter_config\.json: is not valid JSON"),
        (lambda d: (d / "adapter_config.json").unlink(), r"adapter_config\.json: no such file; a PEFT adapter"),
        (lambda d: (d / WEIGHTS).rename(d / "adapter_model.bin"), r"adapter_model\.safetensors: no such file"),
        (lambda d: (d / WEIGHTS).write_bytes((d / WEIGHTS).read_bytes()[:-9]), r"safetensors: truncated"),
        (lambda d: edit_weights(d, lambda t: t.pop(Q_A)), r"tensor .*layers\.1.*q_proj\.lora_A\.weight is missing"),
        (lambda d: edit_weights(d, lambda t: put(t, Q_A, t[Q_A][:, :-1].copy())), r"q_proj\.lora_A.*shape \[3, 15\]"),
        (lambda d: edit_weights(d, lambda t: put(t, Q_A, t[Q_A] * np.float32(np.nan))), r"lora_A\.weight holds 48 NaN"),
        (
            lambda d: edit_weights(d, lambda t: put(t, "transformer.h.0.attn", t[Q_A])),
            r"tensor transformer\.h.*no place",
        ),
        (lambda d: edit_weights(d, lambda t: put(t, Q_A.replace("s.1.", "s.2."), t[Q_A])), r"layers\.2.*2 layers"),
        (lambda d: edit_weights(d, lambda t: t.clear()), r"holds no tensor"),
    ],
)
def test_what_is_refused(golden, cfg, tmp_path, edit, words):
    check_refusal(golden, cfg, tmp_path, "lora", edit, words)


NAN = np.float32(np.nan)


@pytest.mark.parametrize(
    ("case", "edit", "words"),
    [
        ("ia3", lambda d: edit_config(d, feedforward_modules=[]), r"down_proj\.ia3_l has shape \[1, 24\]; .*\[16, 1\]"),
        (
            "ia3",
            lambda d: edit_config(d, feedforward_modules=r".*0\.mlp\.down_proj"),
            r"adapter_config\.json: feedforward_modules = .* is of some layers' down_proj only",
        ),
        ("ia3", lambda d: edit_weights(d, lambda t: t.pop(IA3_K)), r"layers\.1\.self_attn\.k_proj\.ia3_l is missing"),
        ("ia3", lambda d: edit_weights(d, lambda t: put(t, IA3_K, t[IA3_K] * NAN)), r"k_proj\.ia3_l holds 8 NaN"),
        ("ia3", lambda d: edit_config(d, fan_in_fan_out=True), r"fan_in_fan_out = True is not supported"),
        ("prompt", lambda d: edit_config(d, num_virtual_tokens=4), r"prompt_embeddings has shape .* need \[4, 16\]"),
        ("prompt", lambda d: edit_config(d, num_virtual_tokens="3"), r"num_virtual_tokens = '3'; it must be a whole"),
        ("prompt", lambda d: edit_config(d, num_transformer_submodules=2), r"num_transformer_submodules = 2 is not"),
        (
            "prompt",
            lambda d: edit_config(d, peft_type="PREFIX_TUNING"),
            r"prompt_embeddings has shape .* need \[3, 48\]",
        ),
        (
            "prompt",
            lambda d: edit_weights(d, lambda t: put(t, "more", t[PROMPT])),
            r"tensor more has no place in .*prompt",
        ),
        ("prefix", lambda d: edit_weights(d, lambda t: put(t, PROMPT, t[PROMPT] * NAN)), r"embeddings holds 144 NaN"),
        ("prefix", lambda d: edit_weights(d, lambda t: put(t, "x", t.pop(PROMPT))), r"tensor x has no place"),
        (
            "prefix",
            lambda d: edit_config(d, peft_type="PROMPT_TUNING"),
            r"prompt_embeddings has shape .* need \[3, 16\]",
        ),
        ("dora", lambda d: edit_config(d, use_dora=False), r"lora_magnitude_vector has no place"),
        ("dora", lambda d: edit_weights(d, lambda t: put(t, M, t[M][:5].copy())), r"vector has shape \[5\]; .*\[24\]"),
        ("bias_all", lambda d: edit_config(d, bias="lora_only"), r"k_proj\.bias has no place"),
        ("bias_lora_only", lambda d: edit_config(d, bias="all"), r"k_proj\.bias is missing"),
        ("patterns", lambda d: edit_config(d, rank_pattern={}), r"lora_A\.weight has shape .*; rank 2 of"),
        (
            "qalora",
            lambda d: edit_config(d, use_qalora=False),
            r"k_proj\.lora_A\.weight has shape \[2, 2\]; .*\[2, 16\]",
        ),
    ],
)
def test_what_is_refused_of_other_kinds(golden, tmp_path, case, edit, words):
    check_refusal(golden, model_config(golden, case), tmp_path, case, edit, words)


def test_an_adapter_of_another_model_is_refused(golden, cfg):
    with pytest.raises(UserError, match=r"k_proj\.lora_B\.weight has shape \[12, 3\]; .* need \[24, 3\]"):
        load_peft(golden / "lora", dataclasses.replace(cfg, kv_heads=4))
    with pytest.raises(UserError, match=r"layers\.2\..* is missing; the adapter is incomplete or"):
        load_peft(golden / "lora", dataclasses.replace(cfg, layers=3))


def test_adapters_that_contradict_their_config_are_not_written(cfg, tmp_path):
    lora_cfg = LoraConfig(rank=2, alpha=4.0)
    adapters = random_adapters(cfg, lora_cfg)
    for other, words in (
        (dataclasses.replace(lora_cfg, rank=3, alpha=6.0), r"adapter q_proj: factors are \[2, 16, 2\]"),
        (dataclasses.replace(lora_cfg, alpha=5.0), r"adapter q_proj: scaling is 2\.0, the config's alpha / rank 2\.5"),
    ):
        with pytest.raises(UserError, match=words):
            save_peft(tmp_path / "out", adapters, other, cfg, "base")
    with pytest.raises(UserError, match="'lm_head' is on no linear layer"):
        save_peft(tmp_path / "out", {"layers": {"lm_head": adapters["layers"]["q_proj"]}}, lora_cfg, cfg, "base")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", ["ia3", "prompt", "prefix", "lora_bias", "dora"])
def test_no_kind_fits_another_model(golden, case):
    other = dataclasses.replace(model_config(golden, case), width=32, kv_heads=1)
    with pytest.raises(UserError, match=r"this model.* need"):
        load_peft(golden / case, other)


@pytest.mark.parametrize("init", ["pissa", "olora", "loftq"])
def test_without_the_initial_adapters_a_changed_base_is_refused(cfg, tmp_path, init):
    lora_cfg = LoraConfig(rank=2, targets=("q_proj",))
    with pytest.raises(UserError, match=f"lora.init '{init}' changed the base: give save_peft the initial adapters"):
        changed = dataclasses.replace(lora_cfg, init=init)
        save_peft(tmp_path / "out", random_adapters(cfg, lora_cfg), changed, cfg, "base")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("made_with", "given", "words"),
    [
        (LoraConfig(rank=2), LoraConfig(rank=2, dora=True), "lora_bias, dora or group is another"),
        (LoraConfig(rank=2), LoraConfig(rank=2, lora_bias=True), "lora_bias, dora or group is another"),
        (LoraConfig(rank=2, group=4), LoraConfig(rank=2), "factors are"),
        (
            LoraConfig(rank=2),
            LoraConfig(rank=2, rank_pattern=(("layers.1.*", 1),)),
            r"ranks are \[2, 2\], by .* \[2, 1\]",
        ),
        (LoraConfig(rank=2), Ia3Config(targets=("all-linear",), feedforward=()), "not what its config says"),
        (LoraConfig(rank=2), PromptConfig(tokens=3), "adapters are of kind layers, their config of prompt tuning"),
        (LoraConfig(rank=2), PrefixConfig(tokens=3), "adapters are of kind layers, their config of prefix tuning"),
        (LoraConfig(rank=2), FullConfig(), "full training has no adapter: write the model itself"),
        (Ia3Config(), LoraConfig(rank=2), "adapter k_proj is no LoRA"),
        (Ia3Config(), Ia3Config(feedforward=()), "adapter down_proj: not what its config says"),
        (Ia3Config(), Ia3Config(targets=("k_proj",), feedforward=()), "the config's targets are others"),
        (PromptConfig(tokens=3), PromptConfig(tokens=4), r"prompt tuning: prompt is \[3, 16\]"),
        (PrefixConfig(tokens=3), PrefixConfig(tokens=4), r"prefix tuning: k is \[2, 3, 12\]"),
        (PrefixConfig(tokens=3), LoraConfig(rank=2), "adapters are of kind prefix, their config is of linear layers"),
    ],
)
def test_adapters_of_another_kind_than_their_config_are_not_written(cfg, tmp_path, made_with, given, words):
    with pytest.raises(UserError, match=words) as info:
        save_peft(tmp_path / "out", random_adapters(cfg, made_with), given, cfg, "base")
    assert "\n" not in str(info.value) and not (tmp_path / "out").exists()


def test_patterns_for_opt_are_not_left_out_in_silence(golden, tmp_path):
    directory = pathlib.Path(shutil.copytree(golden / "lora", tmp_path / "adapter"))
    edit_config(directory, alpha_pattern={"fc1": 32})
    with pytest.raises(UserError, match=r"adapter_config\.json: rank_pattern, alpha_pattern: an OPT adapter has none"):
        load_peft(directory, tiny_config("opt"))
    with pytest.raises(UserError, match="lora: rank_pattern, alpha_pattern"):
        lora_fields(LoraConfig(rank_pattern=(("fc1", 2),)), ["up_proj"], tiny_config("opt"))
