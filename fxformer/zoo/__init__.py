"""The zoo: published models by name, each at its exact size or tiny, and the ablation's toy factory."""

from fxformer.lookup import nearest
from fxformer.model import Transformer
from fxformer.zoo.albert import ALBERT
from fxformer.zoo.bert import BERT
from fxformer.zoo.chatglm import CHATGLM, CHATGLM2
from fxformer.zoo.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from fxformer.zoo.family import Family
from fxformer.zoo.gemma import GEMMA2
from fxformer.zoo.glam import GLAM
from fxformer.zoo.glm import GLM, GLM_130B
from fxformer.zoo.gpt import GPT2, GPT3
from fxformer.zoo.gptoss import GPT_OSS
from fxformer.zoo.gshard import GSHARD
from fxformer.zoo.llama import LLAMA, LLAMA2
from fxformer.zoo.mistral import MISTRAL
from fxformer.zoo.mixtral import MIXTRAL
from fxformer.zoo.olmo import OLMO2
from fxformer.zoo.qwen import QWEN3
from fxformer.zoo.switch import SWITCH
from fxformer.zoo.t5 import T5, T5_GATED
from fxformer.zoo.toy import toy
from fxformer.zoo.transformer import TRANSFORMER

FAMILIES: tuple[Family, ...] = (
    TRANSFORMER,
    BERT,
    ALBERT,
    GPT2,
    GPT3,
    T5,
    T5_GATED,
    LLAMA,
    LLAMA2,
    GLM,
    GLM_130B,
    CHATGLM,
    CHATGLM2,
    GSHARD,
    SWITCH,
    GLAM,
    MISTRAL,
    MIXTRAL,
    DEEPSEEK_V2,
    DEEPSEEK_V3,
    GEMMA2,
    OLMO2,
    QWEN3,
    GPT_OSS,
)

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
