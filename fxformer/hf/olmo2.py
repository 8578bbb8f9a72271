"""OLMo 2 (`Olmo2ForCausalLM`): LLaMA with norms after the sublayers, and of all query and all key heads jointly."""

from dataclasses import replace

from fxformer.block import Block
from fxformer.hf.family import Family, Settings
from fxformer.hf.layout import Axes
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
from fxformer.hf.names import tensor
from fxformer.hf.parts import DECODER_PARTS, decoder_classes, decoder_parts
from fxformer.hf.rope import DEFAULTS
from fxformer.layers.residual import Residual
from fxformer.model import Transformer


def read(settings: Settings) -> Transformer:
    """The Spec of an OLMo 2 config."""
    norm = read_norm(settings)
    attention = replace(read_attention(settings), qk_norm=norm, joint_norm=True)
    block = Block(attention=attention, ffn=read_glu(settings), residual=Residual(placement="output", norm=norm))
    return read_model(settings, [block] * settings["num_hidden_layers"])


def write(spec: Transformer) -> Settings | None:
    """The config of a decoder with rotary positions, a GLU and norms after them."""
    return write_model(spec, spec.stack.blocks[0].ffn, OLMO2.defaults)


OLMO2 = Family(
    architecture="Olmo2ForCausalLM",
    classes=decoder_classes("Olmo2", without=("ForTokenClassification",)),
    parts=DECODER_PARTS,
    parts_of=decoder_parts,
    defaults={
        "vocab_size": 50304,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "attention_bias": False,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        **DEFAULTS,
    },
    fixed={"mlp_bias": False},
    read=read,
    write=write,
    tensors=(
        *EMBED,
        *ATTENTION,
        tensor(
            "model.layers.{}.self_attn.q_norm.weight",
            "stack.{}.attention.query_norm.scale",
            layout=Axes("h k -> (h k)"),
        ),
        tensor(
            "model.layers.{}.self_attn.k_norm.weight", "stack.{}.attention.key_norm.scale", layout=Axes("g k -> (g k)")
        ),
        tensor("model.layers.{}.post_attention_layernorm.weight", "stack.{}.attention_residual.after.scale"),
        tensor("model.layers.{}.post_feedforward_layernorm.weight", "stack.{}.ffn_residual.after.scale"),
        *FFN,
    ),
    prefix="model.",
    buffers=BUFFERS,
    copies=COPIES,
)
