"""LLaMA (`LlamaForCausalLM`), and what its many relatives share: Linear weights are (out, in), rotary pairs half-split.

A relative reads LLaMA's layers, changes them where it differs, and keeps the lines of the name table that are alike.
"""

import math
from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Any

from fxformer.block import Block
from fxformer.hf.depth import fold
from fxformer.hf.family import ACTIVATION_NAMES, ACTIVATIONS, Family, Settings, count
from fxformer.hf.layout import Axes, Joined
from fxformer.hf.names import tensor
from fxformer.hf.parts import DECODER_PARTS, decoder_classes, decoder_parts, read_head
from fxformer.hf.rope import DEFAULTS, read_rope, share, write_rope
from fxformer.layers.attention import GQA
from fxformer.layers.embed import Embed
from fxformer.layers.ffn import GLU, FFNSpec
from fxformer.layers.head import Tied
from fxformer.layers.norm import Norm
from fxformer.layers.project import Normal
from fxformer.layers.residual import Residual
from fxformer.lookup import nearest
from fxformer.model import Transformer
from fxformer.ops.rotary import Dynamic, Linear, Llama3, Rotary, YaRN
from fxformer.stack import Stack


def read(settings: Settings) -> Transformer:
    """The Spec of a LLaMA config."""
    residual = Residual(placement="pre", norm=read_norm(settings))
    block = Block(attention=read_attention(settings), ffn=read_glu(settings), residual=residual)
    return read_model(settings, [block] * settings["num_hidden_layers"])


def read_norm(settings: Settings) -> Norm:
    """The norm of all places."""
    return Norm(kind="rms", eps=settings["rms_norm_eps"])


def head_width(settings: Settings) -> int:
    """Channels of a head."""
    return count(settings, "head_dim", settings["hidden_size"] // settings["num_attention_heads"])


def read_attention(
    settings: Settings, *, divisor: int | None = None, pairing: str = "half", rotated: int | None = None
) -> GQA:
    """Causal attention with rotation.

    divisor: logits are divided by its root, None is by that of a head's width. rotated: as in `read_rope`.
    """
    heads, key_width = settings["num_attention_heads"], head_width(settings)
    rotary, magnitude = read_rope(settings, key_width, rotated)
    rotary = replace(rotary, pairing=pairing)
    if rotary.width < key_width:
        rotary, magnitude = replace(rotary, gain=magnitude), 1.0
    init = Normal(settings["initializer_range"])
    return GQA(
        heads=heads,
        kv_heads=count(settings, "num_key_value_heads", heads),
        key_width=key_width,
        rotary=rotary,
        scale=None if magnitude == 1 and divisor is None else magnitude**2 / math.sqrt(divisor or key_width),
        bias=settings["attention_bias"],
        out_bias=settings["attention_bias"],
        init=init,
        value_init=init,
        out_init=init,
    )


def read_glu(settings: Settings) -> GLU:
    """The feed-forward layer."""
    init = Normal(settings["initializer_range"])
    return GLU(
        inner=settings["intermediate_size"],
        activation=nearest(ACTIVATIONS, settings["hidden_act"], "hidden_act"),
        bias=settings["mlp_bias"],
        up_init=init,
        down_init=init,
    )


def read_model(settings: Settings, blocks: Sequence[Block]) -> Transformer:
    """A decoder of these blocks; the last norm is like theirs."""
    init = Normal(settings["initializer_range"])
    return Transformer(
        embed=Embed(vocab=settings["vocab_size"], width=settings["hidden_size"], init=init),
        stack=Stack(groups=fold(blocks), norm=blocks[-1].residual.norm),
        head=read_head(settings, init),
    )


def write(spec: Transformer) -> Settings | None:
    """The config of a pre-norm decoder with rotary positions and a GLU."""
    config = write_model(spec, spec.stack.blocks[0].ffn, LLAMA.defaults)
    # LLaMA's class alone wants heads that divide the width.
    return None if config is None or config["hidden_size"] % config["num_attention_heads"] else config


def write_model(
    spec: Transformer, ffn: FFNSpec, names: Container[str], *, divisor: int | None = None
) -> dict[str, Any] | None:
    """Those settings in `names` that the relatives share, by the first block; `ffn` is its GLU, or that of its experts.

    None where the block is of another kind.
    """
    embed, block = spec.embed, spec.stack.blocks[0]
    match block.attention, ffn:
        case GQA(rotary=Rotary(scaling=None | Linear() | Dynamic() | Llama3() | YaRN()) as rotary) as attention, GLU():
            root = math.sqrt(attention.key_width if divisor is None else divisor)
            magnitude = rotary.gain if attention.scale is None else math.sqrt(attention.scale * root)
            config = {
                "vocab_size": embed.vocab,
                "hidden_size": embed.width,
                "intermediate_size": ffn.inner,
                "num_hidden_layers": spec.stack.depth,
                "num_attention_heads": attention.heads,
                "num_key_value_heads": attention.kv_heads,
                "head_dim": attention.key_width,
                "hidden_act": nearest(ACTIVATION_NAMES, ffn.activation, "activation of transformers"),
                "rms_norm_eps": spec.stack.norm.eps,
                "attention_bias": attention.bias,
                "mlp_bias": ffn.bias,
                "initializer_range": embed.init.std(embed.width, embed.vocab),
                "tie_word_embeddings": type(spec.head) is Tied,
                "partial_rotary_factor": share(rotary.width, attention.key_width),
                **write_rope(rotary, magnitude),
            }
            return {name: value for name, value in config.items() if name in names}
    return None


EMBED = (
    tensor("model.embed_tokens.weight", "embed.table"),
    tensor("model.norm.weight", "stack.final_norm.scale"),
)
NORMS = (
    tensor("model.layers.{}.input_layernorm.weight", "stack.{}.attention_residual.before.scale"),
    tensor("model.layers.{}.post_attention_layernorm.weight", "stack.{}.ffn_residual.before.scale"),
)
ATTENTION = (
    tensor(
        "model.layers.{}.self_attn.q_proj.weight", "stack.{}.attention.query.weight", layout=Axes("d h k -> (h k) d")
    ),
    tensor("model.layers.{}.self_attn.k_proj.weight", "stack.{}.attention.key.weight", layout=Axes("d g k -> (g k) d")),
    tensor(
        "model.layers.{}.self_attn.v_proj.weight", "stack.{}.attention.value.weight", layout=Axes("d g k -> (g k) d")
    ),
    tensor("model.layers.{}.self_attn.o_proj.weight", "stack.{}.attention.out.weight", layout=Axes("h k d -> d (h k)")),
    tensor("model.layers.{}.self_attn.q_proj.bias", "stack.{}.attention.query.bias", layout=Axes("h k -> (h k)")),
    tensor("model.layers.{}.self_attn.k_proj.bias", "stack.{}.attention.key.bias", layout=Axes("g k -> (g k)")),
    tensor("model.layers.{}.self_attn.v_proj.bias", "stack.{}.attention.value.bias", layout=Axes("g k -> (g k)")),
    tensor("model.layers.{}.self_attn.o_proj.bias", "stack.{}.attention.out.bias"),
)
FFN = (
    tensor("model.layers.{}.mlp.gate_proj.weight", "stack.{}.ffn.gate.weight", layout=Axes("d f -> f d")),
    tensor("model.layers.{}.mlp.up_proj.weight", "stack.{}.ffn.up.weight", layout=Axes("d f -> f d")),
    tensor("model.layers.{}.mlp.down_proj.weight", "stack.{}.ffn.down.weight", layout=Axes("f d -> d f")),
    tensor("model.layers.{}.mlp.gate_proj.bias", "stack.{}.ffn.gate.bias"),
    tensor("model.layers.{}.mlp.up_proj.bias", "stack.{}.ffn.up.bias"),
    tensor("model.layers.{}.mlp.down_proj.bias", "stack.{}.ffn.down.bias"),
)
# The experts of a layer in one tensor, as transformers has them at runtime, and writes with save_original_format=False.
STACKED_EXPERTS = (
    tensor(
        "model.layers.{}.mlp.experts.gate_up_proj",
        "stack.{}.ffn.experts.gate.weight",
        "stack.{}.ffn.experts.up.weight",
        layout=Joined("e d *", "e d x -> e x d"),
    ),
    tensor("model.layers.{}.mlp.experts.down_proj", "stack.{}.ffn.experts.down.weight", layout=Axes("e f d -> e d f")),
)
# Frequencies and their tables, of a layer or of the model.
BUFFERS = ("*rotary_emb.inv_freq", "*rotary_emb.original_inv_freq", "*rotary_emb.cos_cached", "*rotary_emb.sin_cached")
COPIES = {"lm_head.weight": "model.embed_tokens.weight"}

LLAMA = Family(
    architecture="LlamaForCausalLM",
    classes=decoder_classes("Llama"),
    parts=DECODER_PARTS,
    parts_of=decoder_parts,
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        **DEFAULTS,
    },
    fixed={"rope_interleaved": False},
    inert=frozenset({"max_sequence_length", "is_llama_config"}),
    read=read,
    write=write,
    tensors=(*EMBED, *NORMS, *ATTENTION, *FFN),
    prefix="model.",
    buffers=BUFFERS,
    copies=COPIES,
)
