"""Checkpoints by orbax: written in the background, complete or absent, the last few and the best one kept."""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from train.errors import UserError
from train.step import State


def _val_loss(metrics: Any) -> float:
    return metrics["val_loss"]


class CheckpointError(UserError):
    """A checkpoint could not be written or does not fit; the message says which and what to do."""


class Checkpoints:
    """The checkpoints of one run, in `folder`; close it, or use it as a context, so that the last one is complete."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        policy = AnyPreservationPolicy([LatestN(n=keep), BestN(n=1, get_metric_fn=_val_loss, reverse=True)])
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy, best_fn=_val_loss, best_mode="min", cleanup_tmp_directories=True
        )
        self.folder = folder.absolute()
        self._manager = ocp.CheckpointManager(
            self.folder, options=options, item_handlers=ocp.StandardCheckpointHandler()
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self._manager.close()

    def save(self, step: int, state: State, *, val_loss: float) -> None:
        """Start writing the state after `step` updates; an error of the write before it is raised here."""
        self._guard(lambda: self._manager.save(step, args=ocp.args.StandardSave(state), metrics={"val_loss": val_loss}))

    def wait(self) -> None:
        """Block until the last checkpoint is complete."""
        self._guard(self._manager.wait_until_finished)

    def latest(self) -> int | None:
        """The step of the last complete checkpoint, or None."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step of the complete checkpoint with the lowest validation loss, or None."""
        return self._manager.best_step()

    def restore(self, like: State, step: int | None = None) -> State:
        """The state after `step` updates, the last one by default, with the shapes and shardings of `like`."""
        step = self.latest() if step is None else step
        if step is None:
            raise CheckpointError(f"{self.folder} holds no complete checkpoint")
        saved = self._manager.item_metadata(step).tree
        difference = _difference(ocp.tree.to_flat_dict(saved), ocp.tree.to_flat_dict(like))
        if difference:
            raise CheckpointError(f"the checkpoint in {self.folder} is of another structure: {difference}")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    def _guard(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except (OSError, ValueError) as error:
            cause = _of_the_system(error)
            if cause is None:
                raise
            with suppress(OSError, ValueError):  # one that was begun before may still become complete
                self._manager.wait_until_finished()
            self._manager.reload()
            good = self.latest()
            kept = "none was complete before" if good is None else f"the one of step {good} is complete"
            raise CheckpointError(f"a checkpoint in {self.folder} could not be written: {cause}; {kept}") from error


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
