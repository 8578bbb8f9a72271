"""gpt-oss (`GptOssForCausalLM`): sinks, local and global layers, experts with biases and clipped gates.

The experts of a layer are one tensor, in which channels of gate and up take turns; published, they are
MXFP4, which `quantization` reads.
"""

from dataclasses import replace

from fxformer.block import Block
from fxformer.hf.family import Family, Settings
from fxformer.hf.layout import Axes, Stacked
from fxformer.hf.llama import (
    ATTENTION,
    BUFFERS,
    COPIES,
    EMBED,
    NORMS,
    read_attention,
    read_glu,
    read_model,
    read_norm,
    write_model,
)
from fxformer.hf.masks import FULL, SLIDING, read_masks, write_masks
from fxformer.hf.names import tensor
from fxformer.hf.parts import DECODER_PARTS, decoder_classes, decoder_parts
from fxformer.hf.rope import DEFAULTS
from fxformer.layers.ffn import GLU, MoE
from fxformer.layers.project import Normal
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.ops.route import TopK

YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def read(settings: Settings) -> Transformer:
    """The Spec of a gpt-oss config."""
    if settings["rope_parameters"] is None:
        settings = {**settings, "rope_parameters": YARN}
    depth = settings["num_hidden_layers"]
    attention = replace(read_attention(settings), sinks=True)
    moe = MoE(
        experts=settings["num_local_experts"],
        expert=replace(read_glu(settings), activation="gelu_sigmoid", limit=settings["swiglu_limit"], up_offset=1.0),
        router=TopK(k=settings["num_experts_per_tok"], renormalise=True),
        router_bias=True,
        router_init=Normal(settings["initializer_range"]),
    )
    masks = read_masks(settings, [FULL if layer % 2 else SLIDING for layer in range(depth)])
    residual = Residual(placement="pre", norm=read_norm(settings))
    blocks = [Block(attention=replace(attention, mask=mask), ffn=moe, residual=residual) for mask in masks]
    return read_model(settings, blocks)


def write(spec: Transformer) -> Settings | None:
    """The config of a pre-norm decoder with rotary positions and experts that are clipped GLUs."""
    match spec.stack.blocks[0].ffn:
        case MoE(experts=experts, expert=GLU(limit=float() as limit) as expert, router=TopK(k=k)):
            config = write_model(spec, expert, GPT_OSS.defaults)
            if config is None:
                return None
            return {
                **config,
                **write_masks(spec.stack.blocks),
                "num_local_experts": experts,
                "num_experts_per_tok": k,
                "swiglu_limit": limit,
            }
    return None


GPT_OSS = Family(
    architecture="GptOssForCausalLM",
    classes=decoder_classes("GptOss"),
    parts=DECODER_PARTS,
    parts_of=decoder_parts,
    defaults={
        "vocab_size": 201088,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": 36,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "sliding_window": 128,
        "layer_types": None,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "swiglu_limit": 7.0,
        "rms_norm_eps": 1e-5,
        "attention_bias": True,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        **DEFAULTS,
        "rope_theta": 150_000.0,
    },
    optional=frozenset({"sliding_window", "num_key_value_heads", "head_dim"}),
    synonyms={"num_experts": "num_local_experts"},
    fixed={"mlp_bias": True, "hidden_act": "silu", "swiglu_alpha": 1.702},
    inert=frozenset({"experts_per_token", "initial_context_length"}),
    read=read,
    write=write,
    tensors=(
        *EMBED,
        *NORMS,
        *ATTENTION,
        tensor("model.layers.{}.self_attn.sinks", "stack.{}.attention.sinks"),
        tensor("model.layers.{}.mlp.router.weight", "stack.{}.ffn.router.weight", layout=Axes("d e -> e d")),
        tensor("model.layers.{}.mlp.router.bias", "stack.{}.ffn.router.bias"),
        tensor(
            "model.layers.{}.mlp.experts.gate_up_proj",
            "stack.{}.ffn.experts.gate.weight",
            "stack.{}.ffn.experts.up.weight",
            layout=Stacked("n e d f -> e d (f n)"),
        ),
        tensor(
            "model.layers.{}.mlp.experts.gate_up_proj_bias",
            "stack.{}.ffn.experts.gate.bias",
            "stack.{}.ffn.experts.up.bias",
            layout=Stacked("n e f -> e (f n)"),
        ),
        tensor("model.layers.{}.mlp.experts.down_proj", "stack.{}.ffn.experts.down.weight"),
        tensor("model.layers.{}.mlp.experts.down_proj_bias", "stack.{}.ffn.experts.down.bias"),
    ),
    prefix="model.",
    buffers=BUFFERS,
    copies=COPIES,
)
