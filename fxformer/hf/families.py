"""The families by `model_type`, and which of them says a given Spec."""

import dataclasses
import math
from collections.abc import Container
from typing import Any

from fxformer.hf.albert import ALBERT
from fxformer.hf.bert import BERT
from fxformer.hf.carried import SETTINGS
from fxformer.hf.chatglm import CHATGLM, CHATGLM2, GLM_130B
from fxformer.hf.deepseek import DEEPSEEK_V2, DEEPSEEK_V3, DEEPSEEK_V32
from fxformer.hf.depth import unfolded
from fxformer.hf.family import Family, Settings, settings
from fxformer.hf.gemma2 import GEMMA2
from fxformer.hf.glm import GLM
from fxformer.hf.gpt2 import GPT2
from fxformer.hf.gpt_oss import GPT_OSS
from fxformer.hf.llama import LLAMA
from fxformer.hf.mistral import MISTRAL
from fxformer.hf.mixtral import MIXTRAL
from fxformer.hf.olmo2 import OLMO2
from fxformer.hf.parts import Parts, classes_of, exact_classes, label_names
from fxformer.hf.qwen3 import QWEN3
from fxformer.hf.switch import SWITCH
from fxformer.hf.t5 import T5, T5_ENCODER
from fxformer.model import Transformer

FAMILIES: dict[str, Family] = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "mixtral": MIXTRAL,
    "qwen3": QWEN3,
    "olmo2": OLMO2,
    "gemma2": GEMMA2,
    "glm": GLM,
    "gpt_oss": GPT_OSS,
    "bert": BERT,
    "albert": ALBERT,
    "t5": T5,
    "t5-encoder": T5_ENCODER,
    "switch_transformers": SWITCH,
    "deepseek_v2": DEEPSEEK_V2,
    "deepseek_v3": DEEPSEEK_V3,
    "deepseek_v32": DEEPSEEK_V32,
    "chatglm": CHATGLM,
    "chatglm2": CHATGLM2,
    "glm-130b": GLM_130B,
}
# A model_type that stands for two families, a setting that only the second has, and the second.
SECOND = {"chatglm": ("multi_query_group_num", "chatglm2")}
# A class that is a family of its own among those of its model_type.
BY_CLASS = {("t5", T5_ENCODER.architecture): "t5-encoder"}


def family_of(config: Settings) -> Family:
    """The family of a config.json."""
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in SECOND and SECOND[model_type][0] in config:
        model_type = SECOND[model_type][1]
    named = config.get("architectures")
    own = (key for (kind, name), key in BY_CLASS.items() if kind == model_type and named == [name])
    model_type = next(own, model_type)
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ValueError(f"config.json has model_type={model_type!r}; only {', '.join(FAMILIES)} are supported")
    return FAMILIES[model_type]


def express(spec: Transformer, like: Settings | None = None) -> tuple[str, Parts, Settings]:
    """(model_type, parts, settings) of the first family whose config, read back, computes what `spec` computes.

    like: a config.json whose family is tried first and whose class is preferred, and of which the settings that a spec
    does not say are taken over.
    """
    misfits: dict[str, list[str]] = {}
    first = None if like is None else family_of(like)
    for model_type, family in sorted(FAMILIES.items(), key=lambda item: item[1] is not first):
        try:
            config = family.write(spec)
            if config is None:
                continue
            parts, classes = _class_of(family, spec, () if like is None else like.get("architectures") or ())
            config = {"architectures": classes, **config, **label_names(spec)}
            misfit = _misfit(family, parts, config, spec)
            if misfit is None:
                return model_type, parts, config if like is None else _taken_over(family, parts, config, spec, like)
        except ValueError as error:
            misfit = f"refused, {error}"
        misfits.setdefault(misfit, []).append(model_type)
    reasons = [f"as {', '.join(names)} {misfit}" for misfit, names in misfits.items()]
    reason = "; ".join(reasons) or f"none of {', '.join(FAMILIES)} has its structure"
    raise ValueError(f"transformers has no model for this spec: {reason}")


def _class_of(family: Family, spec: Transformer, preferred: Container[str]) -> tuple[Parts, list[str]]:
    """The parts of a spec and the classes that have them; one of the preferred ones where it can be that."""
    first, *others = family.parts_of(spec)
    for parts in (first, *others):
        named = [name for name in exact_classes(family, parts) if name in preferred]
        if named:
            return parts, named
    return first, classes_of(family, first)


def _misfit(family: Family, parts: Parts, config: Settings, spec: Transformer) -> str | None:
    """In what the config, read back, computes something else than the spec."""
    return difference(_flat(family.read({**settings(family, config), "parts": parts})), _flat(spec))


def _taken_over(family: Family, parts: Parts, config: Settings, spec: Transformer, like: Settings) -> Settings:
    """The config with those settings of another one that leave the model as it is."""
    for name in SETTINGS:
        if like.get(name) is not None:
            more = {**config, name: like[name]}
            try:
                config = more if _misfit(family, parts, more, spec) is None else config
            except ValueError:  # it may not be that, in this family or at all
                continue
    return config


def _flat(spec: Transformer) -> Transformer:
    """The same model block by block."""
    encoder = None if spec.encoder is None else unfolded(spec.encoder)
    return dataclasses.replace(spec, stack=unfolded(spec.stack), encoder=encoder)


def difference(theirs: Any, ours: Any, path: str = "spec") -> str | None:
    """The first field by which two specs compute something else, in words; None where they agree.

    Initialisers and dropout rates may differ: they matter in training only. Numbers may differ by rounding.
    """
    if theirs == ours or path.endswith(("init", ".dropout")):
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
