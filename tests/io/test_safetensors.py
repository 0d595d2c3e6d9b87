import json
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lqlm.errors import UserError
from lqlm.io.safetensors import open_safetensors

RNG = np.random.default_rng(0)
TENSORS = {
    "a.weight": RNG.normal(size=(3, 4)).astype(np.float32),
    "b.weight": RNG.normal(size=(5,)).astype(ml_dtypes.bfloat16),
    "c.weight": RNG.normal(size=(2, 2)).astype(np.float16),
    "d.weight": RNG.normal(size=(2,)),
}


def write_sharded(folder):
    parts = {"part-1.safetensors": ["a.weight", "b.weight"], "part-2.safetensors": ["c.weight", "d.weight"]}
    for file, names in parts.items():
        save_file({name: TENSORS[name] for name in names}, folder / file)
    weight_map = {name: file for file, names in parts.items() for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weight_map


def assert_all_equal(opened):
    assert opened.names == TENSORS.keys()
    for name, expected in TENSORS.items():
        found = opened.get(name)
        assert found.dtype == expected.dtype and not found.flags.writeable
        np.testing.assert_array_equal(found, expected)


def test_single_file_and_directory(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert_all_equal(open_safetensors(tmp_path))
    assert_all_equal(open_safetensors(tmp_path / "model.safetensors"))


def test_shards(tmp_path):
    write_sharded(tmp_path)
    opened = open_safetensors(tmp_path)
    assert_all_equal(opened)
    assert [file.name for file in opened.files] == ["part-1.safetensors", "part-2.safetensors"]
    assert opened.describe("c.weight") == f"{tmp_path / 'part-2.safetensors'}: tensor c.weight"


def test_missing_shard_is_named(tmp_path):
    write_sharded(tmp_path)
    (tmp_path / "part-2.safetensors").unlink()
    with pytest.raises(UserError, match=r"part-2\.safetensors: shard is missing"):
        open_safetensors(tmp_path)


def test_tensor_absent_from_its_shard_is_named(tmp_path):
    weight_map = write_sharded(tmp_path)
    index = {"weight_map": {**weight_map, "e.weight": "part-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"part-1.safetensors: tensor e\.weight"):
        open_safetensors(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../b"}}'])
def test_damaged_index(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError, match=r"index\.json"):
        open_safetensors(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        open_safetensors(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        open_safetensors(tmp_path / "x.safetensors")


def test_absent_and_quantized_tensors_are_named(tmp_path):
    save_file({"a.codes": np.zeros(4, np.uint8)}, tmp_path / "model.safetensors")
    opened = open_safetensors(tmp_path)
    with pytest.raises(UserError, match=r"tensor z is missing"):
        opened.get("z")
    with pytest.raises(UserError, match=r"tensor a\.codes has dtype U8"):
        opened.get("a.codes")


def write_raw(path, header, data=b""):
    raw = json.dumps(header).encode() if isinstance(header, dict) else header
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 12]}, "truncated: tensor x"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [4, 0]}, "tensor x"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "tensor x"),
        ({"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}, "tensor x"),
        ({"dtype": "F32", "shape": [2]}, "corrupted"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0]}, "corrupted"),
        ([], "corrupted"),
    ],
)
def test_contradictions_in_the_header(tmp_path, entry, named):
    file = tmp_path / "m.safetensors"
    write_raw(file, {"x": entry}, bytes(8))
    with pytest.raises(UserError, match=named) as raised:
        open_safetensors(file).get("x")
    assert str(file) in str(raised.value) and "\n" not in str(raised.value)


@given(data=st.data())
def test_any_damage_is_a_user_error_or_harmless(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("damage") / "m.safetensors"
    save_file(TENSORS, file)
    raw = bytearray(file.read_bytes())
    cut = data.draw(st.integers(0, len(raw) - 1))
    file.write_bytes(raw[:cut])
    with pytest.raises(UserError, match=r"m\.safetensors"):
        open_safetensors(file)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(raw)
    try:
        opened = open_safetensors(file)
        for name in opened.names:
            opened.get(name)
    except UserError as error:
        assert "\n" not in str(error)
