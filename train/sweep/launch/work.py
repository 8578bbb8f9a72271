"""What a launcher starts: a worker of a sweep, as a process of the same command."""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from train.errors import UserError

Launcher = Callable[[Sequence[Sequence[str]], Path, Path, Mapping[str, str]], None]
"""(commands of the workers, the directory to run them in, the sweep's folder, resources by name): returns when all have
ended. Raises UserError where one fails. Whatever ends it early, Ctrl-C too, cancels what it has submitted."""
LAUNCHED = "launched"  # a file in the sweep's folder, by which workers know that it is shared
PATIENCE = 60.0  # seconds that a worker has to keep what its groups have come to


def work(command: Sequence[str], place: str, folder: str) -> None:
    """Run a worker to its end, where the launcher sends it; one that is cancelled stops in good order.

    Raises UserError where it fails, and where `folder` is not there, so that it is not shared.
    """
    if not Path(folder, LAUNCHED).exists():
        raise UserError(
            f"{folder} is not shared: what the launcher wrote there is not seen here; choose another run.out"
        )
    process = subprocess.Popen([sys.executable, *command], cwd=place, stderr=subprocess.PIPE, text=True)
    try:
        _, said = process.communicate()
    except BaseException:  # KeyboardInterrupt too, as engines cancel
        process.terminate()
        process.wait(PATIENCE)
        raise
    if process.returncode:
        last = said.strip().splitlines()[-1:] or ["it said nothing"]
        raise UserError(f"worker {command[-1]} ended with {process.returncode}: {last[0].removeprefix('error: ')}")


def number_of(resources: Mapping[str, str], name: str, otherwise: float) -> float:
    """A resource that is a number. Raises UserError where it is none."""
    try:
        number = float(resources.get(name, otherwise))
    except ValueError:
        raise UserError(f"{name}={resources[name]} is no number") from None
    if number < 0:
        raise UserError(f"{name}={resources[name]} is less than 0")
    return number


def known(resources: Mapping[str, str], names: Sequence[str]) -> None:
    """Raises UserError where a resource is none of these."""
    for name in resources:
        if name not in names:
            raise UserError(f"no resource is called {name}; there are {', '.join(names)}")
