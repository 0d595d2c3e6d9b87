"""Metrics: one line a step whatever happened before, and readable by TensorBoard."""

import errno
import json
import os
import pathlib

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter

from lqlm.errors import UserError
from lqlm.io.disk import is_disk_full
from lqlm.io.metrics import MetricsWriter, plain, read_jsonl

SAMPLE = {"prompt": "2 + 2 x 6", "completion": "é\n14", "answer": "14", "rewards": {"correct": 1.0, "bad": np.nan}}


def events(directory: pathlib.Path) -> list[Event]:
    """Every event, in the order in which TensorBoard reads the files."""
    found = []
    for file in sorted((directory / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            if len(data) < 16 + size:
                break  # half a record: the rest of a file cannot be read
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def points(directory: pathlib.Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows: a session's start at step s takes away the earlier points from s on."""
    shown: dict[str, dict[int, float]] = {}
    for event in events(directory):
        if event.session_log.status == SessionLog.START:
            shown = {tag: {s: v for s, v in row.items() if s < event.step} for tag, row in shown.items()}
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name != "text":
                shown.setdefault(value.tag, {})[event.step] = value.simple_value
    return shown


def steps(directory: pathlib.Path, name: str = "metrics.jsonl") -> list[int]:
    return [json.loads(line)["step"] for line in (directory / name).read_text().splitlines()]


def test_a_line_holds_plain_json_and_tensorboard_the_same_numbers(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(
            1, {"loss": jnp.float32(0.5), "n": np.int64(3), "nan": jnp.nan, "half": jnp.bfloat16(1.5), "up": True}
        )
        line = (tmp_path / "metrics.jsonl").read_text()
        assert line.endswith("\n")  # flushed before the next one
        row = json.loads(line)
    assert row.pop("wall") >= 0
    assert row == {"step": 1, "loss": 0.5, "n": 3, "nan": None, "half": 1.5, "up": True}
    assert points(tmp_path) == {"loss": {1: 0.5}, "n": {1: 3.0}, "half": {1: 1.5}, "up": {1: 1.0}}


def test_infinities_are_null():
    assert [plain(x) for x in (np.inf, -np.inf, jnp.float32(jnp.nan), float("nan"))] == [None] * 4


def test_each_step_is_written_once(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(3, {"a": 1})
    for step in (3, 2):
        with pytest.raises(ValueError, match=f"step {step} after step 3"):
            writer.write(step, {"a": 1})
    writer.close()
    with pytest.raises(ValueError, match="step 3 after step 3"):
        MetricsWriter(tmp_path).write(3, {"a": 1})


def test_resume_drops_what_will_be_written_again(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in range(1, 6):
            writer.write(step, {"loss": float(step)})
            writer.samples(step, [SAMPLE, SAMPLE])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write('{"step": 2, "prompt": "')
    with MetricsWriter(tmp_path) as writer:
        writer.truncate(4)
        assert steps(tmp_path) == [1, 2, 3] and steps(tmp_path, "samples.jsonl") == [1, 1, 2, 2, 3, 3]
        writer.write(4, {"loss": 40.0})
        assert list(points(tmp_path)["loss"]) == [1, 2, 3, 4]
        for step in (5, 6):
            writer.write(step, {"loss": 10.0 * step})
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert points(tmp_path)["loss"] == {1: 1.0, 2: 2.0, 3: 3.0, 4: 40.0, 5: 50.0, 6: 60.0}
    walls = [row["wall"] for row in read_jsonl(tmp_path / "metrics.jsonl")]
    assert walls == sorted(walls)


def test_the_clock_goes_on_after_a_resume(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "wall": 1000.0}\n{"step": 2, "wall": 2000.0}\n')
    with MetricsWriter(tmp_path) as writer:
        writer.truncate(2)
        writer.write(2, {})
    assert 1000.0 <= read_jsonl(tmp_path / "metrics.jsonl")[-1]["wall"] < 1100.0


def test_truncate_at_zero_begins_anew(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.truncate(0)  # nothing there yet
    writer.write(0, {"a": 1})
    writer.truncate(0)
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    writer.write(0, {"a": 2})
    writer.close()
    assert points(tmp_path) == {"a": {0: 2.0}}


def test_a_line_without_its_end_is_half_written(tmp_path):
    """Even if it parses: 1 may be the start of 12."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "wall": 0.5}\n{"step": 2, "wall": 0.7}')
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1]


@hypothesis.given(cut=st.integers(0, 400), step=st.integers(0, 8))
def test_a_kill_at_any_byte_leaves_whole_steps(tmp_path_factory, cut, step):
    directory = tmp_path_factory.mktemp("run")
    with MetricsWriter(directory) as writer:
        for n in range(8):
            writer.write(n, {"loss": n / 3})
    whole = (directory / "metrics.jsonl").read_bytes()
    (directory / "metrics.jsonl").write_bytes(whole[:cut])
    MetricsWriter(directory).truncate(step)
    lines = whole[:cut].count(b"\n")
    assert (directory / "metrics.jsonl").read_bytes() == b"".join(whole.splitlines(keepends=True)[: min(lines, step)])


def test_samples_can_be_read(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.samples(2, [SAMPLE])
    (row,) = read_jsonl(tmp_path / "samples.jsonl")
    assert row == {"step": 2, **SAMPLE, "rewards": {"correct": 1.0, "bad": None}}
    (text,) = [v.tensor.string_val[0].decode() for e in events(tmp_path) for v in e.summary.value]
    assert "2 + 2 x 6" in text and "    é\n    14" in text and "correct 1.0" in text


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_known_by_its_cause():
    cause, other = OSError(errno.EDQUOT, "quota"), OSError(errno.EACCES, "denied")
    wrapped = ValueError("save failed")
    wrapped.__cause__ = RuntimeError("thread failed")
    wrapped.__cause__.__cause__ = cause
    assert is_disk_full(wrapped) and is_disk_full(cause) and not is_disk_full(other)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"a": 1})
    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", lambda self, data: self._writer.write(b"\xff" * 9) and full())
        with pytest.raises(UserError, match=r"disk full while writing .*tensorboard"):
            writer.write(2, {"a": 1})
        patch.setattr(pathlib.Path, "open", full)
        with pytest.raises(UserError, match=r"disk full while writing .*metrics\.jsonl"):
            writer.write(3, {"a": 1})
    writer.write(3, {"a": 5})  # space was made: a new file, as nothing after half a record can be read
    assert points(tmp_path)["a"] == {1: 1.0, 3: 5.0}
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_bytes", full)
        with pytest.raises(UserError, match=r"disk full while writing .*metrics\.jsonl"):
            writer.truncate(0)
    assert steps(tmp_path) == [1, 2, 3] and sorted(os.listdir(tmp_path)) == ["metrics.jsonl", "tensorboard"]
    writer.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_really_full_device_is_one_line(tmp_path):
    writer = MetricsWriter(tmp_path)
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"disk full while writing .*metrics\.jsonl"):
        writer.write(1, {"a": 1})


def test_other_errors_are_not_called_a_full_disk(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        MetricsWriter(tmp_path / "file")
