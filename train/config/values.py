"""What a value may be: its type, its range, its text. All is checked before anything is built from it.

Sizes and counts fit int32, in which arrays index and schedules count; numbers are what they are in float32 too.
"""

import math
import types
import typing
from typing import Any

import numpy as np

COUNT = 2**31 - 1
FLOAT, SMALLEST = (float(number) for number in (np.finfo(np.float32).max, np.finfo(np.float32).tiny))
BELOW_1 = float(np.nextafter(np.float32(1), np.float32(0)))

RANGES: dict[str, tuple[float, float]] = {  # the least and the most
    **dict.fromkeys(("batch", "validation", "watch", "steps", "accumulate", "save_every", "log_every"), (1, COUNT)),
    **dict.fromkeys(("keep", "window"), (1, COUNT)),
    "length": (1, 2**20),
    "warmup": (0, COUNT),
    "memory_tokens": (0, 2**12),
    "seed": (0, 2**32 - 1),
    **dict.fromkeys(
        ("width", "heads", "kv_heads", "base_width", "base_heads"), (1, 2**16)
    ),  # the largest published models are below
    **dict.fromkeys(("inner", "base_inner"), (1, 2**20)),
    **dict.fromkeys(("depth", "base_depth"), (1, 2**12)),
    **dict.fromkeys(("lr", "final", "weight_decay", "eps", "clip"), (0.0, FLOAT)),
    **dict.fromkeys(("z_loss", "balance", "router_z", "mtp"), (0.0, FLOAT)),
    **dict.fromkeys(("softcap", "layer_scale"), (SMALLEST, FLOAT)),
    "value_residual": (0.0, 1.0),
    **dict.fromkeys(("beta1", "beta2", "dropout", "stochastic_depth"), (0.0, BELOW_1)),
    **dict.fromkeys(("residual_scale", "branch_scale", "init_scale"), (-FLOAT, FLOAT)),
}
NAMING = ("name", "path", "out")  # texts that name something, so that they are not empty


def check_number(name: str, value: float) -> None:
    """Raise ValueError for a number that the setting cannot have, or that is another in float32."""
    least, most = RANGES[name]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}={value!r} is not finite; give a number")
    if not least <= value <= most:
        raise ValueError(f"{name}={short(value)} is out of range; use {least:.7g} to {_bound(most)}")
    if 0 < abs(value) < SMALLEST:
        raise ValueError(f"{name}={value!r} is 0 in float32; use 0, or {SMALLEST:.7g} or more")


def _bound(most: float) -> str:
    return str(most) if isinstance(most, int) else f"{most:.7g}"


def check_text(name: str, text: str) -> None:
    """Raise ValueError for a text that names nothing, or that no file could have for a name."""
    if name in NAMING and not text:
        raise ValueError(f"{name} is empty; give a name, or . for the current folder")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise ValueError(f"{name}={short(text)} has control characters; give a text without them")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}={short(text)} is not UTF-8; give another text") from None


def typed(kind: Any, name: str, value: Any) -> Any:
    """`value` as the type that a setting has; ValueError where it is of another."""
    kinds = kinds_of(kind)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool) and int not in kinds:
        check_number(name, value)
        return float(value)
    if any(isinstance(value, k) and not (k in (int, float) and isinstance(value, bool)) for k in kinds):
        return value
    wanted = " or ".join(
        {int: "a whole number", float: "a number", str: "a name", bool: "true or false"}[k]
        for k in kinds
        if k is not types.NoneType
    )
    raise ValueError(f"{name}={short(value)} is not {wanted}")


def kinds_of(kind: Any) -> tuple[Any, ...]:
    """The types of an annotation; of names that are listed it is that of names."""
    if typing.get_origin(kind) is typing.Literal:
        return (str,)
    return tuple(each for part in typing.get_args(kind) for each in kinds_of(part)) or (kind,)


def short(value: Any) -> str:
    """`value` as it is written, cut where it is long."""
    if isinstance(value, int) and value.bit_length() > 160:
        return f"(a number of {value.bit_length()} bits)"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
