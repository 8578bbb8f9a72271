"""The parameters of the best run of each arm, where a sweep is asked to keep them: best/ARM is the folder of a run."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from filelock import FileLock

from train.config import Config
from train.data.corpus import Corpus
from train.errors import UserError
from train.files import NUMBER, TEXT, read_object, write_whole
from train.run.checkpoint import Checkpoints
from train.run.log import write_home
from train.step import State
from train.verdict.question import Question, arms_of
from train.verdict.runs import Result

ALL = "all"  # the one arm of a sweep that compares nothing
CELL = {"key": TEXT, "code": TEXT, "val_loss": NUMBER}
ROUNDED = 1e-5  # records have six digits of a loss: a run that is better by less may be the one that is kept
REMEDY = "remove its folder, and keep = 'best' keeps another"


class Best:
    """Keeps, in `folder`, the last state of the run with the lowest validation loss of each arm.

    rows: settings of the grid's cells, by their keys. What was kept of other cells or code makes way.
    """

    def __init__(
        self, folder: Path, question: Question | None, rows: Mapping[str, Mapping[str, Any]], code: str
    ) -> None:
        self.folder, self._code, self._lock = folder, code, Lock()
        arms = [] if question is None else arms_of([*rows.values()], question)
        self._arms = {key: next((arm.name for arm in arms if arm.has(row)), ALL) for key, row in rows.items()}
        self._names = _names([*dict.fromkeys(self._arms.values())])

    def better(self, losses: Mapping[str, float]) -> list[str]:
        """Of runs with these validation losses, by their keys, those to keep: the best of each arm where it is better
        than the one that is kept."""
        best: dict[str, str] = {}
        for key, loss in losses.items():
            arm = self._arms[key]
            if loss == loss and (arm not in best or loss < losses[best[arm]]):
                best[arm] = key
        return [key for key in best.values() if losses[key] < self._kept_loss(self._place(key))]

    def keep(self, config: Config, key: str, corpus: Corpus, state: State, val_loss: float) -> None:
        """Keep the state of a run in place of that of its arm; whole, or what was there stays."""
        place, step = self._place(key), config.train.steps
        new, old = (place.with_name(f".{place.name}.{what}") for what in ("new", "old"))
        with self._lock, FileLock(self.folder.with_name(".best.lock")):
            if val_loss > self._kept_loss(place):  # another worker has kept a better one since
                return
            shutil.rmtree(new, ignore_errors=True)
            with Checkpoints(new / "checkpoints", keep=1) as checkpoints:
                checkpoints.save(step, state, val_loss=val_loss)
            write_home(new / "config.json", config, corpus)
            said = {"key": key, "code": self._code, "val_loss": val_loss}
            write_whole(new / "cell.json", json.dumps(said).encode())
            shutil.rmtree(old, ignore_errors=True)
            if place.exists():
                place.rename(old)
            new.rename(place)
            shutil.rmtree(old, ignore_errors=True)

    def lacking(self, results: Sequence[Result]) -> Iterator[str]:
        """A sentence for each arm whose best run is not the one that is kept."""
        losses = {run["key"]: run["val_loss"] * (1 + ROUNDED) for run in results if run["val_loss"] is not None}
        for key in self.better(losses):
            yield (
                f"the parameters of the best run of {self._arms[key]}, {key}, were not kept: it ran before they were "
                f"asked for; remove its line from {self.folder.parent / 'results.jsonl'}, and it runs again"
            )

    def _place(self, key: str) -> Path:
        return self.folder / self._names[self._arms[key]]

    def _kept_loss(self, place: Path) -> float:
        """Of the run that is kept there; infinite where none is, or it is no cell of this grid by this code."""
        if not (place / "cell.json").exists():
            return float("inf")
        held = read_object(place / "cell.json", CELL, REMEDY)
        known = held["key"] in self._arms and held["code"] == self._code
        return float(held["val_loss"]) if known else float("inf")


def _names(arms: Sequence[str]) -> dict[str, str]:
    """What the folder of each arm is called: letters, digits, and a few signs that no shell minds."""
    names: dict[str, str] = {}
    for arm in arms:
        name = re.sub(r"[^\w.=-]+", "-", arm).strip("-.") or ALL
        twins = sum(other == name or other.startswith(f"{name}~") for other in names.values())
        names[arm] = f"{name}~{twins + 1}" if twins else name
    return names


def run_of(folder: Path, cell: str) -> Path:
    """The folder of a run: `folder` itself, or that of the arm of a sweep whose best run has a key that begins so.

    Raises UserError where it is a sweep and that is not one.
    """
    if not (folder / "results.jsonl").exists():
        if cell:
            raise UserError(f"{folder} is no sweep; leave out --cell")
        return folder
    homes = {place: read_object(place / "cell.json", CELL, REMEDY)["key"] for place in kept_in(folder)}
    if not homes:
        raise UserError(f"{folder} is a sweep that kept no parameters; run it with --set keep=best")
    found = [place for place, key in homes.items() if key.startswith(cell)]
    if len(found) != 1:
        many = ", ".join(f"{place} ({key[:8]})" for place, key in homes.items())
        raise UserError(f"{folder} is a sweep; name the run of an arm, or its --cell: {many}")
    return found[0]


def kept_in(folder: Path) -> list[Path]:
    """The folders of the runs that a sweep kept."""
    return sorted(file.parent for file in (folder / "best").glob("*/cell.json") if not file.parent.name.startswith("."))
