"""Rotary settings of config.json: `rope_theta` and `rope_scaling` (transformers 4), `rope_parameters` (5)."""

import math
from collections.abc import Mapping
from types import NoneType
from typing import Any

from fxformer.hf.family import Settings
from fxformer.ops.rotary import Linear, Llama3, Rotary, YaRN, magnitude

DEFAULTS = {"rope_theta": 10_000.0, "rope_scaling": None, "rope_parameters": None}

# rope_type -> our scaling, and its fields with their names.
SCALINGS: dict[str, tuple[type, dict[str, str]]] = {
    "default": (NoneType, {}),
    "linear": (Linear, {"factor": "factor"}),
    "llama3": (
        Llama3,
        {
            "factor": "factor",
            "original_length": "original_max_position_embeddings",
            "low": "low_freq_factor",
            "high": "high_freq_factor",
        },
    ),
    "yarn": (
        YaRN,
        {
            "factor": "factor",
            "original_length": "original_max_position_embeddings",
            "fast": "beta_fast",
            "slow": "beta_slow",
            "truncate": "truncate",
        },
    ),
}
MAGNITUDES = ("attention_factor", "mscale", "mscale_all_dim")  # of "yarn"
SIGNED = ("mscale", "mscale_all_dim")  # of any size; 0 is as if they were not there


def read_rope(settings: Settings, width: int) -> tuple[Rotary, float]:
    """The rotation in heads of `width` channels, and the factor on what it rotates that comes with "yarn"."""
    rope = {key: value for key, value in rope_of(settings).items() if value is not None}
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    rope.pop("type", None)
    if kind not in SCALINGS:
        raise ValueError(f"config.json has rope_type={kind!r}; only {', '.join(SCALINGS)} are supported")
    make, names = SCALINGS[kind]
    base = rope.pop("rope_theta", settings["rope_theta"])
    rotated = width
    if "partial_rotary_factor" in settings:
        factor = rope.pop("partial_rotary_factor", settings["partial_rotary_factor"])
        rotated = int(width * factor)
        if rotated < 2 or rotated % 2:
            raise ValueError(
                f"config.json has partial_rotary_factor={factor!r}, which rotates {rotated} of {width} channels; "
                "only an even number of them is supported"
            )
    if "original_length" in names:
        rope.setdefault(names["original_length"], settings["max_position_embeddings"])
    unknown = set(rope) - set(names.values()) - set(MAGNITUDES if kind == "yarn" else ())
    if unknown:
        raise ValueError(f"config.json has {min(unknown)} with rope_type={kind!r}, where it is unknown")
    if "factor" in names and "factor" not in rope:
        raise ValueError(f"config.json has rope_type={kind!r} and no factor")
    for key, value in {"rope_theta": base, **rope}.items():
        number = type(value) in (int, float) and (value > 0 or key in SIGNED)
        if not (type(value) is bool if key == "truncate" else number):
            raise ValueError(f"config.json has {key}={value!r} with rope_type={kind!r}, which rotates nothing")
    scaling = make(**{ours: rope[theirs] for ours, theirs in names.items() if theirs in rope})
    return Rotary(width=rotated, base=base, scaling=scaling), _magnitude(rope) if kind == "yarn" else 1.0


def write_rope(rotary: Rotary, magnitude: float) -> Settings:
    """The settings of a rotation whose scaling is in SCALINGS.

    `magnitude` is written with "yarn" only, and there only where it is not what "yarn" takes by itself.
    """
    kind, names = next((kind, names) for kind, (make, names) in SCALINGS.items() if make is type(rotary.scaling))
    scaling: dict[str, Any] = {theirs: getattr(rotary.scaling, ours) for ours, theirs in names.items()}
    longest = {}
    if "original_length" in names:
        longest["max_position_embeddings"] = int(scaling["factor"] * scaling[names["original_length"]])
    if kind == "yarn" and not math.isclose(magnitude, _magnitude(scaling), rel_tol=1e-12):
        scaling["attention_factor"] = magnitude
    typed = {"rope_type": kind, **scaling}
    return {
        **longest,
        "rope_theta": rotary.base,
        "rope_scaling": typed if scaling else None,
        "rope_parameters": {"rope_theta": rotary.base, **typed},
    }


def share(part: int, whole: int) -> float:
    """part / whole, rounded so that int(whole * share) is `part` again."""
    quotient = part / whole
    return quotient if int(whole * quotient) == part else math.nextafter(quotient, 1)


def rope_of(settings: Settings) -> Mapping[str, Any]:
    """The dict that counts, in the order of transformers 5."""
    rope = settings["rope_scaling"] or settings["rope_parameters"] or {}
    if not isinstance(rope, Mapping):
        raise ValueError(f'config.json has {rope!r} for its rotation; give an object like {{"rope_type": "default"}}')
    return rope


def _magnitude(rope: Mapping[str, Any]) -> float:
    """YaRN's factor on queries and keys: what is given, else a ratio of two magnitudes, else the plain one."""
    factor = rope["factor"]
    if "attention_factor" in rope:
        return rope["attention_factor"]
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return magnitude(factor, rope["mscale"]) / magnitude(factor, rope["mscale_all_dim"])
    return magnitude(factor)
