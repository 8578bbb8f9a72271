"""Several processes as one run: the losses of one, nothing lost when one of them dies, any other mesh after that."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.pages import ROOT, code_of
from tests.train.run.test_loop import kept
from train.config import Config
from train.data.corpus import load_corpus
from train.errors import UserError
from train.run import processes
from train.run.layout import layout_of
from train.run.log import read
from train.run.loop import run
from train.run.processes import joined, place_of

MODEL = {"width": 16, "heads": 2, "depth": 2}
SETTINGS = {"task": "copy", "length": 12, "batch": 4, "validation": 8, "watch": 4, "steps": 120, "save_every": 40,
            "log_every": 1, "warmup": 5, "keep": 3}  # fmt: skip
TOLERANCE = 1e-4  # of losses: sums over devices round in another order
ENDED = 60  # seconds at most, between the death of one process and the end of another


def config(out, **settings):
    return Config(name="run", model=MODEL).with_settings({**SETTINGS, "out": str(out), **settings})


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def begin(out: Path, count: int, *, places=None, **settings):
    """`python -m train run` in so many processes, with the devices of its mesh parted among them."""
    out.mkdir(parents=True, exist_ok=True)
    file, port = out / "run.toml", free_port()
    file.write_text("[model]\n" + "".join(f"{name} = {value}\n" for name, value in MODEL.items()))
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(out.parent / "compiled"),
                   "PYTHONPATH": str(ROOT)}  # fmt: skip
    environment.pop("XLA_FLAGS", None)

    def words(number):
        own = {name: value[number - 1] if isinstance(value, list) else value for name, value in settings.items()}
        given = {
            **SETTINGS,
            "out": out if places is None else "runs",
            **own,
            "distributed": f"localhost:{port},{number}/{count}",
        }
        return [word for name, value in given.items() for word in ("--set", f"{name}={value}")]

    return [
        subprocess.Popen(
            [sys.executable, "-m", "train", "run", str(file), *words(number)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
            cwd=None if places is None else places[number - 1],
        )
        for number in range(1, count + 1)
    ]  # fmt: skip


def ended(started, seconds=300):
    """(exit codes, what each said on the output and as an error)."""
    said = [process.communicate(timeout=seconds) for process in started]
    return [process.returncode for process in started], said


def at_step(folder: Path, step: int, started):
    """Wait until the log of a run says so many steps."""
    log, deadline = folder / "log.jsonl", time.monotonic() + 240
    while time.monotonic() < deadline and all(process.poll() is None for process in started):
        if log.exists() and any(line["step"] >= step for line in read(log)):
            return
        time.sleep(0.005)
    raise AssertionError(ended(started, 1))


def same_losses(folder, other):
    one, two = (kept(each)[0] for each in (folder, other))
    assert list(one) == list(two) == list(range(1, SETTINGS["steps"] + 1))
    np.testing.assert_allclose(list(one.values()), list(two.values()), rtol=TOLERANCE)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run in one process on one device."""
    out = tmp_path_factory.mktemp("alone")
    run(config(out))
    return out / "run"


@pytest.mark.slow
def test_two_processes_are_one_and_one_that_is_killed_costs_what_was_not_saved(tmp_path, alone):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    codes, said = ended(begin(whole, 2, mesh="data=2", rules="fsdp"))
    assert codes == [0, 0], said
    assert "finished at step 120" in said[0][0] and "finished" not in said[1][0]  # the first one speaks
    same_losses(whole / "run", alone)

    started = begin(killed, 2, mesh="data=2", rules="fsdp")
    at_step(killed / "run", 50, started)
    started[1].kill()
    since = time.monotonic()
    codes, said = ended(started)
    assert time.monotonic() - since < ENDED
    assert codes == [1, -signal.SIGKILL]
    errors = [line for line in said[0][1].splitlines() if line.startswith("error")]
    assert len(errors) == 1 and "process 1 of 2: another process ended" in errors[0]
    assert errors[0].endswith("the same command goes on from what was saved") and "Traceback" not in said[0][1]
    assert 50 <= read(killed / "run" / "log.jsonl")[-1]["step"] < 120, "it was killed too late to show anything"

    codes, said = ended(begin(killed, 2, mesh="data=2", rules="fsdp"))
    assert codes == [0, 0] and "going on from step " in said[0][0], said
    assert kept(killed / "run") == kept(whole / "run")


@pytest.mark.slow
def test_four_processes_are_one(tmp_path, alone):
    codes, said = ended(begin(tmp_path / "four", 4, mesh="data=2,model=2", rules="fsdp_tp"))
    assert codes == [0] * 4, said
    same_losses(tmp_path / "four" / "run", alone)


@pytest.mark.slow
def test_a_run_goes_on_over_other_meshes_and_processes(tmp_path, alone):
    """4 devices, fsdp; 2 processes of 2 devices, tp, until a signal to one of them; 1 device."""
    run(config(tmp_path, mesh="data=4", rules="fsdp"))
    for step in (80, 120):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))

    (tmp_path / "run" / "log.jsonl").write_bytes(b"")
    started = begin(tmp_path, 2, mesh="data=2,model=2", rules="tp")
    at_step(tmp_path / "run", 60, started)
    started[1].send_signal(signal.SIGTERM)
    codes, said = ended(started)
    assert codes == [143, 143], said
    assert "going on from step 40" in said[0][0] and "the same command goes on from step " in said[0][0]
    step = read(tmp_path / "run" / "log.jsonl")[-1]["step"]
    assert 60 <= step < 120 and (tmp_path / "run" / "checkpoints" / str(step)).is_dir()

    run(config(tmp_path))
    one, many = (kept(each)[0] for each in (alone, tmp_path / "run"))
    assert list(many) == list(range(41, 121))
    np.testing.assert_allclose(list(many.values()), [one[step] for step in many], rtol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["settings", "folder"])
def test_processes_that_do_not_fit_each_other_say_so_before_the_first_step(tmp_path, what):
    if what == "settings":
        started = begin(tmp_path, 2, mesh="data=2", lr=[1e-3, 2e-3])
        sentence = (
            "the processes differ in lr, which is 0.001 in the first one and 0.002 in process 2; start them alike"
        )
    else:
        places = [tmp_path / name for name in "ab"]
        for place in places:
            place.mkdir()
        started = begin(tmp_path, 2, places=places, mesh="data=2", rules="fsdp")
        sentence = (
            "runs/run is not the same folder in all processes: number 2 does not see what the first one wrote; "
            "choose a run.out on a file system that they share"
        )
    codes, said = ended(started)
    assert codes == [2, 2]
    for number, (_, errors) in enumerate(said, 1):
        assert [line for line in errors.splitlines() if line.startswith("error")] == [
            f"error: process {number} of 2: {sentence}"
        ]
    assert not list(tmp_path.rglob("log.jsonl"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("localhost:1,2/2", "not all processes were found through localhost:1 in 2 s; start all of them"),
        ("auto", "distributed='auto' found no cluster here ("),
    ],
)
def test_a_process_that_finds_no_others_says_so(text, sentence):
    begun = f"from train.run.processes import joined\nwith joined({text!r}, 'data=2', within=2): pass"
    said = subprocess.run([sys.executable, "-c", begun], capture_output=True, text=True, timeout=60)
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.splitlines()[-1].startswith(f"error: {sentence}")


@pytest.mark.parametrize(
    ("text", "mesh", "sentence"),
    [
        ("2/3", "data=3", "distributed='2/3' is not like localhost:9911,1/2"),
        ("here:99,0/2", "data=2", "distributed='here:99,0/2' is none of 2 processes; count them from 1"),
        ("here:99,3/2", "data=2", "distributed='here:99,3/2' is none of 2 processes; count them from 1"),
        ("here:99,1/2", "data=3", "mesh='data=3' is none for 2 processes, which have as many devices each; use one "
         "of 2 devices, like data=2, or of a multiple"),
        ("here:99,1/2", "", "mesh='' is none for 2 processes"),
    ],
)  # fmt: skip
def test_what_is_no_place_is_one_sentence(text, mesh, sentence):
    with pytest.raises(UserError) as refused, joined(text, mesh):
        pass
    assert str(refused.value).startswith(sentence) and "\n" not in str(refused.value)


def test_a_place_is_read():
    assert place_of("node-3.cluster:9911,2/16") == ("node-3.cluster", 9911, 2, 16)
    assert place_of("auto") is None


def test_a_port_that_is_taken_is_one_sentence(monkeypatch, capsys):
    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr(processes.devices, "use_host_devices", lambda count: None)
    monkeypatch.setattr(processes.os, "_exit", leave)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match="2"), joined(f"localhost:{port},1/2", "data=2"):
            pass
    told = capsys.readouterr().err
    assert told == f"error: port {port} cannot be listened at: Address already in use; choose another one\n"


def test_each_device_reads_its_own_rows():
    """What a process has no device for, it does not read."""
    corpus = load_corpus("", "copy")
    rows = np.asarray(corpus.train[: 8 * 13]).reshape(8, 13)
    asked = []

    def read(some):
        asked.append(some)
        return rows[some.start : some.stop]

    with layout_of(config(".", mesh="data=4", rules="fsdp")) as layout:
        batch = layout.batch(rows.shape, read)
    assert sorted(asked, key=lambda each: each.start) == [range(k, k + 2) for k in range(0, 8, 2)]
    np.testing.assert_array_equal(batch, rows)
    assert [shard.data.shape for shard in batch.addressable_shards] == [(2, 13)] * 4


def test_one_process_hears_a_signal_at_once():
    asked = processes.Asked(lambda: 15)
    assert jax.process_count() == 1 and asked() == 15


@pytest.mark.slow
def test_a_reader_follows_the_page(tmp_path):
    """Its configuration and its commands as they stand, but for the port."""
    codes = code_of(ROOT / "docs" / "pod.md")
    (config,) = (code.text for code in codes if code.language == "toml")
    (tmp_path / "copy.toml").write_text(config)
    commands = "\n".join(code.text for code in codes if code.language == "console")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("XLA_FLAGS", None)
    script = f"set -e\n{commands.replace('9911', str(free_port()))}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished at step 100 of 100") == 4 and "fits" in done.stdout
    one, two, four = (read(tmp_path / "runs" / name / "copy" / "log.jsonl") for name in ("one", "two", "four"))
    for other in (two, four):
        np.testing.assert_allclose(
            *([line["loss"] for line in log if "loss" in line] for log in (one, other)), rtol=1e-3
        )
