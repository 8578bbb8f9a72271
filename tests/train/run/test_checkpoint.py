"""Checkpoints: where they can be kept, what damage does to them, and that a kill leaves nothing half done."""

import errno
import os
import random
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from train.config import Config
from train.run import checkpoint
from train.run.checkpoint import CheckpointError, Checkpoints, restore_best
from train.run.loop import run
from train.run.sample import load_run

SMALL = {"a": np.arange(3.0)}
STRANGE = [
    " a b ",
    "a%20b%",
    "$HOME",
    "a|b;c&d",
    "#1",
    "(a){b}",
    "a]b",
    "~",
    "a'\"`",
    "x:y",
    "s3:",
    "9",
    "ü中",
    "n" * 255,
]
STRANGE += ["x.orbax-checkpoint-tmp-1", ".hidden", "-", "!^<>@=,+"]


@pytest.fixture
def said(monkeypatch):
    """Sentences that were said."""
    told: list[str] = []
    monkeypatch.setattr(checkpoint, "_say", told.append)
    return told


def same(one, other):
    """Are all arrays of two trees equal, in value and type?"""
    return all(
        a.dtype == b.dtype and np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


@pytest.mark.parametrize("names", [STRANGE[k::4] for k in range(4)], ids=lambda names: names[0])
def test_a_folder_with_a_strange_name_keeps_what_is_saved(tmp_path, names):
    folder = tmp_path.joinpath(*names)
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(1, SMALL, val_loss=1.0)
    assert (folder / "1" / "default" / "manifest.ocdbt").exists()
    assert same(restore_best(folder, SMALL), SMALL)


@pytest.mark.parametrize("name", ["a[b]", "a[b", "star*", "what?", "back\\slash", "gs:"])
def test_a_name_that_is_a_pattern_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(CheckpointError, match="no checkpoint can be kept in ") as one:
        run(Config(name="run", model={"width": 16}).with_settings({"out": str(tmp_path / name), "task": "copy"}))
    assert str(one.value).endswith("; choose another name or run.out") and "\n" not in str(one.value)
    assert not list(tmp_path.iterdir())
    for place in (tmp_path / name, tmp_path / "\udcff"):
        with pytest.raises(CheckpointError, match="no checkpoint can be kept"):
            Checkpoints(place, keep=1)


def test_a_full_disk_is_one_sentence_in_one_of_several_processes_too(tmp_path, monkeypatch):
    """The others are not waited for."""

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Checkpoints(tmp_path, keep=1) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", refuse)
        monkeypatch.setattr(checkpoint, "several", lambda: True)
        with pytest.raises(CheckpointError) as refused:
            checkpoints.save(1, SMALL, val_loss=1.0)
        monkeypatch.undo()
    why = "No space left on device; those that were complete before are"
    assert str(refused.value) == f"a checkpoint in {tmp_path} could not be written: {why}"


def test_the_first_checkpoint_is_read_back(tmp_path, monkeypatch):
    """In such a folder orbax finds nothing to put together, and says nothing: it is there and holds no arrays."""
    monkeypatch.setattr(checkpoint, "PATTERNS", ())
    with Checkpoints(tmp_path / "a[b]", keep=1) as checkpoints, pytest.raises(CheckpointError) as refused:
        checkpoints.save(1, SMALL, val_loss=1.0)
    assert "is written and cannot be read: " in str(refused.value) and "\n" not in str(refused.value)


def test_what_is_read_back_is_compared_with_what_was_to_be_written(tmp_path, monkeypatch):
    """Also by its bits: -0.0 is not 0.0."""
    read = checkpoint._read
    monkeypatch.setattr(checkpoint, "_read", lambda *arguments: jax.tree.map(np.negative, read(*arguments)))
    with Checkpoints(tmp_path, keep=1) as checkpoints, pytest.raises(CheckpointError, match="its arrays are others"):
        checkpoints.save(1, {"a": np.zeros(3)}, val_loss=1.0)


STATES = {
    step: {
        "a": np.random.default_rng(step).random((7, 5), np.float32),
        "b": {"c": np.arange(11) * step, "d": np.random.default_rng(step).random(300)},
    }
    for step in (1, 2)
}
DAMAGES = {
    "flip": lambda old, draw: _flipped(old, draw.randrange(8 * len(old))) if old else b"x",
    "cut": lambda old, draw: old[: draw.randrange(len(old) + 1)],
    "blank": lambda old, draw: bytes(len(old)),
    "longer": lambda old, draw: old + draw.randbytes(9),
    "missing": lambda old, draw: None,
}


def _flipped(old, bit):
    return old[: bit // 8] + bytes([old[bit // 8] ^ 1 << bit % 8]) + old[bit // 8 + 1 :]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with the checkpoints of steps 1 and 2; the second has the lower loss."""
    folder = tmp_path_factory.mktemp("whole") / "two"
    with Checkpoints(folder, keep=2) as checkpoints:
        for step, state in STATES.items():
            checkpoints.save(step, state, val_loss=3.0 - step)
    return folder


def damage(folder, step, number):
    """Damage the checkpoint of a step in one of its files; the number says which and how. The kind of damage."""
    draw = random.Random(number)
    files = sorted(path for path in (folder / str(step)).rglob("*") if path.is_file())
    file, kind = files[number % len(files)], list(DAMAGES)[number // len(files) % len(DAMAGES)]
    new = DAMAGES[kind](file.read_bytes(), draw)
    file.unlink() if new is None else file.write_bytes(new)
    return file.relative_to(folder / str(step)).as_posix()


@pytest.mark.parametrize("part", range(4))
def test_a_damaged_last_checkpoint_is_never_taken_for_another(two, tmp_path, said, capfd, part):
    """200 damages: what is restored is the last one as it was, or with a sentence the one before it; in both ways."""
    taken = set()
    for number in range(50 * part, 50 * part + 50):
        folder = tmp_path / str(number)
        shutil.copytree(two, folder)
        file = damage(folder, 2, number)
        said.clear()
        begin = time.monotonic()
        best = restore_best(folder, STATES[1])
        told = list(said)
        with Checkpoints(folder, keep=2) as checkpoints:
            last = checkpoints.restore(STATES[1])
        assert time.monotonic() - begin < 10
        (step,) = (step for step, state in STATES.items() if same(last, state))
        assert same(best, STATES[step])
        assert step == 1 or file in ("_CHECKPOINT_METADATA", "commit_success.txt", "SHA256SUMS")  # no numbers in them
        assert len(told) == 2 - step and len(said) == 2 * len(told) and "\n" not in "".join(said)
        if told:
            assert told[0].startswith(f"{folder / '2'} is damaged (") and told[0].endswith("); step 1 is read")
            assert sorted(path.name for path in folder.iterdir()) == ["1", "2.damaged"]
        taken.add(step)
        shutil.rmtree(folder)
    assert taken == {1, 2}
    assert "Traceback" not in capfd.readouterr().err


def test_where_none_is_whole_one_sentence_says_why_and_nothing_is_moved(two, tmp_path):
    """The arrays of both, then the losses of both: they are found at other moments."""
    for file in ("default/manifest.ocdbt", "metrics/metrics"):
        folder = tmp_path / file.partition("/")[0]
        shutil.copytree(two, folder)
        for step in (1, 2):
            (folder / str(step) / file).write_bytes(b"")
        sentence = f"can be used: step 2: {file} is not what was written; step 1: {file} is not what was written"
        for read in (lambda: restore_best(folder, STATES[1]), lambda: opened(folder)):  # noqa: B023
            with pytest.raises(CheckpointError, match=sentence) as refused:
                read()
            assert "\n" not in str(refused.value)
        assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def opened(folder):
    with Checkpoints(folder, keep=2) as checkpoints:
        return checkpoints.restore(STATES[1])


def test_a_run_goes_on_after_one_was_set_aside(two, tmp_path, said):
    """The step of the damaged one is free again, and once more damaged it takes the place of the first."""
    folder = tmp_path / "two"
    shutil.copytree(two, folder)
    for _ in range(2):
        damage(folder, 2, 3)
        with Checkpoints(folder, keep=2) as checkpoints:
            assert same(checkpoints.restore(STATES[1]), STATES[1])
            checkpoints.save(2, STATES[2], val_loss=1.0)
            checkpoints.wait()
            assert (checkpoints.latest(), checkpoints.best()) == (2, 2)
        assert same(restore_best(folder, STATES[1]), STATES[2])
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "2.damaged"]


def test_checkpoints_without_sums_are_read(two, tmp_path, said):
    """Version 0.1 wrote none."""
    folder = tmp_path / "two"
    shutil.copytree(two, folder)
    for step in (1, 2):
        (folder / str(step) / "SHA256SUMS").unlink()
    assert same(restore_best(folder, STATES[1]), STATES[2]) and same(opened(folder), STATES[2]) and not said


def test_the_sums_are_those_of_sha256sum(two):
    for step in STATES:
        lines = (two / str(step) / "SHA256SUMS").read_text().splitlines()
        kept = {
            path.relative_to(two / str(step)).as_posix() for path in (two / str(step)).glob("*/**/*") if path.is_file()
        }
        assert {line.partition("  ")[2] for line in lines} == kept
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=two / "2", check=True)


def test_a_reader_changes_nothing_and_an_owner_clears_away(two, tmp_path):
    """What a killed run left: a checkpoint half written, and one that was to be deleted."""
    folder = tmp_path / "two"
    shutil.copytree(two, folder)
    shutil.copytree(two / "1", folder / "3.orbax-checkpoint-tmp" / "default")
    shutil.copytree(two / "1", folder / "deleted" / "0")
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    assert same(restore_best(folder, STATES[1]), STATES[2])
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(3, STATES[2], val_loss=2.0)
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3"]


def test_one_that_a_run_deletes_while_it_is_read_is_replaced_by_a_better_one(two, tmp_path, monkeypatch, said):
    folder = tmp_path / "two"
    shutil.copytree(two, folder)
    read, calls = checkpoint._read, []

    def late(manager, step, like):
        calls.append(step)
        if calls == [2]:
            (folder / "2").rename(folder / "gone")
            shutil.copytree(two / "1", folder / "3")
            (folder / "3" / "metrics" / "metrics").write_text('{"val_loss": 0.5}')
            (folder / "3" / "SHA256SUMS").unlink()
        return read(manager, step, like)

    monkeypatch.setattr(checkpoint, "_read", late)
    assert same(restore_best(folder, STATES[1]), STATES[1])
    assert calls == [2, 3] and not said


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from train.run.checkpoint import Checkpoints, restore_best

folder, like, changes = Path(sys.argv[1]), {"a": np.zeros(3, int)}, 0

def save(place, steps):
    with Checkpoints(place, keep=1) as checkpoints:
        for step in steps:
            checkpoints.save(step, {"a": np.full(3, step)}, val_loss=-step)

def killed(place, fatal):  # when so many files were made, renamed or deleted, while three are saved and two deleted
    def note(event, of):
        global changes
        if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir") or event == "open" and of[2] & os.O_CREAT:
            changes += 1
            if changes == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(note)
    save(place, (1, 2, 3))
    (folder / "changes").write_text(str(changes))

def check(place):  # what is there is whole; once the run has gone on nothing else is left
    place.mkdir(exist_ok=True)
    whole = [int(path.name) for path in place.iterdir() if path.name.isdigit()]
    if whole:
        assert (restore_best(place, like)["a"] == max(whole)).all()
    save(place, (9,))
    assert [path.name for path in place.iterdir()] == ["9"], list(place.iterdir())
    assert (restore_best(place, like)["a"] == 9).all()

def alone(action, *arguments):  # in a process of its own, with what is imported here
    child = os.fork()
    if not child:
        action(*arguments)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

assert alone(killed, folder / "whole", 0) == 0
total = int((folder / "changes").read_text())
for fatal in np.linspace(1, total, 20).astype(int):
    print(alone(killed, folder / str(fatal), fatal), alone(check, folder / str(fatal)), flush=True)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_of_saving_and_deleting_leaves_nothing_half_done(tmp_path):
    ended = subprocess.run([sys.executable, "-c", KILLED, tmp_path], capture_output=True, text=True)
    assert ended.stdout.splitlines() == ["-9 0"] * 20, ended.stderr
    assert "is damaged" not in ended.stderr


def test_a_run_whose_last_checkpoint_is_damaged_goes_on_from_the_one_before_bit_for_bit(tmp_path, capfd):
    settings = {"length": 12, "batch": 4, "steps": 9, "save_every": 4, "validation": 8, "task": "copy"}
    config = Config(name="run", model={"width": 16, "heads": 2, "depth": 1})
    run(config.with_settings({**settings, "out": str(tmp_path / "whole")}))
    shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
    damage(tmp_path / "damaged" / "run" / "checkpoints", 9, 7)
    assert run(config.with_settings({**settings, "out": str(tmp_path / "damaged")})).outcome == "finished"
    assert "9 is damaged (default/" in capfd.readouterr().err
    one, other = (load_run(tmp_path / name / "run")[2] for name in ("whole", "damaged"))
    assert same(one, other)
    assert (tmp_path / "damaged" / "run" / "log.jsonl").read_text().count('"step": 9') == 2
