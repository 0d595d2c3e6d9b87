"""The rules of sharding on abstract trees, and the settings of a mesh."""

import collections
import contextlib
import dataclasses
import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from experiments.hosts import agree, gathered_texts, shared_rewards
from experiments.mesh import axis_lengths, check_rows, make_mesh
from experiments.settings import HostSettings
from lqlm.adapters.configs import LoraConfig
from lqlm.adapters.init import init_adapters
from lqlm.errors import UserError
from lqlm.layout import AXES, constrain, fit, on_mesh, parts, shardwise
from lqlm.optim.chains import OptimConfig, make_optimizer
from lqlm.quant.double import DoubleQuantized
from lqlm.quant.qtensor import QTensor, QuantConfig, quantize
from lqlm.rewards.combine import Rewards, score_all
from lqlm.rewards.specs import RewardSpec, Sample
from lqlm.sharding import shardings, specs
from tests.tiny import tiny_base, tiny_config

CFG = tiny_config(width=128, ffn=256, heads=8, kv_heads=2, head_dim=32, vocab_size=64)


QUANT = QuantConfig(double_block=4)


def base_of(quant=QUANT):
    return jax.eval_shape(lambda: tiny_base(jax.random.key(0), CFG, quant))


def adapters_of(base):
    cfg = LoraConfig(rank=4, dora=True)
    return jax.eval_shape(lambda key, base: init_adapters(key, base, cfg)[1], jax.random.key(0), base)


def test_maps_are_split_as_megatron_does():
    layers = specs({"data": 2, "fsdp": 2, "tensor": 2}, base_of(None), CFG)["layers"]
    for name in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"):
        assert layers[name] == P(None, "fsdp", "tensor")
    for name in ("o_proj", "down_proj"):
        assert layers[name] == P(None, "tensor", "fsdp")
    assert layers["input_norm"] == P()


def test_what_does_not_divide_is_not_split():
    found = specs({"tensor": 4}, base_of(None), CFG)["layers"]
    assert found["q_proj"] == P(None, None, "tensor")  # 8 heads over 4 devices
    assert found["k_proj"] == P(None, None, None)  # 2 heads are not split, though 64 outputs could be
    assert found["gate_proj"] == P(None, None, "tensor")


def test_fsdp_splits_outputs_where_it_does_not_divide_the_blocks_of_inputs():
    assert specs({"fsdp": 2}, base_of(), CFG)["layers"]["gate_proj"].codes == P(None, "fsdp", None)
    assert specs({"fsdp": 8}, base_of(), CFG)["layers"]["gate_proj"].codes == P(None, None, "fsdp")  # 2 blocks of 64


SIZES = st.fixed_dictionaries({axis: st.sampled_from([1, 2, 3, 4, 8]) for axis in AXES})
QUANTS = [QuantConfig(), QuantConfig(double=False), QuantConfig("nf3", 32), QuantConfig(block=96), QuantConfig("nf2")]


@given(sizes=SIZES, quant=st.sampled_from(QUANTS))
def test_every_spec_divides_its_array_and_no_block_is_split(sizes, quant):
    base = base_of(quant)
    base["adapters"] = adapters_of(base)
    found = specs(sizes, base, CFG)
    for leaf, spec in zip(jax.tree.leaves(base), jax.tree.leaves(found), strict=True):
        for count, axes in zip(leaf.shape, spec):
            assert count % parts(axes, sizes) == 0, (leaf.shape, spec)
        named = [name for axes in spec for name in ((axes,) if isinstance(axes, str) else axes or ())]
        assert len(named) == len(set(named)) and "data" not in named
    for name, q in base["layers"].items():
        if isinstance(q, QTensor):
            check_blocks(q, found["layers"][name], sizes)


def check_blocks(q, spec, sizes):
    fan_in, fan_out = q.shape
    if q.rows:
        _, inputs, outputs = spec.codes
        assert fan_in // q.config.block % parts(inputs, sizes) == 0 and fan_out % parts(outputs, sizes) == 0
        assert q.config.bits != 3 or inputs is None
    else:
        pieces = parts(spec.codes[-1], sizes)
        assert pieces == 1 or (fan_out % pieces == 0 and fan_out // pieces * fan_in % q.config.block == 0)
    if isinstance(q.maxima, DoubleQuantized):
        assert q.maxima.codes.shape[-1] % (parts(spec.maxima.codes[-1], sizes) * q.maxima.block) == 0 or (
            spec.maxima.codes[-1] is None
        )


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
def test_moments_lie_as_their_parameters(optimizer):
    adapters = jax.eval_shape(
        lambda: init_adapters(jax.random.key(0), tiny_base(jax.random.key(0), CFG), LoraConfig(rank=64))[1]
    )
    make = make_optimizer(OptimConfig(optimizer=optimizer, paging="none"))
    sizes = {"fsdp": 2, "tensor": 2}
    ours, state = specs(sizes, adapters, CFG), specs(sizes, jax.eval_shape(make.init, adapters), CFG)
    flat = {jax.tree_util.keystr(p): s for p, s in jax.tree_util.tree_flatten_with_path(state)[0]}
    for path, spec in jax.tree_util.tree_flatten_with_path(ours)[0]:
        alike = [s for p, s in flat.items() if jax.tree_util.keystr(path) in p and not p.endswith("absmax")]
        assert len(alike) == 2 and set(alike) == {spec} and any(spec), path


def test_on_one_device_nothing_is_said():
    x = jnp.arange(8.0).reshape(4, 2)
    assert constrain(x, "data") is x
    assert "sharding" not in str(jax.make_jaxpr(lambda x: shardwise(jnp.sin, x, rows=4))(x))
    assert on_mesh(jnp.sin, None) is jnp.sin and make_mesh("") is None


def test_a_mesh_of_one_device_is_a_mesh():
    mesh = make_mesh("data=1")
    q = quantize(jnp.ones((64, 4)))
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert all(s.is_fully_replicated for s in jax.tree.leaves(shardings(mesh, {"q_proj": q}, CFG)))


@given(count=st.integers(1, 64), sizes=SIZES)
def test_fit_keeps_only_what_divides(count, sizes):
    assert count % parts(fit(AXES, count, sizes), sizes) == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data=3", "does not divide the 8 that are here"),
        ("data=-1,fsdp=-1", "both -1"),
        ("data=2,data=2", "'data' is there twice"),
        ("model=2", "'model' is no axis"),
        ("data=0", "data is '0'"),
        ("data", "data is ''"),
        ("data=two", "data is 'two'"),
        ("data=3,fsdp=-1", "does not divide the 8 that are here"),
    ],
)
def test_a_mesh_that_cannot_be(text, said):
    with pytest.raises(UserError, match=said):
        axis_lengths(text, 8)


@pytest.mark.parametrize("text", ["data=2", "fsdp=-1,data=2", "data=8,tensor=1", "tensor=-1"])
def test_a_mesh_that_can_be(text):
    assert 8 % np.prod(list(axis_lengths(text, 8).values())) == 0


def test_a_batch_that_the_data_axes_do_not_divide():
    mesh = types.SimpleNamespace(shape={"data": 2, "fsdp": 2, "tensor": 2})
    check_rows(mesh, run_rows=8)
    with pytest.raises(UserError, match=r"run.rows: a micro-batch of 6 rows .* choose a multiple of 4"):
        check_rows(mesh, run_rows=6)


@pytest.mark.parametrize("wrong", [{"coordinator": "host"}, {"index": 1}, {"count": 0}, {"timeout": 0}])
def test_hosts_that_cannot_be(wrong):
    with pytest.raises(UserError, match=r"hosts\."):
        HostSettings(**wrong)


@pytest.mark.parametrize("key", ["code", "seed"])
def test_processes_that_differ_are_named(monkeypatch, key):
    settings = dataclasses.make_dataclass("S", [("seed", int, 0), ("hosts", HostSettings, HostSettings())], frozen=True)

    def two(text):
        return [text, json.dumps({**json.loads(text), key: "other"})]

    monkeypatch.setattr("experiments.hosts.gathered_texts", two)
    with pytest.raises(UserError, match=f"process 0 has {key}=.* process 1 has 'other'"):
        agree(settings())


def test_alone_nothing_is_sent():
    assert gathered_texts("words") == ["words"]


def in_three(monkeypatch, score, samples):
    """What each of three processes finds: what they send is kept in a first round, and given to all in a second."""
    sent = collections.defaultdict(list)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    for gather in (lambda x: sent[x.ndim].append(x) or x[None], lambda x: np.stack(sent[x.ndim])):
        found = []
        monkeypatch.setattr("experiments.hosts.multihost_utils.process_allgather", gather)
        for index in range(3):
            monkeypatch.setattr(jax, "process_index", lambda index=index: index)
            with contextlib.suppress(UserError):
                found.append(shared_rewards(score, samples).checked())
    return found


def test_rewards_of_several_processes_are_those_of_one(monkeypatch):
    values = np.arange(7, dtype=np.float32)

    def score(samples):
        found = np.array(samples, np.float32)
        return Rewards(2 * found, {"b": found, "a": -found}, int((found > 4).sum()), None)

    *_, found = in_three(monkeypatch, score, values)
    want = score(values)
    np.testing.assert_array_equal(found.total, want.total)
    assert found.errors == want.errors == 2
    for name, component in want.components.items():
        np.testing.assert_array_equal(found.components[name], component)


@pytest.mark.parametrize("failing", [{1, 4}, {0, 1, 2, 3, 4, 5, 6}])
def test_a_reward_that_fails_on_one_share_is_counted_and_on_all_of_them_ends_the_run(monkeypatch, failing):
    samples = [Sample("", str(n), "", 1, False) for n in range(7)]

    def reward(completion):
        if int(completion) in failing:
            raise RuntimeError("no")
        return 1.0

    score = functools.partial(score_all, [RewardSpec("r", reward)], task=None, timeout_s=None, some=True)
    found = in_three(monkeypatch, score, samples)
    assert [rewards.errors for rewards in found] == ([2] * 3 if len(failing) == 2 else [])
    if len(failing) == 2:
        np.testing.assert_array_equal(found[0].total, [1, 0, 1, 1, 0, 1, 1])
    else:
        with pytest.raises(UserError, match="failed on every sample: RuntimeError: no"):
            shared_rewards(score, samples).checked()


def test_a_cache_is_split_by_rows_and_heads():
    prompts, samples = (np.zeros((2, 8, 6, 2, 32)), np.zeros((2, 8, 4, 5, 2, 32)))
    found = specs({"data": 2, "fsdp": 2, "tensor": 2}, {"k_LBPKH": prompts, "v_LBGSKH": samples}, CFG)
    assert found["k_LBPKH"] == P(None, ("data", "fsdp"), None, "tensor")
    assert found["v_LBGSKH"] == P(None, ("data", "fsdp"), None, None, "tensor")
