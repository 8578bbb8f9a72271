"""Gemma 2 (`Gemma2ForCausalLM`): norms before and after, gains stored less 1, bounded logits, local and global layers.

The embedding is multiplied by the root of the width, and query_pre_attn_scalar takes the place of the head's width.
"""

import math
from dataclasses import replace

from fxformer.block import Block
from fxformer.hf.family import Family, Settings
from fxformer.hf.llama import (
    ATTENTION,
    BUFFERS,
    COPIES,
    EMBED,
    FFN,
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
from fxformer.layers.attention import GQA
from fxformer.layers.head import HeadSpec, Tied, Untied
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.ops.rotary import Rotary, YaRN, magnitude


def read(settings: Settings) -> Transformer:
    """The Spec of a Gemma 2 config."""
    width, heads, depth = settings["hidden_size"], settings["num_attention_heads"], settings["num_hidden_layers"]
    if width % heads:
        raise ValueError(f"config.json has num_attention_heads={heads}, which do not divide hidden_size={width}")
    attention = read_attention(settings, divisor=settings["query_pre_attn_scalar"])
    attention = replace(attention, softcap=settings["attn_logit_softcapping"])
    ffn = read_glu({**settings, "hidden_act": settings["hidden_activation"]})
    residual = Residual(placement="sandwich", norm=replace(read_norm(settings), offset=1.0))
    masks = read_masks(settings, [FULL if layer % 2 else SLIDING for layer in range(depth)])
    blocks = [Block(attention=replace(attention, mask=mask), ffn=ffn, residual=residual) for mask in masks]
    spec = read_model(settings, blocks)
    return replace(
        spec,
        embed=replace(spec.embed, scale=math.sqrt(width)),
        head=_capped(spec.head, settings["final_logit_softcapping"]),
    )


def _capped(head: HeadSpec, bound: float | None) -> HeadSpec:
    """A head over the vocabulary with bounded logits; others have none to bound."""
    match head:
        case Tied() | Untied():
            return replace(head, softcap=bound)
    return head


def _bound(head: HeadSpec) -> Settings:
    """The setting that `_capped` reads."""
    match head:
        case Tied(softcap=bound) | Untied(softcap=bound):
            return {"final_logit_softcapping": bound}
    return {}


def write(spec: Transformer) -> Settings | None:
    """The config of a decoder with rotary positions and a GLU whose heads divide the width."""
    block = spec.stack.blocks[0]
    match block.attention:
        case GQA(rotary=Rotary() as rotary, scale=scale, softcap=bound, key_width=key_width, heads=heads) if (
            spec.embed.width % heads == 0
        ):
            stretch = magnitude(rotary.scaling.factor) if type(rotary.scaling) is YaRN else 1.0
            divisor = key_width if scale is None else max(round((stretch**2 / scale) ** 2), 1)
            config = write_model(spec, block.ffn, {*GEMMA2.defaults, "hidden_act"}, divisor=divisor)
            if config is None:
                return None
            return {
                **config,
                **write_masks(spec.stack.blocks),
                "hidden_activation": config["hidden_act"],
                "query_pre_attn_scalar": divisor,
                "attn_logit_softcapping": bound,
                **_bound(spec.head),
            }
    return None


GEMMA2 = Family(
    architecture="Gemma2ForCausalLM",
    classes=decoder_classes("Gemma2"),
    parts=DECODER_PARTS,
    parts_of=decoder_parts,
    defaults={
        "vocab_size": 256000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "layer_types": None,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        **DEFAULTS,
    },
    optional=frozenset({"sliding_window", "attn_logit_softcapping", "final_logit_softcapping"}),
    fixed={"mlp_bias": False, "use_bidirectional_attention": None},
    inert=frozenset(
        {"hidden_act", "sliding_window_size"}
    ),  # which stand beside those that are read, in published files
    read=read,
    write=write,
    tensors=(
        *EMBED,
        *ATTENTION,
        tensor("model.layers.{}.input_layernorm.weight", "stack.{}.attention_residual.before.scale"),
        tensor("model.layers.{}.post_attention_layernorm.weight", "stack.{}.attention_residual.after.scale"),
        tensor("model.layers.{}.pre_feedforward_layernorm.weight", "stack.{}.ffn_residual.before.scale"),
        tensor("model.layers.{}.post_feedforward_layernorm.weight", "stack.{}.ffn_residual.after.scale"),
        *FFN,
    ),
    prefix="model.",
    buffers=BUFFERS,
    copies=COPIES,
)
