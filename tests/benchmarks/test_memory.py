"""Where the bytes of a QLoRA step go: one dequantized layer at a time, moments on the host, 65B in 40 GiB."""

import dataclasses
import functools
import json
import math
import re

import jax
import pytest

from benchmarks import memory
from benchmarks.memory import LIMITS, dense_bytes, is_quantized, qlora
from experiments.plan.memory import GIB, compile_ahead, measure, memory_of
from experiments.plan.shapes import llama
from experiments.plan.steps import STEPS, Job, decode, sft, sft_score
from lqlm.adapters.configs import LoraConfig
from lqlm.optim.chains import OptimConfig
from lqlm.quant.qtensor import dequantize
from lqlm.trees import tree_bytes

CFG = llama(layers=16, width=256, ffn=512, heads=4, vocab_size=128)
JOB = Job(CFG, adapter=LoraConfig(rank=8, dtype="bfloat16"), tokens=64, group=2)
ALL_LAYERS = CFG.layers * CFG.width * CFG.width  # elements of the smallest linear map in all layers
BOTH_STEPS = pytest.mark.parametrize("step", STEPS)


def largest(text):
    """Elements of the largest array of a program, codes and masks aside."""
    shapes = re.findall(r"\b(?:f64|f32|f16|bf16|s64|s32|u32|s16|u16)\[([\d,]+)\]", text)
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


@functools.cache
def built(step, job=JOB):
    program = STEPS[step](job)
    return compile_ahead(program)[0], program


@BOTH_STEPS
def test_a_step_dequantizes_one_layer_at_a_time(step):
    compiled, program = built(step)
    dense = dense_bytes(program.base)
    assert dense == 2 * CFG.layers * (4 * 256 * 256 + 3 * 256 * 512)
    assert largest(compiled.as_text()) < ALL_LAYERS
    assert memory_of(compiled).temporaries < dense / 3


def densified(tree):
    return jax.tree.map(lambda x: dequantize(x) if is_quantized(x) else x, tree, is_leaf=is_quantized)


def loss(adapters, base, batch):
    return sft_score(JOB)(adapters, base, batch, None).logp.sum()


def test_the_check_sees_weights_dequantized_ahead():
    _, base, batch, _ = sft(JOB).arguments
    grad = jax.grad(lambda adapters, base, batch: loss(adapters, densified(base), batch))
    compiled = jax.jit(grad).lower(sft(JOB).adapters, base, batch).compile()
    assert largest(compiled.as_text()) >= ALL_LAYERS
    assert memory_of(compiled).temporaries > dense_bytes(base) / 3


def residuals(job):
    """What the forward pass of supervised fine-tuning keeps for the backward pass."""
    program = sft(job)
    _, base, batch, _ = program.arguments

    def backward(adapters, base, batch):
        return jax.vjp(lambda adapters: sft_score(job)(adapters, base, batch, None).logp.sum(), adapters)[1]

    pull = jax.eval_shape(backward, program.adapters, base, batch)
    return [x for x in jax.tree.leaves(pull) if x.dtype != "uint8"]


def test_no_residual_is_a_dequantized_weight():
    inputs = CFG.layers * JOB.tokens * CFG.width
    assert max(x.size for x in residuals(JOB)) == inputs < ALL_LAYERS  # the largest: each layer's input


def test_the_head_is_not_kept_for_every_chunk():
    cfg = dataclasses.replace(CFG, vocab_size=4096)
    kept = residuals(dataclasses.replace(JOB, cfg=cfg, chunk=8))
    assert max(x.size for x in kept) == cfg.vocab_size * cfg.width  # the head itself, an argument


@BOTH_STEPS
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_moments_are_host_arguments_and_nothing_is_hidden(step, dtype):
    compiled, program = built(step, dataclasses.replace(JOB, adapter=LoraConfig(rank=8, dtype=dtype)))
    found, stats = memory_of(compiled), compiled.memory_analysis()
    floats = [x for x in jax.tree.leaves(program.moments) if x.dtype == "float32"]  # not the counts
    assert tree_bytes(floats) == 2 * 4 * sum(x.size for x in jax.tree.leaves(program.adapters))  # whatever adapters are
    moments = tree_bytes([x for x in floats if x.ndim > 1])  # a head's, a vector, stay where they are
    assert found.host_arguments == found.host_outputs == moments
    assert found.arguments == tree_bytes(program.arguments) - moments  # a key or a mask forgotten would show
    assert found.arguments + found.host_arguments == stats.argument_size_in_bytes
    assert found.outputs < 2000  # adapters and moments take their old places; the rest is scalars
    assert found.temporaries == stats.temp_size_in_bytes


def test_one_leaf_of_moments_is_on_the_device_at_a_time():
    program = STEPS["grpo"](JOB)
    text = program.function.trace(*program.arguments).lower(lowering_platforms=("cuda",)).as_text()
    moves = re.findall(r'_xla_buffer_placement = "(device|pinned_host)"', text)
    leaves = len(jax.tree.leaves(program.adapters))
    assert moves == ["device", "device", "pinned_host", "pinned_host"] * leaves


@BOTH_STEPS
def test_moments_do_not_become_temporaries(step):
    """With moments far larger than all activations, temporaries stay at the gradients and little else."""
    cfg = llama(layers=4, width=128, ffn=128, heads=2, vocab_size=128)
    usage = measure(Job(cfg, adapter=LoraConfig(rank=128), tokens=16), step)
    assert usage.moments > 2 * usage.adapters - 100
    assert usage.memory.temporaries < 1.6 * usage.adapters


def test_decoding_dequantizes_inside_the_loop_over_tokens():
    program = decode(JOB, new_tokens=16)
    compiled, _ = compile_ahead(program)
    assert largest(compiled.as_text()) < ALL_LAYERS
    assert memory_of(compiled).temporaries < dense_bytes(program.base) / 3


def test_the_command_prints_and_writes(monkeypatch, capsys, tmp_path):
    tiny = llama(layers=2, width=64, ffn=64, heads=2, vocab_size=64)
    monkeypatch.setattr(memory, "SHAPES", {"7B": tiny})
    memory.main(["--shapes", "7B", "--adapters", "bfloat16", "--json", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    (line,) = found["training"]
    assert (
        line["device"] >= line["memory"]["arguments"] + line["memory"]["temporaries"] > line["base"] + line["adapters"]
    )
    assert sum(line["parts"].values()) == line["device"]
    assert found["decoding"]["dense"] == 2 * 2 * 7 * 64 * 64
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].split()[:2] == ["shape", "step"] and shown[2].split()[:3] == ["7B", "sft", "bfloat16"]


@pytest.mark.slow
@pytest.mark.parametrize("shape", LIMITS)
def test_large_models_train_within(shape):
    usage = measure(qlora(shape))
    assert usage.device <= LIMITS[shape]
    assert usage.memory.host_arguments > 3.9 * usage.adapters  # the moments, apart


@pytest.mark.slow
def test_65b_with_float32_adapters_and_grpo_take_little_more():
    assert measure(qlora("65B", "float32", optim=OptimConfig(paging="slice"))).device <= 41 * GIB
    assert measure(qlora("65B"), "grpo").device <= 38 * GIB
