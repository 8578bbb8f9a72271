"""Where a result comes from: versions, devices, and the state of the source."""

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import jax

PACKAGES = ("fxformer", "jax", "flax", "optax", "numpy")


@cache
def provenance() -> dict[str, str]:
    """Versions of Python and the packages that compute, the devices, and the commit of the source, if it has one."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
        "device": f"{devices[0].device_kind} x {len(devices)}",
        "git": _commit(Path(__file__).parent),
    }


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
