"""Where the numbers of a run are told besides its log: to one of TRACKERS, a package that is imported when asked for.

A tracker has three methods, and is made of the folder that it may write in and the name of what it tells of. Another
one is a class and a line of the table.
"""

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from train.errors import UserError

PROJECT = "fxformer"


class Tracker(Protocol):
    """What is told how a run gets on. Making one raises UserError where its package is not there."""

    def begin(self, settings: Mapping[str, Any], step: int) -> None:
        """A run with these settings goes on after `step` updates; 0: it begins."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """What is known after so many updates, by name; steps never fall."""

    def close(self) -> None:
        """All has been told; it is on the disk when this returns."""


class Jsonl:
    """JSON lines alone: a run writes its log.jsonl whatever else is told, since it goes on by it."""

    def __init__(self, folder: Path, name: str) -> None:
        pass

    def begin(self, settings: Mapping[str, Any], step: int) -> None:
        pass

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoard:
    """Event files of tensorboardX in tensorboard/NAME; `tensorboard --logdir runs` shows them all.

    What was told of steps after the one that a run goes on from is left out of view.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._package = _imported("tensorboardX", "tensorboard")
        self._place = folder / "tensorboard" / _as_file(name)

    def begin(self, settings: Mapping[str, Any], step: int) -> None:
        purge = {"purge_step": step + 1} if step else {}
        # A file is called by the second and by this, and would be written over by one of the same name.
        self._writer = self._package.SummaryWriter(
            logdir=str(self._place), flush_secs=10, filename_suffix=f".{step}", **purge
        )
        self._writer.add_text("settings", f"```\n{json.dumps(dict(settings), indent=1)}\n```", step)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """wandb, offline: in wandb/offline-run-… of the folder, which `wandb sync` uploads. A run that goes on is one more
    of these, under the same id."""

    def __init__(self, folder: Path, name: str) -> None:
        self._package = _imported("wandb", "wandb")
        self._folder, self._name = folder, name

    def begin(self, settings: Mapping[str, Any], step: int) -> None:
        self._run = self._package.init(
            project=PROJECT,
            name=self._name,
            id=_digest(self._folder, self._name),
            dir=str(self._folder),
            config=dict(settings),
            mode="offline",
            reinit="create_new",
            settings=self._package.Settings(silent=True, console="off", x_disable_stats=True),
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """trackio, on this machine, where it keeps all its projects (TRACKIO_DIR); `trackio show` draws them."""

    def __init__(self, folder: Path, name: str) -> None:
        self._package = _imported("trackio", "trackio")
        self._name = f"{name} {_digest(folder, name)[:6]}"  # its runs of one name are one run, wherever they are from

    def begin(self, settings: Mapping[str, Any], step: int) -> None:
        with contextlib.redirect_stdout(sys.stderr):  # what a command prints may be read by another
            self._run = self._package.init(
                project=PROJECT,
                name=self._name,
                config=dict(settings),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self._package.finish()  # the run's own method leaves it to be finished again at exit


TRACKERS: dict[str, Callable[[Path, str], Tracker]] = {
    "jsonl": Jsonl,
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}


@contextlib.contextmanager
def told(tracker: Tracker, settings: Mapping[str, Any], step: int = 0) -> Iterator[Tracker]:
    """Within it a tracker is told of a run that goes on after `step` updates."""
    tracker.begin(settings, step)
    try:
        yield tracker
    finally:
        tracker.close()


def numbers_in(said: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of a log by one name each, those of layers as "residual_rms/3", from the first one, 0."""
    return {name: value for name, value in _named("", said) if name != "step"}


def _named(name: str, value: Any) -> Iterator[tuple[str, float]]:
    match value:
        case Mapping():
            for key, each in value.items():
                yield from _named(key if name in ("", "layers") else f"{name}/{key}", each)
        case list():
            for place, each in enumerate(value):
                yield from _named(f"{name}/{place}", each)
        case int() | float() if not isinstance(value, bool):
            yield name, value


def _imported(package: str, kind: str) -> Any:
    try:
        return import_module(package)
    except ImportError:
        raise UserError(f"tracker={kind!r} needs {package}: pip install 'fxformer[trackers]'") from None


def _digest(folder: Path, name: str) -> str:
    return hashlib.sha256(f"{folder.absolute()}\n{name}".encode()).hexdigest()[:12]


def _as_file(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_.=, " else "_" for letter in name)
