"""Engines that start the workers of a sweep, as they are: Ray, and Slurm by submitit."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fxformer.lookup import nearest
from train.errors import UserError, user_input
from train.files import make_folder
from train.run.signals import raised_signals
from train.sweep.launch import ray, submitit
from train.sweep.launch.work import LAUNCHED, Launcher

LAUNCHERS: dict[str, Launcher] = {"ray": ray.launch, "submitit": submitit.launch}


def launch_workers(name: str, workers: int, resources: Sequence[str], words: Sequence[str], folder: Path) -> None:
    """Start so many workers on a sweep, and wait for them. resources: like "gpus=1", of each. words: the command.

    Raises UserError for what no launcher does, and where a worker fails; Interrupted when asked to stop, after all that
    was submitted is cancelled.
    """
    with user_input():
        launch = nearest(LAUNCHERS, name, "launcher")
    if workers < 1:
        raise UserError(f"workers={workers} does nothing; use 1 or more")
    given = _named(resources)
    commands = [["-m", "train", *words, "--worker", f"{k}/{workers}"] for k in range(1, workers + 1)]
    make_folder(folder)
    (folder / LAUNCHED).touch()
    try:
        with raised_signals(folder.name):
            launch(commands, Path.cwd(), folder.absolute(), given)
    finally:
        (folder / LAUNCHED).unlink(missing_ok=True)


def words_of(config: Path, given: Mapping[str, Sequence[str]]) -> list[str]:
    """The words of `ablate` on a file, with each of the values that options are given."""
    return [
        "ablate",
        str(config),
        *(word for name, values in given.items() for value in values for word in (name, value)),
    ]


def _named(resources: Sequence[str]) -> dict[str, str]:
    pairs = [each.partition("=") for each in resources]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise UserError(f"--resource {name}{equals}{value} has no value; write --resource name=value, like gpus=1")
    return {name: value for name, _, value in pairs}
