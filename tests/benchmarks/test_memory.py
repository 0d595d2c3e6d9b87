"""Where the bytes of a QLoRA step go: one dequantized layer at a time, moments on the host, 65B in 40 GiB."""

import dataclasses
import functools
import json
import math
import re

import jax
import pytest

from benchmarks import memory
from benchmarks.memory import GIB, compile_ahead, dense_bytes, measure, memory_of, nodes
from benchmarks.steps import (
    SHAPES,
    STEPS,
    Job,
    abstract_adapters,
    abstract_base,
    decode,
    llama,
    sft_loss,
    train_optimizer,
)
from lqlm.optim.paged import PagedState
from lqlm.quant.qtensor import QTensor, dequantize
from lqlm.trees import tree_bytes

CFG = llama(layers=16, width=256, ffn=512, heads=4, vocab_size=128)
JOB = Job(CFG, rank=8, tokens=64, group=2)
ALL_LAYERS = CFG.layers * CFG.width * CFG.width  # elements of the smallest linear map in all layers
BOTH_STEPS = pytest.mark.parametrize("step", STEPS)


def largest(text):
    """Elements of the largest array of a program, codes and masks aside."""
    shapes = re.findall(r"\b(?:f64|f32|f16|bf16|s64|s32|u32|s16|u16)\[([\d,]+)\]", text)
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


@functools.cache
def built(step, job=JOB):
    function, arguments = STEPS[step](job, train_optimizer())
    return compile_ahead(function, arguments)[0], arguments


@BOTH_STEPS
def test_a_step_dequantizes_one_layer_at_a_time(step):
    compiled, _ = built(step)
    dense = dense_bytes(abstract_base(CFG))
    assert dense == 2 * CFG.layers * (4 * 256 * 256 + 3 * 256 * 512)
    assert largest(compiled.as_text()) < ALL_LAYERS
    assert memory_of(compiled).temporaries < dense / 3


def is_quantized(x):
    return isinstance(x, QTensor)


def densified(tree):
    return jax.tree.map(lambda x: dequantize(x) if is_quantized(x) else x, tree, is_leaf=is_quantized)


def test_the_check_sees_weights_dequantized_ahead():
    base = abstract_base(CFG)
    _, (adapters, _, _, tokens, mask) = STEPS["sft"](JOB, train_optimizer())
    loss = jax.grad(lambda adapters, base, *row: sft_loss(adapters, densified(base), *row, CFG))
    compiled = jax.jit(loss).lower(adapters, base, tokens, mask).compile()
    assert largest(compiled.as_text()) >= ALL_LAYERS
    assert memory_of(compiled).temporaries > dense_bytes(base) / 3


def test_no_residual_is_a_dequantized_weight():
    _, (adapters, _, base, *row) = STEPS["sft"](JOB, train_optimizer())

    def backward(adapters, base, *row):
        return jax.vjp(lambda adapters: sft_loss(adapters, base, *row, CFG), adapters)[1]

    pull = jax.eval_shape(backward, adapters, base, *row)
    kept = [x for x in jax.tree.leaves(pull) if x.dtype != "uint8"]
    inputs = CFG.layers * JOB.tokens * CFG.width
    assert max(x.size for x in kept) == inputs < ALL_LAYERS  # the largest: each layer's input


@BOTH_STEPS
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_moments_are_host_arguments_and_nothing_is_hidden(step, dtype):
    compiled, arguments = built(step, dataclasses.replace(JOB, adapter_dtype=dtype))
    found, stats = memory_of(compiled), compiled.memory_analysis()
    moments = tree_bytes([x for x in jax.tree.leaves(nodes(arguments, PagedState)) if x.size > 1])
    adapters = abstract_adapters(abstract_base(CFG), JOB)
    assert moments == 2 * 4 * sum(x.size for x in jax.tree.leaves(adapters))  # float32 whatever the adapters are
    assert found.host_arguments == found.host_outputs == moments
    assert found.arguments == tree_bytes(arguments) - moments  # a key or a mask forgotten would show
    assert found.arguments + found.host_arguments == stats.argument_size_in_bytes
    assert found.outputs < 2000  # adapters and moments take their old places; the rest is scalars
    assert found.temporaries == stats.temp_size_in_bytes


def test_one_leaf_of_moments_is_on_the_device_at_a_time():
    function, arguments = STEPS["grpo"](JOB, train_optimizer())
    text = function.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    moves = re.findall(r'_xla_buffer_placement = "(device|pinned_host)"', text)
    leaves = len(jax.tree.leaves(arguments[0].adapters))
    assert moves == ["device", "device", "pinned_host", "pinned_host"] * leaves


def test_moments_do_not_become_temporaries():
    """With moments far larger than all activations, temporaries stay at the gradients and little else."""
    job = Job(
        llama(layers=4, width=128, ffn=128, heads=2, vocab_size=128), rank=128, adapter_dtype="float32", tokens=16
    )
    for step in STEPS:
        report = measure("tiny", job, step)
        assert report.optimizer > 2 * report.adapters - 100
        assert report.memory.temporaries < 1.6 * report.adapters


def test_decoding_dequantizes_inside_the_loop_over_tokens():
    function, arguments = decode(JOB, new_tokens=16)
    compiled, _ = compile_ahead(function, arguments)
    assert largest(compiled.as_text()) < ALL_LAYERS
    assert memory_of(compiled).temporaries < dense_bytes(arguments[0]) / 3


def test_the_command_prints_and_writes(monkeypatch, capsys, tmp_path):
    tiny = llama(layers=2, width=64, ffn=64, heads=2, vocab_size=64)
    monkeypatch.setattr(memory, "SHAPES", {"7B": tiny})
    memory.main(["--adapters", "bfloat16", "--json", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    (line,) = found["training"]
    assert (
        line["device"] >= line["memory"]["arguments"] + line["memory"]["temporaries"] > line["base"] + line["adapters"]
    )
    assert found["decoding"]["dense"] == 2 * 2 * 7 * 64 * 64
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].split()[:2] == ["shape", "step"] and shown[2].split()[:3] == ["7B", "sft", "bfloat16"]


def test_moments_in_transit_count_where_they_exceed_the_temporaries():
    report = measure("tiny", JOB, "sft")
    assert report.device == report.memory.device
    crowded = dataclasses.replace(report, in_transit=report.memory.temporaries)
    assert crowded.device == report.memory.device + report.adapters


@pytest.mark.slow
@pytest.mark.parametrize("dtype, limit", [("bfloat16", 38), ("float32", 41)])
def test_65b_trains_within(dtype, limit):
    report = measure("65B", Job(SHAPES["65B"], adapter_dtype=dtype), "sft")
    assert report.device <= limit * GIB
    assert report.memory.host_arguments > 5.9 * GIB  # the moments, apart
    assert report.memory.arguments > report.base + report.adapters > 33 * GIB


@pytest.mark.slow
def test_65b_grpo_fits_too():
    assert measure("65B", Job(SHAPES["65B"]), "grpo").device <= 38 * GIB
