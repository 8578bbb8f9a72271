"""Files of runs and sweeps: a reader writes nothing, a writer is alone, what is damaged is one sentence."""

import errno
import os
import re
import signal
import subprocess
import sys

import pytest

from train.errors import UserError, refusal
from train.files import COUNT, alone, append_lines, read_lines, read_object, write_whole

WHO = re.compile(r"is being used by process (\d+) on \S+ since \S+; wait for it, or choose another name or run.out")
HOLD = (
    "import sys, pathlib, train.files as f\nwith f.alone(pathlib.Path(sys.argv[1])): print('held', flush=True); input()"
)


def held(folder, error=None):
    """A process that works alone in a folder until it is killed or reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=error,
        text=True,
    )
    return process, process.stdout.readline() == "held\n"


def everything(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_has_one_that_works_in_it_and_a_killed_one_leaves_it_free(tmp_path):
    first, got = held(tmp_path)
    assert got
    with pytest.raises(UserError) as refused, alone(tmp_path):
        pass
    assert int(WHO.search(str(refused.value)).group(1)) == first.pid
    first.send_signal(signal.SIGKILL)
    first.wait()
    (tmp_path / f"plan.json.{first.pid}.partial").touch()
    with alone(tmp_path):
        with pytest.raises(UserError) as refused, alone(tmp_path):
            pass
        assert int(WHO.search(str(refused.value)).group(1)) == os.getpid()
    assert set(everything(tmp_path)) == {".lock"}


@pytest.mark.parametrize("owner", [b"", b"\xff\x00", b"process 12 on host since 3\nand more"])
def test_who_it_is_is_said_where_it_is_known(tmp_path, owner):
    with alone(tmp_path):
        (tmp_path / ".owner").write_bytes(owner)
        with pytest.raises(UserError, match="is being used by another process; wait for it"), alone(tmp_path):
            pass


def test_a_folder_that_cannot_be_locked_is_one_sentence(tmp_path, monkeypatch):
    def refuse(lock):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("train.files.FileLock.acquire", refuse)
    with (
        pytest.raises(UserError, match="cannot be locked: No locks available; choose another"),
        alone(tmp_path),
    ):
        pass


def test_reading_writes_nothing_and_leaves_a_torn_end_to_its_writer(tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b'{"n": 1}\n{"n": 2}\n{"n": 3')
    before = everything(tmp_path)
    assert read_lines(file, {"n": COUNT}, "") == [{"n": 1}, {"n": 2}]
    assert everything(tmp_path) == before
    append_lines(file, [{"n": 4}])
    assert file.read_bytes() == b'{"n": 1}\n{"n": 2}\n{"n": 4}\n'
    assert file.with_suffix(".torn").read_bytes() == b'{"n": 3'


def test_a_reader_keeps_what_it_opened_while_a_torn_end_is_mended(tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b'{"n": 1}\n{"n": 2')
    with file.open("rb") as reader:
        append_lines(file, [{"n": 30}])
        assert reader.read() == b'{"n": 1}\n{"n": 2'


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "whole.json"
    write_whole(file, b"before")

    def refuse(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space") as refused:
        write_whole(file, b"after")
    assert refusal(refused.value) == f"cannot write {file}: no space left on device"
    assert everything(tmp_path) == {"whole.json": b"before"}


@pytest.mark.parametrize(
    ("number", "name", "readable", "said"),
    [
        (errno.EACCES, "there.txt", True, "cannot write {}: permission denied"),
        (errno.EACCES, "there.txt", False, "cannot read {}: permission denied"),
        (errno.EACCES, "new/new.txt", True, "cannot write {}: permission denied"),
        (errno.EACCES, "new/new.txt", False, "cannot read {}: permission denied"),
        (errno.EROFS, "new.txt", True, "cannot write {}: read-only file system"),
        (errno.ENOENT, "new.txt", True, "cannot read {}: no such file or directory"),
    ],
)
def test_what_the_system_refuses_is_told_without_its_number(tmp_path, monkeypatch, number, name, readable, said):
    monkeypatch.setattr(os, "access", lambda path, rights: readable)
    (tmp_path / "there.txt").touch()
    file = str(tmp_path / name)
    assert refusal(OSError(number, os.strerror(number), file)) == said.format(file)


def test_a_refusal_of_no_file_is_told_as_it_is():
    assert refusal(OSError("disk full")) == "disk full"
    assert refusal(OSError(errno.EIO, "Input/output error")) == "Input/output error"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\xff", "it is not JSON"),
        (b"", "it is not JSON"),
        (b'{"n": 1', "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b'{"n": 1' + b"0" * 5000 + b"}", "it is not JSON"),
        (b"null", "it is no JSON object"),
        (b"{}", "it has no n"),
        (b'{"n": true}', "its n is True, not a whole number, 0 or more"),
        (b'{"n": 1.0}', "its n is 1.0, not a whole number, 0 or more"),
        (b'{"n": -1}', "its n is -1, not a whole number, 0 or more"),
        (b'{"n": "1\\n2"}', r"its n is '1\n2', not a whole number, 0 or more"),
    ],
)
def test_what_is_damaged_is_one_sentence_that_says_where(tmp_path, content, what):
    file = tmp_path / "object.json"
    file.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_object(file, {"n": COUNT}, "remove it")
    assert str(refused.value) == f"{file} is damaged: {what}; remove it"
    file.write_bytes(b'{"n": 1}\n' + content + b"\n")
    with pytest.raises(UserError) as refused:
        read_lines(file, {"n": COUNT}, "remove it")
    assert str(refused.value) == f"line 2 of {file} is damaged: {what}; remove it"


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is not a file; remove it"):
        read_lines(tmp_path / "pipe", {}, "")
