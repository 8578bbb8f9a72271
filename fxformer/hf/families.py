"""The families by `model_type`, and which of them says a given Spec."""

import dataclasses
import math
from typing import Any

from fxformer.hf.family import Family, Settings, settings
from fxformer.hf.gpt2 import GPT2
from fxformer.hf.llama import LLAMA
from fxformer.layers.project import FanIn, Normal, Xavier
from fxformer.model import Transformer

FAMILIES: dict[str, Family] = {"gpt2": GPT2, "llama": LLAMA}

INITS = (FanIn, Normal, Xavier)


def family_of(config: Settings) -> Family:
    """The family of a config.json."""
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise ValueError(f"config.json has model_type={model_type!r}; only {', '.join(FAMILIES)} are supported")
    return FAMILIES[model_type]


def express(spec: Transformer) -> tuple[str, Settings]:
    """(model_type, settings) of the first family whose config, read back, computes what `spec` computes."""
    misfits = []
    for model_type, family in FAMILIES.items():
        config = family.write(spec)
        if config is None:
            continue
        misfit = difference(family.read(settings(family, config)), spec)
        if misfit is None:
            return model_type, config
        misfits.append(f"as {model_type} {misfit}")
    reason = "; ".join(misfits) or f"none of {', '.join(FAMILIES)} has its structure"
    raise ValueError(f"transformers has no model for this spec: {reason}")


def difference(theirs: Any, ours: Any, path: str = "spec") -> str | None:
    """The first field by which two specs compute something else, in words; None where they agree.

    Initialisers and dropout rates may differ: they matter in training only. Numbers may differ by rounding.
    """
    if theirs == ours or type(theirs) in INITS or path.endswith(".dropout"):
        return None
    if type(theirs) is type(ours):
        if dataclasses.is_dataclass(theirs):
            names = [field.name for field in dataclasses.fields(theirs)]
            parts = [difference(getattr(theirs, name), getattr(ours, name), f"{path}.{name}") for name in names]
            return next((part for part in parts if part is not None), None)
        if type(theirs) is tuple and len(theirs) == len(ours):
            parts = [difference(*pair, f"{path}[{i}]") for i, pair in enumerate(zip(theirs, ours, strict=True))]
            return next((part for part in parts if part is not None), None)
        if type(theirs) is float and math.isclose(theirs, ours, rel_tol=1e-12):
            return None
    return f"{path} would be {theirs!r}, not {ours!r}"
