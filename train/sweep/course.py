"""The course of a group: what its runs have come to so far, kept on the disk while they train.

A kill costs the seconds since it was written last. What goes on from there has the bits of what was never stopped: a
step's tokens follow from the seed and its number, and all else that it reads is here.
"""

import io
import json
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from train.files import write_whole
from train.step import Judgement, Metrics, State
from train.verdict.race import Stop

SECONDS = 20.0  # from one writing to the next, at least
SHARE = 30  # of a group's time, the most that writing may take: one part in so many


class End(NamedTuple):
    """The end of a run. step: its last. stop: why there, None where it is whole. beside: what else was measured."""

    step: int
    stop: Stop | None
    judgement: Judgement
    beside: dict[str, float]


@dataclass(slots=True)
class Told:
    """What a group has said so far, a chunk at a time. layers: by the number of updates before each look."""

    metrics: list[Metrics] = field(default_factory=list)
    unigram: list[np.ndarray] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    layers: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)

    @property
    def losses(self) -> np.ndarray:
        """[K, T]."""
        return np.concatenate([each.loss for each in self.metrics], axis=1)

    @property
    def unigram_losses(self) -> np.ndarray:
        """What byte frequencies lose on the same batches, [K, T]."""
        return np.concatenate(self.unigram, axis=1)


@dataclass(slots=True)
class Course:
    """K runs after `step` steps. alive: bool [K]. first: how they were judged before the first step. ends: of those
    that have ended, by their number. seconds: that it took until then."""

    step: int
    alive: np.ndarray
    state: State
    first: Judgement
    told: Told
    ends: dict[int, End] = field(default_factory=dict)
    seconds: float = 0.0


class Shelf:
    """A folder with the courses of groups at work, one file each, by a name that stands for all that decides its bits.

    say: is told what cannot be written or read; a sweep does without.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], *, seconds: float = SECONDS) -> None:
        self.folder, self._say, self._seconds = folder, say, seconds

    def take(self, name: str, like: State) -> Course | None:
        """What was kept under this name, with the shapes of `like`; None where nothing was, or it is damaged."""
        place = self._place(name)
        if not place.exists():
            return None
        try:
            return _opened(place.read_bytes(), like)
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile, OSError) as error:
            place.unlink()
            self._say(f"{place} is damaged ({error}) and is removed; its group begins again")
            return None

    def put(self, name: str, course: Course) -> None:
        """Keep a course in place of what was kept of the group before."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._place(name), _closed(course))
        except OSError as error:
            why = error.strerror or error
            self._say(f"{self._place(name)} cannot be written: {why}; the group goes on, and begins again if killed")

    def drop(self, names: Sequence[str]) -> None:
        """Keep nothing of these groups any more."""
        for name in names:
            self._place(name).unlink(missing_ok=True)

    def others(self, names: Sequence[str]) -> int:
        """How many courses there are of groups that are not these."""
        return len({path.stem for path in self.folder.glob("*.npz")} - {*names})

    def clear(self) -> None:
        """Remove the folder: nothing is at work."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def pace(self) -> "Pace":
        """When a group is to be put here."""
        return Pace(self._seconds)

    def _place(self, name: str) -> Path:
        return self.folder / f"{name}.npz"


class Pace:
    """Time to write: after so many seconds, and no more often than one part in SHARE of the time is spent on it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = self._wait = seconds
        self._last = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Is it?"""
        return time.monotonic() - self._last >= self._wait

    def __enter__(self) -> None:
        self._last = time.monotonic()

    def __exit__(self, *_: Any) -> None:
        now = time.monotonic()
        self._wait = max(self._seconds, SHARE * (now - self._last))
        self._last = now


def _closed(course: Course) -> bytes:
    """A course as an .npz, whose members have checksums; what is no array is JSON in `about`."""
    told, ends = course.told, course.ends
    about = {
        "step": course.step,
        "seconds": course.seconds,
        "durations": told.durations,
        "ends": [[k, end.step, end.stop, end.beside] for k, end in ends.items()],
    }
    arrays = {"alive": course.alive, "unigram": told.unigram_losses}
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    arrays |= {f"state/{i}": leaf for i, leaf in enumerate(jax.tree.leaves(jax.device_get(course.state)))}
    arrays |= {f"first/{name}": values for name, values in course.first._asdict().items()}
    arrays |= {
        f"metrics/{name}": np.concatenate([each._asdict()[name] for each in told.metrics], axis=1) for name in CURVES
    }
    arrays |= {f"layers/{step}/{name}": x for step, layers in told.layers.items() for name, x in layers.items()}
    arrays |= {f"end/{k}/{name}": x for k, end in ends.items() for name, x in end.judgement._asdict().items()}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    return content.getvalue()


CURVES = ("loss", "grad_norm", "lr")  # of the metrics; those of layers are looked at apart


def _opened(content: bytes, like: State) -> Course:
    """What `_closed` was given. Raises ValueError, KeyError or BadZipFile where this is nothing of the kind."""
    with np.load(io.BytesIO(content), allow_pickle=False) as held:
        arrays = dict(held)
    about = json.loads(arrays["about"].tobytes())
    leaves, structure = jax.tree.flatten(like)
    state = [arrays[f"state/{i}"] for i in range(len(leaves))]
    if [(leaf.shape, leaf.dtype) for leaf in state] != [(leaf.shape, leaf.dtype) for leaf in leaves]:
        raise ValueError("its arrays have other shapes")
    layers: dict[int, dict[str, np.ndarray]] = {}
    for name, values in arrays.items():
        if name.startswith("layers/"):
            _, step, what = name.split("/")
            layers.setdefault(int(step), {})[what] = values
    curves = {name: arrays[f"metrics/{name}"] for name in CURVES}
    metrics = Metrics(**curves, layers={})
    return Course(
        step=about["step"],
        alive=arrays["alive"],
        state=jax.tree.unflatten(structure, jax.device_put(state)),
        first=_judgement(arrays, "first"),
        told=Told([metrics], [arrays["unigram"]], about["durations"], layers),
        ends=dict(_ends(about["ends"], arrays)),
        seconds=about["seconds"],
    )


def _ends(said: Sequence[Sequence[Any]], arrays: dict[str, np.ndarray]) -> Iterator[tuple[int, End]]:
    for k, step, stop, beside in said:
        yield k, End(step, None if stop is None else Stop(*stop), _judgement(arrays, f"end/{k}"), beside)


def _judgement(arrays: dict[str, np.ndarray], place: str) -> Judgement:
    return Judgement(*(arrays[f"{place}/{name}"] for name in Judgement._fields))
