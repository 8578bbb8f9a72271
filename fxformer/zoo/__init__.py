"""The zoo: published models by name, each at its exact size or tiny, and the ablation's toy factory."""

from fxformer.model import Transformer
from fxformer.names import nearest
from fxformer.zoo.family import Family
from fxformer.zoo.gpt import GPT2
from fxformer.zoo.llama import LLAMA, LLAMA2
from fxformer.zoo.toy import toy

FAMILIES: tuple[Family, ...] = (GPT2, LLAMA, LLAMA2)

_BY_NAME = {name: family for family in FAMILIES for name in family.published}


def names() -> tuple[str, ...]:
    """Every published name, family by family, small to large."""
    return tuple(_BY_NAME)


def family_of(name: str) -> Family:
    """The family of a published name; an unknown name raises ValueError with the nearest valid one."""
    return nearest(_BY_NAME, name, "model")


def get(name: str) -> Transformer:
    """A published model, exactly."""
    return family_of(name).build(**family_of(name).published[name])


def tiny(name: str) -> Transformer:
    """The same structure at toy widths: vocabulary 256, at most 4 layers, no two axes of equal size."""
    return family_of(name).build(**family_of(name).tiny(family_of(name).published[name]))


__all__ = ["FAMILIES", "Family", "family_of", "get", "names", "tiny", "toy"]
