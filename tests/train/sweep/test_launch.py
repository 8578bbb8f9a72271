"""Launchers start workers by engines that are installed: their records are those of one process."""

import importlib.util
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from train.cli import app
from train.commands import sweeps
from train.errors import UserError
from train.run import devices
from train.run.signals import Interrupted, raised_signals
from train.sweep import ablate as ablations
from train.sweep import launch
from train.sweep.launch import LAUNCHERS, launch_workers, words_of
from train.sweep.launch.work import LAUNCHED, work
from train.sweep.results import Results
from train.sweep.workers import Turn

OUTER = ("seconds", "seconds_a_step", "provenance")
TEXT = """
[model]
width = 8
heads = 1
depth = 1
[data]
task = "copy"
length = 8
batch = 2
validation = 2
[train]
steps = 4
[grid.product]
placement = ["pre", "post"]
seed = [0, 1]
"""


def records(file):
    return [{name: value for name, value in r.items() if name not in OUTER} for r in Results(file).in_order()]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("ray", []), ("submitit", ["--resource", "cluster=local"])])
def test_records_are_those_of_one_process(name, options, tmp_path):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    file = tmp_path / "mini.toml"
    file.write_text(TEXT)
    for where, words in {"alone": [], "launched": ["--launcher", name, *options]}.items():
        (tmp_path / where / "mini").mkdir(parents=True)
        if where == "launched":  # plans round differently, and timings choose them
            (tmp_path / where / "mini" / "plan.json").write_bytes((tmp_path / "alone/mini/plan.json").read_bytes())
        command = [sys.executable, "-m", "train", "ablate", str(file), "--set", f"out={tmp_path / where}", *words]
        assert subprocess.run(command, timeout=600).returncode == 0
    alone, launched = (records(tmp_path / where / "mini" / "results.jsonl") for where in ("alone", "launched"))
    assert launched == alone and len(alone) == 4


def test_a_launcher_is_given_a_command_for_each_worker(tmp_path, monkeypatch):
    given = []

    def note(commands, place, folder, resources):
        assert (folder / LAUNCHED).exists()
        given.append((commands, folder, resources))

    monkeypatch.setitem(LAUNCHERS, "ray", note)
    words = words_of(tmp_path / "a.toml", {"--set": ("lr=1", "steps=2"), "--only": ()})
    launch_workers("ray", 2, ["gpus=1"], words, tmp_path / "a")
    shared = ["-m", "train", "ablate", str(tmp_path / "a.toml"), "--set", "lr=1", "--set", "steps=2"]
    assert given == [([[*shared, "--worker", f"{k}/2"] for k in (1, 2)], tmp_path / "a", {"gpus": "1"})]
    assert not (tmp_path / "a" / LAUNCHED).exists()


@pytest.mark.parametrize(
    ("name", "workers", "resources", "sentence"),
    [
        ("rai", 2, [], "ray"),
        ("ray", 0, [], "workers=0 does nothing; use 1 or more"),
        ("ray", 2, ["gpus"], "--resource gpus has no value"),
        ("ray", 2, ["gpus=many"], "gpus=many is no number"),
        ("ray", 2, ["gpus=-1"], "gpus=-1 is less than 0"),
        ("ray", 2, ["partition=a"], "no resource is called partition; there are address, cpus, gpus"),
        ("submitit", 2, ["address=a"], "no resource is called address; there are cluster, partition"),
    ],
)
def test_what_no_launcher_does_is_one_sentence(name, workers, resources, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        launch_workers(name, workers, resources, ["ablate", "a.toml"], tmp_path)


@pytest.mark.parametrize("name", launch.LAUNCHERS)
def test_an_engine_that_is_not_installed_is_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"{name} is not installed: pip install 'fxformer\[launchers\]'"):
        launch_workers(name, 2, [], ["ablate", "a.toml"], tmp_path)


def test_a_folder_that_is_not_shared_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="is not shared: what the launcher wrote there is not seen here"):
        work(["-c", "raise SystemExit('it ran')"], str(tmp_path), str(tmp_path))


def test_a_worker_that_fails_says_why(tmp_path):
    (tmp_path / LAUNCHED).touch()
    program = "import sys; print('error: lr=-1 is less than 0', file=sys.stderr); sys.exit(2)"
    with pytest.raises(UserError, match="worker 3/8 ended with 2: lr=-1 is less than 0"):
        work(["-c", program, "--worker", "3/8"], str(tmp_path), str(tmp_path))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)])
def test_a_signal_undoes_what_was_begun_and_a_second_one_does_not_disturb(number, code):
    undone, before = [], signal.getsignal(number)
    with pytest.raises(Interrupted, match="mini") as stopped, raised_signals("mini"):
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)
            undone.append(True)
    assert undone and signal.getsignal(number) is before
    assert stopped.value.code == code


def test_the_commands_of_the_page_are_understood(monkeypatch):
    """Each with all of its options, on a configuration that there is."""
    page = (Path(__file__).parents[3] / "docs" / "cluster.md").read_text()
    lines = [line.strip().removesuffix(" &") for line in page.splitlines() if line.startswith("python -m train ablate")]
    asked = []
    monkeypatch.setattr(ablations, "ablate", lambda config, *, turn: asked.append(turn) or [])
    monkeypatch.setattr(launch, "launch_workers", lambda name, workers, resources, *_: asked.append((name, workers)))
    monkeypatch.setattr(sweeps, "say_report", lambda folder: 0)
    monkeypatch.setattr(devices, "use_host_devices", lambda count: None)  # they have begun
    monkeypatch.setattr(devices, "keep_compiled", lambda folder: None)
    for line in lines:
        app.cli(args=shlex.split(line.replace("$SLURM_ARRAY_TASK_ID", "3"))[3:])
    assert asked == [Turn(1, 2), Turn(2, 2), Turn(3, 8), ("ray", 8), ("submitit", 8)]
