"""Mixtral (`MixtralForCausalLM`): Mistral with experts, whose matrices are files' tensors of their own: w1, w3, w2.

Their names at runtime, where the experts of a layer are one tensor, are read too.
"""

from fxformer.hf.family import Family, Settings
from fxformer.hf.layout import Axes
from fxformer.hf.llama import (
    ATTENTION,
    BUFFERS,
    COPIES,
    EMBED,
    NORMS,
    STACKED_EXPERTS,
    read_glu,
    write_model,
)
from fxformer.hf.masks import window
from fxformer.hf.mistral import MISTRAL, read_windowed
from fxformer.hf.names import tensor
from fxformer.hf.parts import DECODER_PARTS, decoder_classes, decoder_parts
from fxformer.layers.ffn import GLU, MoE
from fxformer.layers.project import Normal
from fxformer.model import Transformer
from fxformer.ops.route import TopK


def read(settings: Settings) -> Transformer:
    """The Spec of a Mixtral config."""
    moe = MoE(
        experts=settings["num_local_experts"],
        expert=read_glu(settings),
        router=TopK(k=settings["num_experts_per_tok"], renormalise=True),
        router_init=Normal(settings["initializer_range"]),
    )
    return read_windowed(settings, moe)


def write(spec: Transformer) -> Settings | None:
    """The config of a pre-norm decoder with rotary positions and experts that are GLUs."""
    match spec.stack.blocks[0].ffn:
        case MoE(experts=experts, expert=GLU() as expert, router=TopK(k=k)):
            config = write_model(spec, expert, MIXTRAL.defaults)
            if config is None:
                return None
            return {
                **config,
                "sliding_window": window(spec.stack.blocks),
                "num_local_experts": experts,
                "num_experts_per_tok": k,
            }
    return None


MIXTRAL = Family(
    architecture="MixtralForCausalLM",
    classes=decoder_classes("Mixtral"),
    parts=DECODER_PARTS,
    parts_of=decoder_parts,
    defaults={
        **MISTRAL.defaults,
        "sliding_window": None,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
    },
    optional=frozenset({"num_key_value_heads"}),
    synonyms={"num_experts": "num_local_experts"},
    fixed={"attention_bias": False, "mlp_bias": False},
    read=read,
    write=write,
    tensors=(
        *EMBED,
        *NORMS,
        *ATTENTION,
        tensor("model.layers.{}.block_sparse_moe.gate.weight", "stack.{}.ffn.router.weight", layout=Axes("d e -> e d")),
        tensor(
            "model.layers.{}.block_sparse_moe.experts.{expert}.w1.weight",
            "stack.{}.ffn.experts.gate.weight",
            layout=Axes("d f -> f d"),
        ),
        tensor(
            "model.layers.{}.block_sparse_moe.experts.{expert}.w3.weight",
            "stack.{}.ffn.experts.up.weight",
            layout=Axes("d f -> f d"),
        ),
        tensor(
            "model.layers.{}.block_sparse_moe.experts.{expert}.w2.weight",
            "stack.{}.ffn.experts.down.weight",
            layout=Axes("f d -> d f"),
        ),
    ),
    others=(
        (
            *EMBED,
            *NORMS,
            *ATTENTION,
            tensor("model.layers.{}.mlp.gate.weight", "stack.{}.ffn.router.weight", layout=Axes("d e -> e d")),
            *STACKED_EXPERTS,
        ),
    ),
    prefix="model.",
    buffers=BUFFERS,
    copies=COPIES,
)
