"""How contestants are timed: in turns, each call ends when its result is there, the median counts."""

import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax

PACKAGES = ("fxformer", "jax", "flax", "optax", "numpy", "torch", "transformers")
Step = Callable[[], Any]  # does its work once more, and is done when it returns


def in_turns(steps: dict[str, Step], repeats: int) -> dict[str, float]:
    """Median seconds of each, one call of every contestant a round, after one that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(repeats + 1):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            if round_:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def rows(what: str, seconds: dict[str, float], tokens: int) -> list[dict[str, Any]]:
    """One row a contestant: ratio is its speed by that of the first named."""
    first = next(iter(seconds.values()))
    return [
        {"what": what, "who": name, "ms": 1000 * s, "tokens_per_second": tokens / s, "speed": first / s}
        for name, s in seconds.items()
    ]


def say(rows: list[dict[str, Any]]) -> None:
    """Print rows as soon as they are known."""
    for r in rows:
        numbers = f"{r['ms']:>10,.1f} ms{r['tokens_per_second']:>12,.0f} tokens/s{r['speed']:>8.2f}"
        print(f"{r['what']:<22}{r['who']:<28}{numbers}", flush=True)


def machine() -> dict[str, Any]:
    """Where the times were taken: device, cores, versions, and how busy it was."""
    found = {name: version(name) for name in PACKAGES if importlib.util.find_spec(name)}
    devices = jax.devices()
    return {
        "device": f"{devices[0].device_kind} x {len(devices)}",
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": found,
        "load_average": os.getloadavg()[0],
    }


def cores() -> int:
    return len(os.sched_getaffinity(0))
