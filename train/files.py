"""The files that runs and sweeps leave: read whole or refused in a sentence, written whole or not at all.

Reading takes no lock and writes nothing, so it does beside a writer, and in a folder that is read-only.
"""

import json
import os
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from socket import gethostname
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from train.errors import UserError, WriteError, refusal, writing

UNNAMED = "another process"
OWNER = re.compile(r"process \d+ on \S+ since \S+")


class Kind(NamedTuple):
    """What a value in a file must be, in words and as a question; may it be missing?"""

    said: str
    holds: Callable[[Any], bool]
    optional: bool = False


def is_number(value: Any) -> bool:
    """Is this a number that NumPy takes, finite, with sums and squares that are finite too?"""
    if isinstance(value, float):
        return abs(value) < 1e150
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def is_count(value: Any) -> bool:
    """Is this a whole number, 0 or more, of 63 bits?"""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_setting(value: Any) -> bool:
    """Is this what a setting can be: text, true or false, a finite number, or nothing?"""
    return value is None or isinstance(value, str | bool) or is_number(value)


NUMBER = Kind("a finite number", is_number)
COUNT = Kind("a whole number, 0 or more", is_count)
TEXT = Kind("text", lambda value: isinstance(value, str))
SETTINGS = Kind("settings", lambda value: isinstance(value, dict) and all(map(is_setting, value.values())))


def complaint(value: Mapping[str, Any], kinds: Mapping[str, Kind]) -> str:
    """The first way in which an object is not what `kinds` say of its fields; empty where it is."""
    for name, kind in kinds.items():
        if name not in value and not kind.optional:
            return f"it has no {name}"
        if name in value and not kind.holds(value[name]):
            return f"its {name} is {reprlib.repr(value[name])}, not {kind.said}"
    return ""


def damaged(place: str, what: str, remedy: str) -> UserError:
    """The error for what cannot be read; place: a file, or a line of one."""
    return UserError(f"{place} is damaged: {what}; {remedy}")


def read_object(path: Path, kinds: Mapping[str, Kind], remedy: str) -> dict[str, Any]:
    """The JSON object of these kinds that a file holds. Raises UserError, ending in `remedy`, where it holds none."""
    return _object(_bytes(path), kinds, str(path), remedy)


def read_lines(path: Path, kinds: Mapping[str, Kind], remedy: str) -> list[dict[str, Any]]:
    """The JSON objects in the lines of a file, none where there is no file; UserError where one is not of these kinds.

    What stands after the last end of line is not finished, or never was when its writer was killed: it is left alone.
    """
    if not path.exists():
        return []
    lines = _bytes(path).split(b"\n")[:-1]
    return [_object(line, kinds, f"line {number} of {path}", remedy) for number, line in enumerate(lines, 1)]


def json_lines(objects: Sequence[Mapping[str, Any]]) -> bytes:
    """Objects as `read_lines` reads them."""
    return b"".join(json.dumps(each).encode() + b"\n" for each in objects)


def append_lines(path: Path, objects: Sequence[Mapping[str, Any]]) -> None:
    """Add lines to a file; they are on the disk when this returns. Other processes that add wait for their turn.

    An end that was torn when its writer was killed is moved to a file beside it whose name ends in .torn.
    """
    make_folder(path.parent)
    with writing(path), settled([path]):
        if path.exists() and _is_torn(path):
            content = path.read_bytes()
            finished = content.rfind(b"\n") + 1
            path.with_suffix(".torn").write_bytes(content[finished:])
            write_whole(path, content[:finished])  # not truncated in place: one who reads it now must not see both
        with path.open("ab") as file:
            file.write(json_lines(objects))
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def settled(paths: Sequence[Path]) -> Iterator[None]:
    """Within it no process is adding lines to these files: what was added together is there together."""
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(FileLock(path.with_name(f".{path.name}.lock")))
        yield


def _is_torn(path: Path) -> bool:
    """Does the file end within a line?"""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1))
        return file.read() not in (b"", b"\n")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that whoever reads it, after a crash too, finds all of it or what was there before."""
    partial = path.with_name(f"{path.name}.{gethostname()}.{os.getpid()}.partial")
    with writing(path):
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def check_there(folder: Path) -> None:
    """Raise UserError where there is no such folder."""
    if not folder.exists():
        raise UserError(f"{folder} does not exist")


def make_folder(folder: Path) -> None:
    """Make a folder and those that it is in, where they are not there."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within it no other process works in `folder`, which is made where there is none.

    The system holds the lock, and lets go of it when the process ends, however it ends; who holds it is written beside
    it for people to read. Raises UserError that says who, and where the folder cannot be locked.
    """
    try:
        make_folder(folder)
    except WriteError as error:
        raise UserError(f"{refusal(error)}; choose another run.out") from error
    lock, owner = FileLock(folder / ".lock", timeout=0), folder / ".owner"
    try:
        lock.acquire()
    except Timeout:
        used = f"{folder} is being used by {_named(owner)}"
        raise UserError(f"{used}; wait for it, or choose another name or run.out") from None
    except OSError as error:
        raise UserError(f"{folder} cannot be locked: {error.strerror or error}; choose another run.out") from error
    try:
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        owner.write_text(f"process {os.getpid()} on {gethostname()} since {since}", encoding="utf8")
        for half in folder.glob("*.json*.partial"):  # of one that was killed; a report may be at work beside this
            half.unlink(missing_ok=True)
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def worker_in(folder: Path) -> str | None:
    """Who works in a folder, as its lock says; None where nobody does, or was killed there.

    Of a process of another machine nothing is known but what it wrote: it is believed.
    """
    said = _named(folder / ".owner")
    if said == UNNAMED or not (folder / ".owner").exists():
        return None
    process, host = said.split()[1], said.split()[3]
    return None if host == gethostname() and not _lives(int(process)) else said


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def _named(owner: Path) -> str:
    """Who holds a lock, as far as it is known: the moment after it took it, nothing is written yet."""
    try:
        said = owner.read_text(encoding="utf8", errors="replace")
    except OSError:
        said = ""
    return said if OWNER.fullmatch(said) else UNNAMED


def _bytes(path: Path) -> bytes:
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path} is not a file; remove it")
    return path.read_bytes()


def _object(content: bytes, kinds: Mapping[str, Kind], place: str, remedy: str) -> dict[str, Any]:
    try:
        value = json.loads(content.decode())
    except (ValueError, RecursionError):
        raise damaged(place, "it is not JSON", remedy) from None
    if not isinstance(value, dict):
        raise damaged(place, "it is no JSON object", remedy)
    if what := complaint(value, kinds):
        raise damaged(place, what, remedy)
    return value
