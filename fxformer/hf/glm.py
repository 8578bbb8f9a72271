"""GLM-4 (`GlmForCausalLM`): LLaMA with biases on query, key and value, and neighbouring channels rotated, half of them.

Gate and up are one matrix, [gate; up].
"""

from dataclasses import replace

from fxformer.block import Block
from fxformer.hf.family import Family, Settings
from fxformer.hf.layout import Axes, Joined
from fxformer.hf.llama import (
    ATTENTION,
    BUFFERS,
    COPIES,
    EMBED,
    NORMS,
    head_width,
    read_attention,
    read_glu,
    read_model,
    read_norm,
    write_model,
)
from fxformer.hf.names import tensor
from fxformer.hf.parts import DECODER_PARTS, decoder_classes, decoder_parts
from fxformer.hf.rope import DEFAULTS, part_of
from fxformer.layers.residual import Residual
from fxformer.model import Transformer


def read(settings: Settings) -> Transformer:
    """The Spec of a GLM-4 config."""
    attention = replace(
        read_attention(settings, pairing="interleaved", rotated=part_of(settings, head_width(settings))), out_bias=False
    )
    residual = Residual(placement="pre", norm=read_norm(settings))
    block = Block(attention=attention, ffn=read_glu(settings), residual=residual)
    return read_model(settings, [block] * settings["num_hidden_layers"])


def write(spec: Transformer) -> Settings | None:
    """The config of a pre-norm decoder with rotary positions and a GLU."""
    return write_model(spec, spec.stack.blocks[0].ffn, GLM.defaults)


GLM = Family(
    architecture="GlmForCausalLM",
    classes=decoder_classes("Glm"),
    parts=DECODER_PARTS,
    parts_of=decoder_parts,
    defaults={
        "vocab_size": 151552,
        "hidden_size": 4096,
        "intermediate_size": 13696,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1.5625e-7,
        "attention_bias": True,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        **DEFAULTS,
        "partial_rotary_factor": 0.5,
    },
    fixed={"mlp_bias": False},
    read=read,
    write=write,
    tensors=(
        *EMBED,
        *NORMS,
        *ATTENTION,
        tensor(
            "model.layers.{}.mlp.gate_up_proj.weight",
            "stack.{}.ffn.gate.weight",
            "stack.{}.ffn.up.weight",
            layout=Joined("d *", "d x -> x d"),
        ),
        tensor("model.layers.{}.mlp.down_proj.weight", "stack.{}.ffn.down.weight", layout=Axes("f d -> d f")),
    ),
    prefix="model.",
    buffers=BUFFERS,
    copies=COPIES,
)
