"""Progress: a bar with loss, speed and time left on a terminal, plain lines now and then elsewhere."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

QUIET_SECONDS = 10.0  # between plain lines


class Progress:
    """A context for work of `total` units, of which `done` were done before. quiet: nothing is said."""

    def __init__(
        self, title: str, *, total: float, done: int = 0, console: Console | None = None, quiet: bool = False
    ) -> None:
        self.console = Console(quiet=quiet) if console is None else console
        self._title, self._total = title, total
        self._done: float = done
        self._last_line = time.monotonic()
        self._first: tuple[float, float] | None = None  # when, and how much, after the first work: that compiles
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
                   TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
        self._bar = Bar(*columns, console=self.console, disable=not self.console.is_terminal)
        self._task = self._bar.add_task(title, total=total, completed=done, note="")

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def expect(self, units: float) -> None:
        """`units` more are to be done."""
        self._total += units
        self._bar.update(self._task, total=self._total)

    def advance(self, units: float, note: str = "") -> None:
        """`units` more are done; `note` says how it stands (loss, tokens per second)."""
        self._done += units
        self._bar.update(self._task, completed=self._done, note=note)
        now = time.monotonic()
        self._first = self._first or (now, self._done)
        if not self.console.is_terminal and now - self._last_line >= QUIET_SECONDS:
            self._last_line = now
            self.say(f"{self._title}: {self._done / self._total:4.0%}{self._left(now)}  {note}".rstrip())

    def say(self, text: str) -> None:
        """A line that stays, above the bar."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _left(self, now: float) -> str:
        if self._first is None or self._done == self._first[1]:
            return ""
        begin, first = self._first
        return f", {clock((self._total - self._done) * (now - begin) / (self._done - first))} left"


def clock(seconds: float) -> str:
    """Seconds as 1:05 or 2:03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
