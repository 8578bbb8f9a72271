"""Several workers in one sweep: claims, what they must agree on, and kills that lose nothing."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest

from train.errors import UserError
from train.files import alone, json_lines, settled
from train.sweep import ablate as ablations
from train.sweep import workers
from train.sweep.results import Results
from train.sweep.watch import view_of
from train.sweep.workers import Seat, Turn, crew_of, turn_of

OUTER = ("seconds", "seconds_a_step", "provenance")
ABOUT = {"code": "1"}


class Cells(NamedTuple):
    """A group, as far as it is asked which cells it has."""

    cells: list[Any]


def never() -> bool:
    return False


@pytest.fixture
def seated(tmp_path):
    """Makes workers of a folder, which leave it at the end."""
    seats = []

    def sit(number: int, total: int = 2) -> Seat:
        seats.append(Seat(tmp_path, Turn(number, total)))
        return seats[-1]

    yield sit
    for seat in seats:
        seat.leave()


def die(seat: Seat, ago: float) -> None:
    """It was seen last so many seconds ago."""
    seat._end.set()
    seat._thread.join()
    last = (seat.home / "heart").stat().st_mtime - ago
    os.utime(seat.home / "heart", (last, last))


@pytest.mark.parametrize("text", ["", "3", "0/8", "9/8", "a/b", "1/2/3", "-1/2"])
def test_what_is_no_worker_is_one_sentence(text):
    with pytest.raises(UserError, match="say which of how many, from 1/8 to 8/8"):
        turn_of(text)


def test_workers_begin_at_their_part_and_try_all_groups(seated):
    groups = [*range(10)]
    orders = [seated(number, 3).order(groups) for number in (1, 2, 3)]
    assert [order[0] for order in orders] == [0, 3, 6]
    assert all(sorted(order) == groups for order in orders)


def test_a_claim_is_of_one_worker_until_it_is_released(seated):
    first, second = seated(1), seated(2)
    assert first.take("a", never) and not second.take("a", never) and second.take("b", never)
    first.release("a")
    assert second.take("a", never)


def test_what_was_done_meanwhile_is_not_claimed(seated):
    first, second = seated(1), seated(2)
    assert not first.take("a", lambda: True) and second.take("a", never)


def test_a_claim_expires_when_its_worker_was_not_seen_so_long_and_one_takes_it_over(seated):
    dead, second, third = seated(1), seated(2), seated(2)
    assert dead.take("a", never)
    die(dead, workers.EXPIRY - 5)
    assert not second.take("a", never)
    die(dead, 10)
    assert second.take("a", never) and not third.take("a", never)


def test_a_worker_that_leaves_lets_go(seated):
    first, second = seated(1), seated(2)
    assert first.take("a", never)
    first.leave()
    assert second.take("a", never)


def test_workers_must_agree(tmp_path):
    sentence = rf"{tmp_path} has worker 1/2, process {os.getpid()} on \S+ at work with another code \(1, here 2\)"
    with (
        crew_of(tmp_path, Turn(1, 2), ABOUT),
        pytest.raises(UserError, match=sentence),
        crew_of(tmp_path, Turn(2, 2), {"code": "2"}),
    ):
        pass
    with crew_of(tmp_path, Turn(2, 2), {"code": "2"}):  # nobody is there any more
        pass


def test_one_that_works_alone_and_workers_do_not_meet(tmp_path):
    with (
        crew_of(tmp_path, Turn(1, 2), ABOUT),
        pytest.raises(UserError, match=r"has workers in it: 1/2 on \S+; wait for them"),
        crew_of(tmp_path, None, {}),
    ):
        pass
    with (
        alone(tmp_path),
        pytest.raises(UserError, match=rf"used by process {os.getpid()} on \S+ since \S+, which works alone"),
        crew_of(tmp_path, Turn(1, 2), ABOUT),
    ):
        pass
    assert not [*(tmp_path / "workers").iterdir()]


def test_a_folder_that_takes_no_links_is_one_sentence(seated, monkeypatch):
    def refuse(*_: Path) -> None:
        raise OSError(95, "Operation not supported")

    seat = seated(1)
    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(UserError, match="takes no claims, which are hard links: Operation not supported"):
        seat.take("a", never)


def test_results_of_workers_are_read_as_one_and_each_adds_to_its_own(tmp_path):
    def old(key: str) -> dict[str, object]:
        return {"key": key, "outcome": "worked", "val_loss": 1.0}

    for place, keys in {".": ["a"], "workers/000001": ["b", "c"], "workers/000002": ["d"]}.items():
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "results.jsonl").write_bytes(json_lines([old(key) for key in keys]))
    results = Results(tmp_path / "results.jsonl", tmp_path / "workers/000003/results.jsonl")
    assert results.older == 4
    results.add([{"key": "e"}])
    lines = [len(file.read_bytes().splitlines()) for file in sorted(tmp_path.rglob("results.jsonl"))]
    assert lines == [1, 2, 1, 1]


def test_watch_shows_each_worker(tmp_path):
    (tmp_path / "results.jsonl").touch()
    with crew_of(tmp_path, Turn(1, 2), ABOUT), crew_of(tmp_path, Turn(2, 2), ABOUT):
        view = view_of(tmp_path)
    assert view.is_running and view.far.endswith("workers: 2")
    assert [re.sub(" on .*", "", curve.title) for curve in view.curves] == ["worker 1/2", "worker 2/2"]


def records(folder: Path) -> list[dict[str, object]]:
    """All results, but for how long they took, and where."""
    results = Results(folder / "sweep" / "results.jsonl")
    return [{name: value for name, value in r.items() if name not in OUTER} for r in results.in_order()]


def test_what_a_worker_is_just_writing_is_waited_for(tmp_path, monkeypatch):
    """Who read half of a group's records would run the other half again."""
    read, file = [], tmp_path / "workers" / "000001" / "results.jsonl"
    file.parent.mkdir(parents=True)
    monkeypatch.setattr(ablations, "Results", lambda path: read.append(file.read_bytes()) or {})
    asked = threading.Thread(target=ablations.are_known, args=(tmp_path / "results.jsonl", [], None, {}, Cells([])))
    with settled([file]), file.open("ab") as adding:
        adding.write(b"one\n")
        adding.flush()
        asked.start()
        time.sleep(0.2)
        assert not read
        adding.write(b"two\n")
    asked.join(10)
    assert read == [b"one\ntwo\n"]


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_workers_lose_nothing_and_their_groups_alone_go_on(tmp_path, kills):
    """Each chunk is kept before the next one: of a group that dies, one chunk is trained again at most."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.train.workers", str(tmp_path), str(kills)],
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir},
        stdout=subprocess.PIPE, text=True, timeout=900,
    )  # fmt: skip
    assert ended.returncode == 0
    for told in json.loads(ended.stdout).values():
        whole, shared = map(Path, told["folders"])
        assert told["codes"] == [0, 0] and told["killed"] > 0
        assert records(shared) == records(whole)
        lines = [file.read_bytes().count(b"\n") for file in shared.rglob("results.jsonl")]
        assert sum(lines) == len(records(whole)) == 12  # none is there twice
        trained, least = ((folder / "sweep" / "chunks").stat().st_size for folder in (shared, whole))
        assert least <= trained <= least + 2 * told["killed"]  # two groups at once, a chunk each
