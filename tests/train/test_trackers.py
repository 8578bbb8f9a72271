"""Trackers: each is told the numbers of a run, and its own package finds them again."""

import json
import os
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from train.config import Config
from train.errors import UserError
from train.run.log import Log
from train.run.loop import run
from train.sweep.ablate import tell
from train.trackers import TRACKERS, numbers_in, told

SETTINGS = {"lr": 0.01, "norm": "rms"}
TOLD = {1: {"loss": 5.0, "residual_rms/0": 1.0}, 2: {"loss": 4.5, "residual_rms/0": 1.25}, 4: {"val_loss": 4.25}}
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}


def scalars(folder):
    """{step: {name: value}} of the event files in a folder, read by the format of TFRecord; the last one of a step
    counts, and one that begins again at a step takes away what was said of it and later ones."""
    events = pytest.importorskip("tensorboardX.proto.event_pb2")
    found: dict[int, dict[str, float]] = {}
    for file in sorted(folder.rglob("*tfevents*"), key=lambda file: file.stat().st_mtime_ns):
        content = file.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            event = events.Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            if event.session_log.status == event.session_log.START:
                found = {step: values for step, values in found.items() if step < event.step}
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(event.step, {})[value.tag] = value.simple_value
    return found


def tell_all(kind, folder):
    with told(TRACKERS[kind](folder, "a run"), SETTINGS) as tracker:
        for step, numbers in TOLD.items():
            tracker.log(step, numbers)


def test_numbers_of_a_line_have_one_name_each():
    line = {"step": 3, "loss": 2.5, "event": "spike", "layers": {"rms": [1.0, 2.0], "load": [[0.5, 0.5]]}, "ok": True}
    assert numbers_in(line) == {"loss": 2.5, "rms/0": 1.0, "rms/1": 2.0, "load/0/0": 0.5, "load/0/1": 0.5}


def test_tensorboard_has_what_it_was_told_and_a_run_that_goes_on_takes_back_what_it_does_again(tmp_path):
    pytest.importorskip("tensorboardX")
    tell_all("tensorboard", tmp_path)
    assert scalars(tmp_path) == TOLD
    with told(TRACKERS["tensorboard"](tmp_path, "a run"), SETTINGS, step=1) as tracker:
        tracker.log(2, {"loss": 4.0})
    assert scalars(tmp_path) == {1: TOLD[1], 2: {"loss": 4.0}}


def test_a_log_tells_its_tracker_what_it_writes(tmp_path):
    pytest.importorskip("tensorboardX")
    with told(TRACKERS["tensorboard"](tmp_path, "a run"), SETTINGS) as tracker:
        log = Log(tmp_path / "log.jsonl", keep_until=0, tracker=tracker)
        log.write({"step": 1, "loss": 2.5, "layers": {"rms": [0.5]}})
        log.judge(1, 2.0, 8)
    assert scalars(tmp_path)[1] == pytest.approx(
        {"loss": 2.5, "rms/0": 0.5, "val_loss": 2.0, "val_bits_per_byte": 2.885390, "windows": 8}
    )
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_the_runs_of_a_sweep_are_told_one_by_one(tmp_path):
    pytest.importorskip("tensorboardX")
    records = [
        {"key": f"{k}abcdefgh", "args": {"lr": lr, "seed": 0}, "loss": [3.0, None], "grad_norm_curve": [1.0, 0.5],
         "val_loss": 2.5}
        for k, lr in enumerate((0.1, 0.01))
    ]  # fmt: skip
    tell("tensorboard", tmp_path, records, ["lr"])
    runs = {place.name: scalars(place) for place in (tmp_path / "tensorboard").iterdir()}
    name = tmp_path.name
    assert sorted(runs) == [f"{name} lr=0.01 1abcde", f"{name} lr=0.1 0abcde"]
    assert runs[f"{name} lr=0.1 0abcde"] == {1: {"loss": 3.0, "grad_norm": 1.0}, 2: {"grad_norm": 0.5, "val_loss": 2.5}}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """What wandb and trackio left that were told in a process of their own, with a home of its own."""
    for package in ("wandb", "trackio"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("told")
    program = (
        "import pathlib\nfrom tests.train.test_trackers import tell_all\n"
        "for kind in ('wandb', 'trackio'): tell_all(kind, pathlib.Path.cwd())\n"
    )
    places = {"HOME": str(folder), "TRACKIO_DIR": str(folder / "trackio"), "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env={**os.environ, **places}, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
    return folder


def pieces(file):
    """The records of a .wandb file: after 7 bytes the log format of LevelDB, in blocks of 32 KiB."""
    content, place, record = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        size, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@pytest.mark.slow
def test_weights_and_biases_has_what_it_was_told(elsewhere):
    records = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    (file,) = (elsewhere / "wandb").glob("offline-run-*/*.wandb")
    found, settings = {}, {}
    for content in pieces(file):
        record = records.Record.FromString(content)
        if record.WhichOneof("record_type") == "history":
            values = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
            }
            found[values.pop("_step")] = {name: value for name, value in values.items() if not name.startswith("_")}
        if record.WhichOneof("record_type") == "run":
            settings = {item.key: json.loads(item.value_json) for item in record.run.config.update} or settings
    assert found == TOLD
    assert settings.items() >= SETTINGS.items()


@pytest.mark.slow
def test_trackio_has_what_it_was_told(elsewhere):
    (file,) = (elsewhere / "trackio").glob("fxformer*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("select run_name, step, metrics from metrics order by step").fetchall()
    assert {step: json.loads(numbers) for _, step, numbers in rows} == TOLD
    assert {name.rpartition(" ")[0] for name, _, _ in rows} == {"a run"}


@pytest.mark.parametrize("kind", PACKAGES)
def test_a_package_that_is_not_there_is_one_sentence_and_nothing_is_begun(tmp_path, monkeypatch, kind):
    monkeypatch.setitem(sys.modules, PACKAGES[kind], None)
    config = Config(name="x").with_settings({"tracker": kind, "out": str(tmp_path / "runs"), "task": "copy"})
    sentence = rf"^tracker='{kind}' needs {PACKAGES[kind]}: pip install 'fxformer\[trackers\]'$"
    with pytest.raises(UserError, match=sentence):
        run(config)
    assert not (tmp_path / "runs").exists()


def test_every_tracker_is_tried_here():
    assert {"jsonl", *PACKAGES} == set(TRACKERS)
    with pytest.raises(ValueError, match="tracker='tensorbord' is unknown; did you mean 'tensorboard'"):
        Config(name="x").with_settings({"tracker": "tensorbord"})
