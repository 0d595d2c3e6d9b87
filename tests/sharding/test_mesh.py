"""Eight virtual devices give what one gives."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.sharding.program import MESHES, OTHERS

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA, FSDP, ALL = MESHES


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    env = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    folder = tmp_path_factory.mktemp("mesh")
    run = subprocess.run(
        [sys.executable, "-m", "tests.sharding.program", str(folder)],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", MESHES)
def test_an_update_is_that_of_one_device(found, mesh):
    ours, one = found[mesh]["loss"]
    assert ours == pytest.approx(one, rel=1e-6)
    for name in ("metrics", "gradients", "adapters"):
        assert found[mesh][name] < 1e-5, name


@pytest.mark.parametrize("name", OTHERS)
def test_so_is_that_of_other_adapters_and_optimizers(found, name):
    assert found[name]["metrics"] < 1e-5 and found[name]["adapters"] < 1e-5
    assert found[name]["moved"] > 1e-4


@pytest.mark.parametrize("mesh", MESHES)
def test_weights_are_dequantized_to_the_same_bits(found, mesh):
    assert found[mesh]["bits"]


@pytest.mark.parametrize("mesh", [DATA, ALL])
def test_samples_are_those_of_one_device(found, mesh):
    assert found[mesh]["samples"] and found[mesh]["tokens"] > 20
    assert found[mesh]["sampled logp"] < 1e-5


@pytest.mark.parametrize("mesh", [FSDP, ALL])
def test_no_device_holds_the_whole(found, mesh):
    most, total = found[mesh]["base"]
    assert most < {FSDP: 0.15, ALL: 0.4}[mesh] * total
    most, total = found[mesh]["moments"]
    assert most < {FSDP: 0.15, ALL: 0.4}[mesh] * total


@pytest.mark.parametrize("mesh", MESHES)
def test_nothing_has_the_size_of_all_dense_weights(found, mesh):
    assert found[mesh]["temporaries"] < found[mesh]["dense"] / 3


@pytest.mark.parametrize("mesh", [FSDP, ALL])
def test_what_travels_are_codes(found, mesh):
    assert found[mesh]["u8 gathered"]


@pytest.mark.parametrize("mesh", MESHES)
def test_paged_moments_stay_in_host_memory(found, mesh):
    assert found[mesh]["kinds"]


def test_a_checkpoint_restores_onto_other_meshes(found):
    assert found[FSDP]["restored"] == [True, True, True]  # four devices in two ways, and one


def test_the_cache_of_samples_is_split_by_rows_and_heads(found):
    assert found[ALL]["cache"]
