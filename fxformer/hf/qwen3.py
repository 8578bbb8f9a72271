"""Qwen 3 (`Qwen3ForCausalLM`): LLaMA with norms of queries and keys, and windows from some layer on."""

from dataclasses import replace

from fxformer.block import Block
from fxformer.hf.family import Family, Settings, count
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
from fxformer.hf.masks import FULL, SLIDING, read_masks, write_masks
from fxformer.hf.names import tensor
from fxformer.hf.parts import DECODER_PARTS, decoder_classes, decoder_parts
from fxformer.hf.rope import DEFAULTS
from fxformer.layers.residual import Residual
from fxformer.model import Transformer


def read(settings: Settings) -> Transformer:
    """The Spec of a Qwen 3 config."""
    depth, norm = settings["num_hidden_layers"], read_norm(settings)
    if not settings["use_sliding_window"]:
        settings = {**settings, "sliding_window": None}
    if settings["max_window_layers"] is None:
        settings = {**settings, "max_window_layers": 28}
    first = depth if settings["sliding_window"] is None else count(settings, "max_window_layers")
    masks = read_masks(settings, [SLIDING if layer >= first else FULL for layer in range(depth)])
    attention = replace(read_attention(settings), qk_norm=norm)
    block = Block(attention=attention, ffn=read_glu(settings), residual=Residual(placement="pre", norm=norm))
    return read_model(settings, [replace(block, attention=replace(attention, mask=mask)) for mask in masks])


def write(spec: Transformer) -> Settings | None:
    """The config of a pre-norm decoder with rotary positions and a GLU."""
    config = write_model(spec, spec.stack.blocks[0].ffn, QWEN3.defaults)
    if config is None:
        return None
    masks = write_masks(spec.stack.blocks)
    return {**config, **masks, "use_sliding_window": "sliding_window" in masks}


QWEN3 = Family(
    architecture="Qwen3ForCausalLM",
    classes=decoder_classes("Qwen3"),
    parts=DECODER_PARTS,
    parts_of=decoder_parts,
    defaults={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": None,
        "layer_types": None,
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        **DEFAULTS,
    },
    optional=frozenset({"sliding_window", "num_key_value_heads"}),
    fixed={"mlp_bias": False},
    read=read,
    write=write,
    tensors=(
        *EMBED,
        *NORMS,
        *ATTENTION,
        tensor("model.layers.{}.self_attn.q_norm.weight", "stack.{}.attention.query_norm.scale"),
        tensor("model.layers.{}.self_attn.k_norm.weight", "stack.{}.attention.key_norm.scale"),
        *FFN,
    ),
    prefix="model.",
    buffers=BUFFERS,
    copies=COPIES,
)
