"""Rotary settings of config.json: `rope_theta` and `rope_scaling` (transformers 4), `rope_parameters` (5)."""

import math
from collections.abc import Mapping
from types import NoneType
from typing import Any

from fxformer.hf.kinds import LARGEST, Settings, checked, shown
from fxformer.ops.rotary import Dynamic, Linear, Llama3, Rotary, YaRN, magnitude

DEFAULTS: Settings = {
    "rope_theta": 10_000.0,
    "rope_scaling": None,
    "rope_parameters": None,
    "partial_rotary_factor": None,
    "original_max_position_embeddings": None,
}

# rope_type -> our scaling, and its fields with their names.
SCALINGS: dict[str, tuple[type, dict[str, str]]] = {
    "default": (NoneType, {}),
    "linear": (Linear, {"factor": "factor"}),
    "dynamic": (Dynamic, {"factor": "factor", "original_length": "max_position_embeddings"}),
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
# What a rope_type that is refused would change.
CHANGES = {
    "longrope": "it divides each frequency by a factor of its own, of one list up to a length and of another beyond",
    "proportional": "it leaves the slowest channel pairs of a head where they are",
    "mrope": "it rotates by three positions, of time, height and width",
}


def read_rope(settings: Settings, width: int, rotated: int | None = None) -> tuple[Rotary, float]:
    """The rotation in heads of `width` channels, and the factor on what it rotates that comes with "yarn".

    rotated: of a family that rotates a part of a head, how many channels; None is for one that rotates whole heads.
    """
    rope, kind = rope_of(settings), rope_type(settings)
    make, names = SCALINGS[kind]
    base = checked("rope_theta", rope.get("rope_theta", settings["rope_theta"]))
    if rotated is None and kind != "default" and rotated_share(settings) not in (None, 1):
        raise ValueError(
            f"config.json has partial_rotary_factor={rotated_share(settings)} with rope_type={kind!r}, but this model "
            "rotates whole heads; only 1 is supported"
        )
    given = {key: checked(key, value) for key, value in rope.items() if key in (*names.values(), *MAGNITUDES)}
    for length in set(names.values()) & {"max_position_embeddings", "original_max_position_embeddings"}:
        # transformers asks outside of the object first, and takes the longest text where it is silent.
        given[length] = settings[length] or given.get(length) or settings["max_position_embeddings"]
    if "factor" in names and "factor" not in given:
        raise ValueError(f"config.json has rope_type={kind!r} and no factor")
    scaling = make(**{ours: given[theirs] for ours, theirs in names.items() if theirs in given})
    rotary = Rotary(width=width if rotated is None else rotated, base=base, scaling=scaling)
    return rotary, _magnitude(given) if kind == "yarn" else 1.0


def part_of(settings: Settings, width: int) -> int:
    """How many channels of a head of `width` a family that rotates a part of it rotates."""
    factor = rotated_share(settings)
    rotated = int(width * factor)
    if rotated < 2 or rotated % 2:
        raise ValueError(
            f"config.json has partial_rotary_factor={factor!r}, which rotates {rotated} of {width} channels; "
            "only an even number of them is supported"
        )
    return rotated


def rotated_share(settings: Settings) -> Any:
    """The share of a head that is rotated, None where nothing is said of it."""
    share = rope_of(settings).get("partial_rotary_factor", settings["partial_rotary_factor"])
    return None if share is None else checked("partial_rotary_factor", share)


def rope_type(settings: Settings) -> str:
    """The key of SCALINGS; raises ValueError for a rotation that is not among them."""
    rope = rope_of(settings)
    kind = checked("rope_type", rope.get("rope_type", rope.get("type", "default")))
    if kind not in SCALINGS:
        why = f": {CHANGES[kind]}" if kind in CHANGES else ""
        raise ValueError(f"config.json has rope_type={kind!r}; only {', '.join(SCALINGS)} are supported{why}")
    return kind


def unread_rope(settings: Settings, *, whole: bool) -> list[str]:
    """What the object of a rotation has beside what its type reads; transformers passes over it too.

    whole: the family rotates whole heads, whatever share of them it is told.
    """
    kind, rope = rope_type(settings), rope_of(settings)
    read = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *SCALINGS[kind][1].values()}
    more = MAGNITUDES if kind == "yarn" else ()
    beside = [key for key in rope if key not in (*read, *more)]
    for key in beside:
        if isinstance(rope[key], Mapping):
            raise ValueError(f"config.json has a rotation for {key!r} alone; only one for all layers is supported")
    share = ["partial_rotary_factor"] if whole and rotated_share(settings) not in (None, 1) else []
    place = "rope_scaling" if settings["rope_scaling"] else "rope_parameters"
    return [f"{place}.{key}" for key in beside] + share


def write_rope(rotary: Rotary, magnitude: float) -> Settings:
    """The settings of a rotation whose scaling is in SCALINGS.

    `magnitude` is written with "yarn" only, and there only where it is not what "yarn" takes by itself.
    """
    kind, names = next((kind, names) for kind, (make, names) in SCALINGS.items() if make is type(rotary.scaling))
    scaling: dict[str, Any] = {theirs: getattr(rotary.scaling, ours) for ours, theirs in names.items()}
    longest = {"max_position_embeddings": scaling.pop("max_position_embeddings")} if kind == "dynamic" else {}
    if "original_max_position_embeddings" in scaling:
        longest["max_position_embeddings"] = int(
            min(scaling["factor"] * scaling["original_max_position_embeddings"], LARGEST)
        )
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
    """The object that counts, in the order of transformers 5, without what is null."""
    rope = settings["rope_scaling"] or settings["rope_parameters"] or {}
    return {key: value for key, value in rope.items() if value is not None}


def _magnitude(rope: Mapping[str, Any]) -> float:
    """YaRN's factor on queries and keys: what is given, else a ratio of two magnitudes, else the plain one."""
    factor = rope["factor"]
    if "attention_factor" in rope:
        return rope["attention_factor"]
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        whole = magnitude(factor, rope["mscale_all_dim"])
        if whole == 0:
            raise ValueError(f"config.json has {shown('mscale_all_dim', rope['mscale_all_dim'])}, a magnitude of 0")
        return magnitude(factor, rope["mscale"]) / whole
    return magnitude(factor)
