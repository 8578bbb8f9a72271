"""Mistral (`MistralForCausalLM`): LLaMA without biases, and a window in all layers or in none."""

from dataclasses import replace

from fxformer.block import Block
from fxformer.hf.family import Family, Settings
from fxformer.hf.llama import (
    ATTENTION,
    BUFFERS,
    COPIES,
    EMBED,
    FFN,
    NORMS,
    read_attention,
    read_glu,
    read_model,
    read_norm,
    write_model,
)
from fxformer.hf.masks import window
from fxformer.hf.parts import DECODER_PARTS, decoder_classes, decoder_parts
from fxformer.hf.rope import DEFAULTS
from fxformer.layers.ffn import FFNSpec
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.ops.mask import Causal, Window


def read(settings: Settings) -> Transformer:
    """The Spec of a Mistral config."""
    return read_windowed(settings, read_glu(settings))


def read_windowed(settings: Settings, ffn: FFNSpec) -> Transformer:
    """Layers with this feed-forward layer, and attention within the window where there is one."""
    size = settings["sliding_window"]
    attention = replace(read_attention(settings), mask=Causal() if size is None else Window(size))
    block = Block(attention=attention, ffn=ffn, residual=Residual(placement="pre", norm=read_norm(settings)))
    return read_model(settings, [block] * settings["num_hidden_layers"])


def write(spec: Transformer) -> Settings | None:
    """The config of a pre-norm decoder with rotary positions and a GLU."""
    config = write_model(spec, spec.stack.blocks[0].ffn, MISTRAL.defaults)
    if config is None:
        return None
    return {**config, "sliding_window": window(spec.stack.blocks)}


MISTRAL = Family(
    architecture="MistralForCausalLM",
    classes=decoder_classes("Mistral"),
    parts=DECODER_PARTS,
    parts_of=decoder_parts,
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        **DEFAULTS,
    },
    optional=frozenset({"sliding_window", "num_key_value_heads"}),
    fixed={"attention_bias": False, "mlp_bias": False},
    read=read,
    write=write,
    tensors=(*EMBED, *NORMS, *ATTENTION, *FFN),
    prefix="model.",
    buffers=BUFFERS,
    copies=COPIES,
)
