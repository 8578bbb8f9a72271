"""Several processes in one sweep: who is at work, and which groups of cells each of them has claimed.

A worker has a folder of its own, workers/N in that of the sweep: its results, its status, and its heart, a file that a
thread touches every BEAT seconds. A claim is a hard link to the heart, so that it is made at once or not at all, on a
shared folder too, and grows old when its worker dies, however it dies. One that is older than EXPIRY is taken over: by
the next of its numbers, which one process alone can make. Ages are told by the clock of the file system.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import gethostname
from typing import NamedTuple, Protocol, TypeVar

from train.errors import UserError
from train.files import TEXT, alone, read_object, worker_in

BEAT = 10.0  # seconds from one touch to the next
EXPIRY = 120.0  # seconds after the last one, when a worker is taken for dead
T = TypeVar("T")


class Turn(NamedTuple):
    """Worker `number`, from 1, of so many."""

    number: int
    total: int


def turn_of(text: str) -> Turn:
    """What "3/8" says. Raises UserError where it says nothing of the kind."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UserError(f"worker={text} is none; say which of how many, from 1/8 to 8/8")
    return Turn(int(number), int(count))


class Crew(Protocol):
    """Who else works in a sweep's folder, as one process sees it. home: of its own results and status."""

    home: Path

    def order(self, groups: Sequence[T]) -> list[T]:
        """The groups in the order in which it tries them."""

    def take(self, name: str, is_done: Callable[[], bool]) -> bool:
        """Claim a group, or something else that one does for all; False where another worker has it, or has done it."""

    def release(self, name: str) -> None:
        """Let go of a claim."""

    def wait(self, seconds: float, check: Callable[[], None]) -> None:
        """Give others time. check: raises where there is none."""


class Alone:
    """One process, which has all groups to itself."""

    def __init__(self, folder: Path) -> None:
        self.home = folder

    def order(self, groups: Sequence[T]) -> list[T]:
        """As they are."""
        return [*groups]

    def take(self, name: str, is_done: Callable[[], bool]) -> bool:
        """Nobody else does."""
        return True

    def release(self, name: str) -> None:
        """Nobody waits for it."""

    def wait(self, seconds: float, check: Callable[[], None]) -> None:
        """For nobody."""


class Seat:
    """One of several workers. home: its folder."""

    def __init__(self, folder: Path, turn: Turn) -> None:
        self._claims, self._turn = folder / "claims", turn
        self.home = _next_home(folder / "workers")
        self._heart, self._end, self._held = self.home / "heart", threading.Event(), dict[str, Path]()
        self._claims.mkdir(exist_ok=True)
        self._heart.touch()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def _live(self) -> None:
        while not self._end.wait(BEAT):
            with suppress(OSError):  # a file server that is away comes back
                self._heart.touch()

    def order(self, groups: Sequence[T]) -> list[T]:
        """Beginning at its part of them, so that workers seldom meet."""
        first = (self._turn.number - 1) * len(groups) // self._turn.total
        return [*groups[first:], *groups[:first]]

    def take(self, name: str, is_done: Callable[[], bool]) -> bool:
        """Claim it, unless a worker that lives has."""
        numbers = [int(path.suffix[1:]) for path in self._claims.glob(f"{name}.*")]
        last = max(numbers, default=0)
        if last and _lives(self._claims / f"{name}.{last}", _now(self._heart)):
            return False
        claim = self._claims / f"{name}.{last + 1}"
        try:
            os.link(self._heart, claim)
        except FileExistsError:  # another one was faster
            return False
        except OSError as error:
            why = error.strerror or error
            raise UserError(f"{self._claims} takes no claims, which are hard links: {why}; use one process") from error
        self._held[name] = claim
        if is_done():  # it was claimed and let go of while this one looked
            self.release(name)
            return False
        return True

    def release(self, name: str) -> None:
        """Remove the claim."""
        self._held.pop(name).unlink(missing_ok=True)

    def wait(self, seconds: float, check: Callable[[], None]) -> None:
        """So long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            check()
            time.sleep(min(0.2, left))

    def leave(self) -> None:
        """Die in good order: others need not wait."""
        self._end.set()
        self._thread.join()
        for name in [*self._held]:
            self.release(name)
        self._heart.unlink(missing_ok=True)
        if not (self.home / "results.jsonl").exists():
            shutil.rmtree(self.home, ignore_errors=True)


@contextmanager
def crew_of(folder: Path, turn: Turn | None, about: Mapping[str, str]) -> Iterator[Crew]:
    """Within it this process works in a sweep's folder: alone, or as one of several workers.

    about: what workers must agree on, by name. Raises UserError where the others do not, and where one that works alone
    meets others.
    """
    if turn is None:
        with alone(folder):
            _refuse(at_work(folder, _now(folder / ".owner")), folder)
            shutil.rmtree(folder / "claims", ignore_errors=True)  # of workers that were killed
            yield Alone(folder)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.jsonl").touch()  # it is a sweep's folder, whoever is done first
        seat = Seat(folder, turn)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}; choose another run.out") from error
    try:
        said = {"worker": f"{turn.number}/{turn.total}", "host": gethostname(), "process": str(os.getpid()), **about}
        partial = seat.home / "about.partial"
        partial.write_text(json.dumps(said), encoding="utf8")
        partial.rename(seat.home / "about.json")
        if owner := worker_in(folder):
            raise UserError(f"{folder} is being used by {owner}, which works alone; wait for it")
        for other in at_work(folder, _now(seat.home / "heart")):
            _agree(about, told_of(other), folder)
        yield seat
    finally:
        seat.leave()


def at_work(folder: Path, now: float) -> list[Path]:
    """The folders of workers that live; now: seconds, by the clock of the file system."""
    hearts = sorted((folder / "workers").glob("*/heart"))
    return [heart.parent for heart in hearts if _lives(heart, now) and (heart.parent / "about.json").exists()]


def told_of(home: Path) -> dict[str, str]:
    """Who a worker is and what it works on."""
    return read_object(home / "about.json", {"worker": TEXT, "host": TEXT, "process": TEXT}, "remove its folder")


def results_of_workers(file: Path) -> list[Path]:
    """The results that workers have beside those in `file`, the oldest first."""
    return sorted((file.parent / "workers").glob("*/results.jsonl"))


def _agree(own: Mapping[str, str], others: Mapping[str, str], folder: Path) -> None:
    """Raises UserError that names what two workers do not agree on."""
    for name, value in own.items():
        if others.get(name) != value:
            who = f"worker {others['worker']}, process {others['process']} on {others['host']}"
            raise UserError(
                f"{folder} has {who} at work with another {name} ({others.get(name)}, here {value}); use the same, or "
                "another name or run.out"
            )


def _refuse(workers: Sequence[Path], folder: Path) -> None:
    if workers:
        names = ", ".join(f"{who['worker']} on {who['host']}" for who in map(told_of, workers))
        raise UserError(f"{folder} has workers in it: {names}; wait for them ({EXPIRY:g} s if they were killed), or "
                        "join them by --worker")  # fmt: skip


def _next_home(folder: Path) -> Path:
    """A new folder in it, of the number after the last one."""
    folder.mkdir(exist_ok=True)
    while True:
        home = folder / f"{max((int(each.name) for each in folder.iterdir()), default=0) + 1:06}"
        try:
            home.mkdir()
        except FileExistsError:  # another worker was faster
            continue
        return home


def _now(file: Path) -> float:
    """The time by the clock of the file system, which may be another machine's; touches a file."""
    file.touch()
    return file.stat().st_mtime


def _lives(heart: Path, now: float) -> bool:
    """Was it touched of late?"""
    try:
        return now - heart.stat().st_mtime < EXPIRY
    except FileNotFoundError:
        return False
