"""What a sweep at work says of itself, and what `watch` makes of it."""

import io
import json
import os
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from train.errors import UserError
from train.files import alone
from train.run.signals import Interrupted
from train.sweep import status, watch
from train.sweep.status import Status, Work, time_left


@pytest.mark.parametrize(
    ("groups", "workers", "seconds"),
    [
        ([(10, 5)], 2, 15),
        ([(10, 5), (10, 5)], 2, 20),  # both compile at once, one trains after the other
        ([(10, 5), (10, 5)], 1, 30),
        ([(10, 5), (10, 5), (10, 5)], 2, 30),  # the third one begins when the first one ends, at 15
        ([(1, 50), (30, 5), (30, 5)], 2, 86),  # the second trains from 51 on, the third compiles until 81
        ([], 2, 0),
    ],
)  # fmt: skip
def test_one_group_trains_while_others_compile(groups, workers, seconds):
    assert time_left(groups, workers) == seconds


def works():
    cells = {0: "lr=0.1 seed=0", 1: "lr=0.1 seed=1"}
    return {
        name: Work(title=f"norm={name}", cells=cells, steps=100, flops=1000.0, weight=w)
        for name, w in (("a", 6.0), ("b", 12.0))
    }


@pytest.fixture
def at_work(tmp_path, monkeypatch):
    """A sweep of 7 cells, of which 3 are known; of two groups of two one has trained 50 of 100 steps, in 10 seconds,
    after it compiled for 30; one of its runs has diverged."""
    now = [0.0]
    monkeypatch.setattr(status, "time", SimpleNamespace(monotonic=lambda: now[0], time=lambda: 1000.0 + now[0]))
    monkeypatch.setattr(watch, "time", SimpleNamespace(time=lambda: 1000.0 + now[0]))
    told = Status(tmp_path, workers=1)
    known = [{"outcome": "worked"}, {"outcome": "worked"}, {"outcome": "stuck"}]
    told.plan(7, known, works())
    told.begins("a", 0, 2)
    now[0] = 40.0
    losses = np.array([[3.0, 2.5], [4.0, np.inf], [9.0, 9.0]])  # the third one fills the program up
    told.trained("a", 50, np.array([True, True, True]), losses, {1: "diverged"}, 10.0)
    return tmp_path, told, now


def test_the_time_that_is_left_is_that_of_the_groups_as_they_were_measured(at_work):
    """Two runs took 10 s for 2 of 100 steps each, 40 FLOPs; 500 are left of the first group, and 2,000 of the second,
    which compiles twice as long as the first one's 30 s."""
    _, told, _ = at_work
    assert told.left() == pytest.approx(500 * 10 / 40 + 60 + 2000 * 10 / 40)


def test_before_anything_is_measured_what_is_believed_counts_or_nothing(tmp_path):
    told = Status(tmp_path, workers=1)
    told.plan(4, [], works())
    assert told.left() is None
    told.believe(0.01, 2.0)
    assert told.left() == pytest.approx(status.PROGRAMS * 2.0 * (6 + 12) + 0.01 * 4000)


def test_a_sweep_at_work_is_seen_from_beside(at_work):
    folder, told, now = at_work
    now[0] = 50.0
    with alone(folder):
        seen = watch.view_of(folder)
        text = screen(seen)
    assert (seen.state, seen.far) == ("running", "3 done, 1 running, 3 left of 7 runs")
    assert seen.left == pytest.approx(told.left() - 10)
    assert seen.counts == {"worked": 2, "stuck": 1}
    assert seen.failures == ["lr=0.1 seed=1: diverged at step 50"]
    (curve,) = seen.curves
    assert (curve.title, curve.said) == ("norm=a", "1 run at step 50 of 100: loss best 2.500, median 2.500")
    assert text.startswith(f"{folder.name}  running, about 11:15 left\n") and "lr=0.1 seed=1: diverged" in text


def test_a_sweep_that_was_killed_is_not_taken_for_one_at_work(at_work):
    folder, _, _ = at_work
    child = subprocess.Popen(["true"])
    child.wait()
    owner = folder / ".owner"
    owner.write_text(f"process {child.pid} on {os.uname().nodename} since 2026-01-01")
    assert watch.view_of(folder).state == "killed; the same command goes on" and watch.view_of(folder).left is None
    owner.write_text("process 1 on elsewhere since 2026-01-01")  # of another machine nothing else is known
    assert watch.view_of(folder).state == "running"


@pytest.mark.parametrize(
    ("error", "state"),
    [(None, "done"), (Interrupted("x"), "interrupted"), (UserError("no room"), "failed: no room")],
    ids=["done", "interrupted", "failed"],
)
def test_how_a_sweep_ended_is_in_the_file(tmp_path, error, state):
    try:
        with Status(tmp_path, workers=1) as told:
            told.plan(2, [], works())
            if error is not None:
                raise error
    except (Interrupted, UserError):
        pass
    assert json.loads((tmp_path / "status.json").read_text())["state"] == state
    assert (watch.view_of(tmp_path).state, watch.view_of(tmp_path).far) == (state, "0 done of 2 runs")


def test_groups_that_end_are_counted_and_their_failures_named(at_work):
    folder, told, _ = at_work
    told.ended("a", [{"outcome": "worked", "outcome_step": 100}, {"outcome": "stuck", "outcome_step": 80}])
    with alone(folder):
        seen = watch.view_of(folder)
    assert seen.far == "5 done, 0 running, 2 left of 7 runs" and seen.counts == {"worked": 3, "stuck": 2}
    assert seen.failures == ["lr=0.1 seed=1: stuck at step 80"] and seen.curves == []


def screen(seen):
    """What a terminal would show."""
    console = Console(file=io.StringIO(), width=200)
    console.print(watch.shown(seen))
    return console.file.getvalue()


def test_a_run_is_seen_by_its_log(tmp_path):
    settings = {"steps": 100, "width": 16, "depth": 2, "heads": 2, "batch": 4, "length": 8, "task": "copy"}
    (tmp_path / "config.json").write_text(json.dumps({"settings": settings, "corpus": "x"}))
    lines = [{"step": step, "loss": 5 - step / 50, "tokens_per_second": 64.0} for step in range(10, 60, 10)]
    lines += [{"step": 50, "val_loss": 3.5}, {"step": 50, "event": "spike"}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with alone(tmp_path):
        seen = watch.view_of(tmp_path)
    assert (seen.state, seen.far, seen.left) == ("running", "step 50 of 100", 50 * 32 / 64)
    assert seen.failures == ["spike at step 50"] and seen.curves[0].losses == [4.8, 4.6, 4.4, 4.2, 4.0]
    assert "loss 4.000, validation 3.500, best 3.500, 64 tokens/s" in screen(seen)
    assert watch.view_of(tmp_path).state == "stopped; the same command goes on"
    with pytest.raises(UserError, match="is a run, and reports are of sweeps; leave out --html"):
        watch.look(tmp_path, Console(file=io.StringIO()), html=True)


def test_a_page_is_written_when_there_are_new_results(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(watch, "answered", lambda folder: (None, ["one"]))
    monkeypatch.setattr(watch, "write_report", lambda results, folder, *_: written.append((results, folder)))
    pages, file = watch.Pages(tmp_path), tmp_path / "results.jsonl"
    pages.write()
    assert written == []
    file.write_text("{}\n")
    pages.write()
    pages.write()
    os.utime(file, (1, 1))
    pages.write()
    assert written == [(["one"], tmp_path)] * 2


def test_a_damaged_status_is_one_sentence(tmp_path):
    (tmp_path / "status.json").write_text('{"state": "running"}')
    with pytest.raises(UserError, match="is damaged: it has no began; remove it; a sweep at work writes it again"):
        watch.view_of(tmp_path)
