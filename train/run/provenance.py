"""Where a result comes from: versions, devices, and the state of the source."""

import hashlib
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import jax

import fxformer

PACKAGES = ("fxformer", "jax", "flax", "optax", "numpy")
LIBRARY, ROOMS = Path(fxformer.__file__).parent, Path(__file__).parent.parent
ASIDE = ("commands", "hf", "verify", "decode")  # folders of the library that no training calls
COMPUTES = ("data", "objectives", "optim", "config/config.py", "step.py", "run/loop.py", "run/steps.py",
            "sweep/population.py", "sweep/cells.py", "sweep/group.py", "sweep/course.py", "verdict/outcome.py",
            "verdict/race.py")  # of the laboratory  # fmt: skip


@cache
def provenance() -> dict[str, str]:
    """Versions of Python and the packages that compute, the devices, and the commit of the source, if it has one."""
    devices = jax.devices()
    return {
        **versions(),
        "machine": f"{platform.system()} {platform.machine()}",
        "device": f"{devices[0].device_kind} x {len(devices)}",
        "git": _commit(Path(__file__).parent),
        "code": source_digest(),
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that compute."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


@cache
def source_digest() -> str:
    """12 hexadecimal digits that stand for the source that decides a result: the model's, the step's, the text's.

    A commit that changes a page or a figure has the same; two states of a tree that is being changed have not.
    """
    library = [path for path in LIBRARY.rglob("*.py") if path.relative_to(LIBRARY).parts[0] not in ASIDE]
    rooms = [path for name in COMPUTES for path in (ROOMS / name, *(ROOMS / name).rglob("*.py")) if path.is_file()]
    digest = hashlib.sha256()
    for path in [*sorted(library), *sorted(rooms)]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _commit(folder: Path) -> str:
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return "no repository"
    return f"{commit} (changed)" if _git(folder, "status", "--porcelain") else commit


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
