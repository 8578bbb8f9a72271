"""Checkpoints by orbax: written in the background, complete or absent; the last few and the best one kept.

Each holds the SHA-256 of its files, compared before they are read, so that a damaged one is known as such and the one
before it is taken. One that is deleted is moved away in one step before its files are removed: a kill leaves no half.

Several processes write and read one together, each its own part of the arrays; the first one looks at files, and moves
them. A checkpoint knows nothing of how many they were: it is read over any other mesh.
"""

import hashlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from train.errors import UserError
from train.run.processes import all_do, first_does, is_first, several
from train.step import State

BIN = "deleted"  # what lies here is no checkpoint any more
SUMS = "SHA256SUMS"  # in a checkpoint; `sha256sum -c` reads it too
ARRAYS, METRICS = "default", "metrics"  # its folders, as orbax calls them
PATTERNS = ("*", "?", "[", "\\", "gs:/")  # orbax takes the first three for patterns, and rewrites the last two


class CheckpointError(UserError):
    """A checkpoint cannot be written, is damaged or does not fit; the message says which and what to do."""


class _DamagedError(Exception):
    """Why a checkpoint is not what was written, in a few words."""


class _GoneError(CheckpointError):
    """A checkpoint was deleted while it was read, by a run that has a better one."""


class _Kept(NamedTuple):
    """What a folder holds: validation losses by step, and why other steps are damaged."""

    val_loss: dict[int, float]
    damaged: dict[int, str]


def _val_loss(metrics: Any) -> float:
    return metrics["val_loss"]


class Checkpoints:
    """The checkpoints of one run, in `folder`; close it, or use it as a context, so that the last one is complete.

    It owns the folder: what a killed process left half done there is removed. `restore_best` reads beside an owner.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        check_place(folder)
        self.folder = folder.absolute()
        self._read_back = False
        first_does(self._clear)
        policy = AnyPreservationPolicy([LatestN(n=keep), BestN(n=1, get_metric_fn=_val_loss, reverse=True)])
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            best_fn=_val_loss,
            best_mode="min",
            cleanup_tmp_directories=True,
            todelete_subdir=BIN,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=partial(_sum_files, self.folder)),
        )
        self._manager = ocp.CheckpointManager(
            self.folder, options=options, item_handlers=ocp.StandardCheckpointHandler()
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None and several():  # the others may be anywhere: they are not waited for
            return
        self._manager.close()
        self._empty_bin()

    def save(self, step: int, state: State, *, val_loss: float) -> None:
        """Start writing the state after `step` updates; an error of the write before it is raised here.

        The first one is waited for and read back: what cannot be read is known before it is relied on.
        """
        self.wait()
        self._guard(lambda: self._manager.save(step, args=ocp.args.StandardSave(state), metrics={"val_loss": val_loss}))
        if not self._read_back:
            self.wait()
            all_do(lambda: _check_written(self.folder, step, state))
            self._read_back = True

    def wait(self) -> None:
        """Block until the last checkpoint is complete."""
        self._guard(self._manager.wait_until_finished)
        self._empty_bin()

    def latest(self) -> int | None:
        """The step of the last complete checkpoint, or None."""
        return first_does(self._manager.latest_step)

    def best(self) -> int | None:
        """The step of the complete checkpoint with the lowest validation loss, or None."""
        return self._manager.best_step()

    def go_back(self, step: int) -> bool:
        """Keep none of after so many updates; False, and nothing is done, where there would be none left."""
        self.wait()
        steps = first_does(lambda: list(self._manager.all_steps()))
        if not any(each <= step for each in steps):
            return False
        for each in steps:
            if each > step:
                self._manager.delete(each)
        self._empty_bin()
        return True

    def restore(self, like: State) -> State:
        """The state of the last checkpoint that is whole, with the shapes and shardings of `like`.

        Damaged ones after it are set aside, with a sentence. Raises CheckpointError where none is whole or fits.
        """
        with _reader(self.folder) as manager:
            step, state, damaged = _first_whole(manager, sorted(manager.all_steps(), reverse=True), like)
        first_does(lambda: _set_aside(self.folder, damaged, instead=step))
        self._manager.reload()
        return state

    def _clear(self) -> None:
        """Remove what a killed process left half done, and set aside what is damaged."""
        self._empty_bin()
        with _reader(self.folder, together=False) as manager:
            kept = _look(manager)
        if kept.val_loss:
            _set_aside(self.folder, kept.damaged, instead=max(kept.val_loss))
        elif kept.damaged:
            raise _none_is_whole(self.folder, kept.damaged)

    def _empty_bin(self) -> None:
        if is_first():
            shutil.rmtree(self.folder / BIN, ignore_errors=True)

    def _guard(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except (OSError, ValueError) as error:
            cause = _of_the_system(error)
            if cause is None:
                raise
            raise CheckpointError(
                f"a checkpoint in {self.folder} could not be written: {cause}; {self._standing()}"
            ) from error

    def _standing(self) -> str:
        """What there is after a failure, in words."""
        if several():  # the others may be anywhere: they are not waited for
            return "those that were complete before are"
        with suppress(OSError, ValueError):  # one that was begun before may still become complete
            self._manager.wait_until_finished()
        self._manager.reload()
        good = self.latest()
        return "none was complete before" if good is None else f"the one of step {good} is complete"


def check_place(folder: Path) -> None:
    """Raise CheckpointError where checkpoints would not be written into `folder`, for what its name means to orbax."""
    place = f"{folder.absolute().as_posix()}/"
    wrong = [pattern for pattern in PATTERNS if pattern in place]
    if wrong:
        raise CheckpointError(
            f"no checkpoint can be kept in {place}, where {wrong[0]!r} means something else to orbax; "
            "choose another name or run.out"
        )
    try:
        place.encode()
    except UnicodeEncodeError:
        raise CheckpointError(
            f"no checkpoint can be kept in {place!r}, which is not UTF-8; choose another name or run.out"
        ) from None


def restore_best(folder: Path, like: State) -> State:
    """The state with the lowest validation loss of those that are whole, with the shapes and shardings of `like`.

    It changes nothing in `folder`, where a run may be going on. Raises CheckpointError where none is whole or fits.
    """
    folder = folder.absolute()
    with _reader(folder) as manager:
        kept = _look(manager)
        if kept.damaged and not kept.val_loss:
            raise _none_is_whole(folder, kept.damaged)
        try:
            step, state, damaged = _first_whole(manager, sorted(kept.val_loss, key=kept.val_loss.__getitem__), like)
        except _GoneError:
            return restore_best(folder, like)
    for other, reason in {**kept.damaged, **damaged}.items():
        _say(f"{folder / str(other)} is damaged ({reason}); step {step} is read")
    return state


def restore_at_most(folder: Path, steps: int, like: State) -> State | None:
    """The state after as many updates as there is a whole checkpoint of and no more than `steps`; None without one.

    It changes nothing in `folder`, as `restore_best`.
    """
    if not folder.is_dir():
        return None
    with _reader(folder.absolute()) as manager:
        early = sorted((step for step in manager.all_steps() if step <= steps), reverse=True)
        try:
            return _first_whole(manager, early, like)[1]
        except CheckpointError:
            return None


def _sum_files(folder: Path) -> None:
    """Write SUMS into the checkpoint that is complete but for its name; orbax calls it then."""
    for place in folder.iterdir():
        if ocp.utils.TMP_DIR_SUFFIX in place.name:
            files = sorted(path for path in place.glob("*/**/*") if path.is_file())
            lines = (f"{_sha256(path)}  {path.relative_to(place).as_posix()}\n" for path in files)
            (place / SUMS).write_text("".join(lines), encoding="utf8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_files(place: Path, part: str) -> None:
    """Raise _DamagedError where the files of a part of a checkpoint are not those that were written."""
    if not (place / SUMS).exists():  # version 0.1 wrote none
        return
    lines = (place / SUMS).read_text(encoding="utf8").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    files = [name for name in sums if name.startswith(f"{part}/")]
    if not files:
        raise _DamagedError(f"{SUMS} is damaged")
    for name in files:
        if not (place / name).is_file():
            raise _DamagedError(f"{name} is missing")
        if _sha256(place / name) != sums[name]:
            raise _DamagedError(f"{name} is not what was written")


@contextmanager
def _reader(folder: Path, *, together: bool = True) -> Iterator[ocp.CheckpointManager]:
    """A manager that changes nothing, and opens where a checkpoint is damaged too. together: by all processes."""
    alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="alone")
    options = ocp.CheckpointManagerOptions(
        read_only=True,
        create=False,
        save_interval_steps=0,
        lightweight_initialize=True,
        multiprocessing_options=ocp.options.MultiprocessingOptions() if together else alone,
    )
    manager = ocp.CheckpointManager(folder, options=options, item_handlers=ocp.StandardCheckpointHandler())
    try:
        yield manager
    finally:
        manager.close()


@contextmanager
def _damage() -> Iterator[None]:
    """Within it files are read that may be damaged: whatever their readers raise becomes a _DamagedError."""
    try:
        yield
    except (_DamagedError, MemoryError):
        raise
    except Exception as error:
        raise _DamagedError(f"{type(error).__name__}: {str(error).partition(chr(10))[0][:100]}") from error


def _look(manager: ocp.CheckpointManager) -> _Kept:
    """What there is, arrays not read."""
    kept = _Kept({}, {})
    for step in manager.all_steps():
        place = _place(manager, step)
        try:
            with _damage():
                _check_files(place, METRICS)
                metrics = manager.metrics(step)
                if metrics is None:
                    raise _DamagedError(f"{METRICS} is missing")
                kept.val_loss[step] = float(_val_loss(metrics))
        except _DamagedError as damage:
            if place.exists():  # a run that goes on may have deleted it
                kept.damaged[step] = str(damage)
    return kept


def _place(manager: ocp.CheckpointManager, step: int) -> Path:
    return Path(manager.directory) / str(step)


def _read(manager: ocp.CheckpointManager, step: int, like: Any) -> Any:
    """The state of a checkpoint, as it was written, in arrays like those of `like`: NumPy's on the host."""
    first_does(lambda: _check_files(_place(manager, step), ARRAYS))
    saved = manager.item_metadata(step).tree
    difference = _difference(ocp.tree.to_flat_dict(saved), ocp.tree.to_flat_dict(like))
    if difference:
        raise _DamagedError(f"it is of another structure: {difference}")
    # Of a shape alone orbax would make an array with the sharding that it was written with.
    wanted = jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, np.ndarray) else ocp.utils.to_shape_dtype_struct(leaf), like
    )
    return manager.restore(step, args=ocp.args.StandardRestore(wanted))


def _first_whole(manager: ocp.CheckpointManager, steps: Sequence[int], like: Any) -> tuple[int, Any, dict[int, str]]:
    """(the first of `steps` that is whole, its state, why those before it are not)."""
    damaged: dict[int, str] = {}

    def read(step: int) -> Any:
        with _damage():
            return _read(manager, step, like)

    for step in first_does(lambda: steps):
        try:
            return step, all_do(partial(read, step)), damaged
        except _DamagedError as damage:
            if not _place(manager, step).exists():  # by a run beside this one
                raise _GoneError(f"{_place(manager, step)} was deleted while it was read; try again") from damage
            damaged[step] = str(damage)
    raise _none_is_whole(Path(manager.directory), damaged)


def _none_is_whole(folder: Path, damaged: dict[int, str]) -> CheckpointError:
    if not damaged:
        return CheckpointError(f"{folder} holds no complete checkpoint")
    reasons = "; ".join(f"step {step}: {reason}" for step, reason in sorted(damaged.items(), reverse=True))
    return CheckpointError(f"no checkpoint in {folder} can be used: {reasons}")


def _set_aside(folder: Path, damaged: dict[int, str], *, instead: int) -> None:
    """Rename damaged checkpoints, so that they are neither taken nor in the way of new ones, and say so."""
    for step, reason in damaged.items():
        aside = folder / f"{step}.damaged"
        shutil.rmtree(aside, ignore_errors=True)  # of another time
        (folder / str(step)).rename(aside)
        _say(f"{folder / str(step)} is damaged ({reason}) and is called {aside.name} now; step {instead} is read")


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def _check_written(folder: Path, step: int, state: Any) -> None:
    """Raise CheckpointError where a checkpoint that was just written is not what is read."""
    here = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), np.shape(leaf)), state)
    try:
        with _reader(folder) as manager, _damage():
            read = _read(manager, step, here)
            if not all(map(_same, jax.tree.leaves(state), jax.tree.leaves(read))):
                raise _DamagedError("its arrays are others")
    except _DamagedError as damage:
        raise CheckpointError(
            f"the checkpoint of step {step} in {folder} is written and cannot be read: {damage}; choose another run.out"
        ) from damage


def _same(leaf: Any, other: Any) -> bool:
    """Have two arrays the same bits, as far as the first one is here?"""
    shards = (
        [(each.data, each.index) for each in leaf.addressable_shards] if isinstance(leaf, jax.Array) else [(leaf, ...)]
    )
    return all(np.array_equal(_bits(data), _bits(other[index])) for data, index in shards)


def _bits(array: Any) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _of_the_system(error: Exception) -> str | None:
    """What the operating system said, like "No space left on device"; None for an error that is not of its making.

    Arrays are written by tensorstore, which reports such an error as a ValueError with the number of it at the end.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    found = re.search(r"([^:\n]+) \[os_error_code='\d+'\]", str(error))
    return found.group(1).strip() if found else None


def _difference(saved: dict, wanted: dict) -> str:
    """The first way in which two flat trees differ in paths or shapes, in words; empty where they agree."""
    for path in saved.keys() | wanted.keys():
        name = ".".join(map(str, path))
        if path not in wanted:
            return f"it has {name}, the model has not"
        if path not in saved:
            return f"the model has {name}, it has not"
        if tuple(saved[path].shape) != tuple(wanted[path].shape):
            return f"{name} is {list(saved[path].shape)} there and {list(wanted[path].shape)} in the model"
    return ""
