"""What verdicts read of a run: its record, a line of results.jsonl, and the loss of each held-out window."""

import base64
import math
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Result = Mapping[str, Any]


def loss_of(result: Result) -> float:
    """Validation loss, at most the loss at initialisation; null in a record stands for a number that is none."""
    val_loss, cap = result["val_loss"], result["initial_loss"]
    cap = math.inf if cap is None else cap
    return cap if val_loss is None or not math.isfinite(val_loss) else min(val_loss, cap)


def by(results: Sequence[Result], *names: str) -> dict[tuple, list[Result]]:
    """Results grouped by the values of some settings, in order of appearance."""
    groups: dict[tuple, list[Result]] = defaultdict(list)
    for result in results:
        groups[tuple(map(result["args"].get, names))].append(result)
    return dict(groups)


def packed(losses_W: np.ndarray) -> str:
    """Losses of windows as text: zlib and base64 of float16, little-endian; 3 digits are kept, and NaN. What float16
    cannot hold is infinite."""
    with np.errstate(over="ignore"):
        losses_W = np.asarray(losses_W).astype("<f2")
    return base64.b64encode(zlib.compress(losses_W.tobytes(), 9)).decode("ascii")


def unpacked(text: str) -> np.ndarray:
    """float64 [W]: what `packed` was given, to 3 digits. Raises ValueError for other text."""
    try:
        content = zlib.decompress(base64.b64decode(text, validate=True))
    except zlib.error as error:
        raise ValueError(f"these are no losses of windows: {error}") from None
    if not content or len(content) % 2:
        raise ValueError(f"these are no losses of windows: {len(content)} bytes are no float16 numbers")
    return np.frombuffer(content, "<f2").astype(float)


def windows_of(result: Result) -> np.ndarray | None:
    """Losses of the held-out windows [W], in nats per token; None where the record has none, or some are not finite."""
    text = result.get("windows")
    if text is None:
        return None
    losses_W = unpacked(text)
    return losses_W if np.all(np.isfinite(losses_W)) else None
