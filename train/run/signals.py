"""Stopping in good order."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SHOW_CURSOR = "\x1b[?25h"  # a bar hides it
INTERRUPTED = 130  # the exit code that shells give to what a SIGINT ended
REQUEUE = 143  # of a run that a scheduler took its machine from: it is saved, and the same command goes on
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # the last one is what Slurm's --signal sends by custom


class Interrupted(Exception):  # noqa: N818 (nothing is wrong)
    """A signal asked to stop; results of groups that were done are kept, and what those at work had come to.

    code: what the command is to exit with.
    """

    def __init__(self, name: str, code: int = INTERRUPTED) -> None:
        super().__init__(name)
        self.code = code


def exit_code(number: int) -> int:
    """What a command exits with that a signal asked to stop: SIGINT is a person's, others are a scheduler's."""
    return INTERRUPTED if number == signal.SIGINT else REQUEUE


def leave_at_once() -> None:
    """From now on SIGINT ends the process with one sentence, whatever it does: nothing on the disk is lost by that."""

    def leave(number: int, frame: Any) -> None:
        os.write(
            2,
            (SHOW_CURSOR * sys.stderr.isatty() + "\ninterrupted; nothing that was saved is lost\n").encode(),
        )
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, leave)


@contextmanager
def raised_signals(name: str) -> Iterator[None]:
    """Within it, STOPPING raise Interrupted wherever the process is, so that what it has begun is undone."""

    def leave(number: int, frame: Any) -> None:
        for each in before:  # once
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(name, exit_code(number))

    before = {number: signal.signal(number, leave) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Within it, STOPPING only make the function it gives answer the number of the first one, which is 0 before; a
    second SIGINT does as before."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
            signal.raise_signal(signal.SIGINT)
        elif not received:
            os.write(2, b"\nstopping in good order; interrupt again to stop at once\n")
        received.append(number)

    before = {number: signal.signal(number, note) for number in STOPPING}
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
