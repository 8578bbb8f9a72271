"""What a sweep at work says of itself in status.json, for `watch`: how far it is, what is left, and what failed."""

import heapq
import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from train.files import COUNT, NUMBER, TEXT, Kind, complaint, write_whole
from train.run.signals import Interrupted
from train.step import UNROLLED_DEPTH
from train.verdict.outcome import FAILED

EVERY = 1.0  # seconds between two states of the file, at least
POINTS = 200  # of a curve, at most
FAILURES = 50  # the last ones that are named
LOOP_LAYERS = 2  # to compile of a stack that is looped over: its body, forward and backward
BESIDE_LAYERS = 4  # of the rest of a model, in layers
PROGRAMS = 2.5  # what the programs of a group take to compile, in those of one step
WAITING, COMPILING, TRAINING, DONE = "waiting", "compiling", "training", "done"
RUNNING, INTERRUPTED = "running", "interrupted"


def _is_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(COUNT.holds, value.values()))


def _is_groups(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) and not complaint(each, GROUP) for each in value)


def _is_curve(value: Any) -> bool:
    return isinstance(value, list) and all(each is None or NUMBER.holds(each) for each in value)


CURVE = Kind("a list of numbers and nulls", _is_curve)
GROUP = {"title": TEXT, "runs": COUNT, "alive": COUNT, "phase": TEXT, "step": COUNT, "steps": COUNT, "best": CURVE,
         "median": CURVE}  # fmt: skip
STATUS = {
    "state": TEXT, "began": NUMBER, "updated": NUMBER, "cells": COUNT, "known": COUNT,
    "left": Kind("seconds or null", lambda value: value is None or NUMBER.holds(value)),
    "outcomes": Kind("counts by outcome", _is_counts),
    "groups": Kind("a list of groups", _is_groups),
    "failures": Kind("a list of sentences", lambda value: isinstance(value, list) and all(map(TEXT.holds, value))),
}  # fmt: skip


def in_words(settings: Mapping[str, Any], names: Sequence[str]) -> str:
    """What a run of a sweep is, like "norm=rms lr=0.01": those of these settings that it has."""
    return " ".join(f"{name}={settings[name]}" for name in names if name in settings)


def compile_weight(depth: int) -> float:
    """What the programs of a model take to compile, relative to those of others."""
    return BESIDE_LAYERS + (depth if depth <= UNROLLED_DEPTH else LOOP_LAYERS)


def time_left(groups: Sequence[tuple[float, float]], workers: int) -> float:
    """Seconds for groups that each compile and then train, in this order: so many at once, of which one trains."""
    free, turn = [0.0] * workers, 0.0
    for compiling, training in groups:
        turn = max(turn, heapq.heappop(free) + compiling) + training
        heapq.heappush(free, turn)
    return max(free)


@dataclass(slots=True)
class Work:
    """A group: what it is, how far, and what that took. flops: of training one run; weight: of its programs.

    best, median: losses of the runs that are alive, by chunk. since: when it began to compile.
    """

    title: str
    cells: Mapping[int, str]  # what each of them is, in words
    steps: int
    flops: float
    weight: float
    phase: str = WAITING
    step: int = 0
    alive: int = 0
    since: float = 0.0
    compiled: float | None = None
    trained: float = 0.0
    done: float = 0.0  # FLOPs
    best: list[float | None] = field(default_factory=list)
    median: list[float | None] = field(default_factory=list)

    @property
    def left(self) -> float:
        """FLOPs."""
        return 0.0 if self.phase == DONE else self.alive * self.flops * (self.steps - self.step) / self.steps

    def shown(self) -> dict[str, Any]:
        """As the file says it."""
        thin = max(1, -(-len(self.best) // POINTS))
        return {"title": self.title, "runs": len(self.cells), "alive": self.alive, "phase": self.phase,
                "step": self.step, "steps": self.steps, "best": self.best[::thin],
                "median": self.median[::thin]}  # fmt: skip


class Status:
    """status.json in a sweep's folder, written whole where a group begins and ends, and once a second at most while it
    trains; a context, whose end it says."""

    def __init__(self, folder: Path, *, workers: int) -> None:
        self.file, self._workers = folder / "status.json", workers
        self._seconds = 0.0
        self._compilation: float | None = None
        self._groups: dict[str, Work] = {}
        self._failures: dict[str, str] = {}
        self._outcomes: Counter[str] = Counter()
        self._cells = self._known = 0
        self._began, self._written, self._lock = time.time(), -math.inf, Lock()

    def __enter__(self) -> "Status":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        with self._lock:
            ended = DONE if kind is None else INTERRUPTED if kind is Interrupted else f"failed: {error}"
            self._write(ended)

    def believe(self, seconds: float, compilation: float | None) -> None:
        """What a FLOP takes, and to compile a step, for each unit of weight, as long as neither has been measured."""
        self._seconds, self._compilation = seconds, None if compilation is None else PROGRAMS * compilation

    def plan(self, cells: int, known: Sequence[Mapping[str, Any]], groups: Mapping[str, Work]) -> None:
        """So many cells there are, of which these are known, and these groups are next."""
        with self._lock:
            self._cells, self._known, self._groups = cells, len(known), dict(groups)
            self._outcomes = Counter(record["outcome"] for record in known)
            for work in groups.values():
                work.alive = len(work.cells)
            self._write(RUNNING)

    def begins(self, name: str, step: int, alive: int) -> None:
        """A group compiles, of which so many runs go on from `step`."""
        with self._lock:
            work = self._groups[name]
            work.phase, work.since, work.step, work.alive = COMPILING, time.monotonic(), step, alive
            self._write(RUNNING)

    def trained(self, name: str, step: int, alive: np.ndarray, losses_KT: np.ndarray, stopped: Mapping[int, str],
                seconds: float) -> None:  # fmt: skip
        """A group has trained until `step`, in these seconds. alive: bool [K], in this chunk. losses_KT: of this chunk.
        stopped: runs that end with it before their last step, and as what, "" of one that is only behind."""
        with self._lock:
            work = self._groups[name]
            if work.compiled is None:
                work.compiled = max(0.0, time.monotonic() - work.since - seconds)
            living = [k for k in np.flatnonzero(alive).tolist() if k in work.cells]
            work.trained += seconds
            work.done += len(living) * work.flops * losses_KT.shape[1] / work.steps
            now = losses_KT[living, -1]
            finite = now[np.isfinite(now)]
            work.best.append(float(finite.min()) if finite.size else None)
            work.median.append(float(np.median(finite)) if finite.size else None)
            work.phase, work.step, work.alive = TRAINING, step, len(living) - len(stopped)
            for k in living:
                if stopped.get(k, "") or not math.isfinite(losses_KT[k, -1]):
                    what = stopped.get(k, "") or "no number any more"
                    self._failures.setdefault(work.cells[k], f"{work.cells[k]}: {what} at step {step}")
            if time.monotonic() - self._written >= EVERY:
                self._write(RUNNING)

    def ended(self, name: str, records: Sequence[Mapping[str, Any]]) -> None:
        """A group is done, with these results."""
        with self._lock:
            work = self._groups[name]
            work.phase, self._known = DONE, self._known + len(records)
            for k, record in enumerate(records):
                self._outcomes[record["outcome"]] += 1
                if record["outcome"] in FAILED:
                    what = f"{work.cells[k]}: {record['outcome']} at step {record['outcome_step']}"
                    self._failures[work.cells[k]] = what
            self._write(RUNNING)

    def left(self) -> float | None:
        """Seconds until the groups that there are have ended; None while the time to compile one is not known."""
        works = [work for work in self._groups.values() if work.phase != DONE]
        spent, done = (sum(each) for each in zip(*((w.trained, w.done) for w in self._groups.values()), strict=True))
        known = [(w.compiled, w.weight) for w in self._groups.values() if w.compiled is not None]
        a_weight = sum(c for c, _ in known) / sum(w for _, w in known) if known else self._compilation
        if a_weight is None and any(work.compiled is None for work in works):
            return None
        now = time.monotonic()

        def parts(work: Work) -> tuple[float, float]:
            speed = work.trained / work.done if work.done else spent / done if done else self._seconds
            compiling = 0.0 if work.compiled is not None else work.weight * (a_weight or 0.0)
            already = now - work.since if work.phase == COMPILING else 0.0
            return max(0.0, compiling - already), work.left * speed

        begun = sorted(works, key=lambda work: work.phase == WAITING)
        return time_left([parts(work) for work in begun], self._workers)

    def _write(self, state: str) -> None:
        self._written = time.monotonic()
        said = {
            "state": state,
            "began": self._began,
            "updated": time.time(),
            "cells": self._cells,
            "known": self._known,
            "left": self.left() if state == RUNNING and self._groups else None,
            "outcomes": self._outcomes,
            "groups": [work.shown() for work in self._groups.values()],
            "failures": list(self._failures.values())[-FAILURES:],
        }
        write_whole(self.file, json.dumps(said).encode())
