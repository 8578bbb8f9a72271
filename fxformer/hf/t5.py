"""T5 v1.0 and v1.1 (`T5ForConditionalGeneration`, `T5EncoderModel`): no biases, one table of logit biases a stack.

transformers 5 ties the head to the embedding unless both are stored and differ, and scales what goes into it by
`scale_decoder_outputs`; transformers 4 does both by `tie_word_embeddings`. In half precision it clamps the stream where
that overflows; we do not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fxformer.block import Block
from fxformer.hf.depth import fold
from fxformer.hf.family import ACTIVATION_NAMES, ACTIVATIONS, Family, Settings, count
from fxformer.hf.files import Stored
from fxformer.hf.layout import Axes
from fxformer.hf.names import Tensor, tensor
from fxformer.layers.attention import GQA
from fxformer.layers.bias import Buckets
from fxformer.layers.embed import Embed
from fxformer.layers.ffn import GLU, MLP, FFNSpec
from fxformer.layers.head import Bare, HeadSpec, Tied, Untied
from fxformer.layers.norm import Norm
from fxformer.layers.project import FanIn, Normal
from fxformer.layers.residual import Residual
from fxformer.lookup import nearest
from fxformer.model import Transformer
from fxformer.ops.mask import Causal, Full, Mask
from fxformer.stack import Stack

SHARED = "shared.weight"
COPIES = dict.fromkeys(("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"), SHARED)


def read(settings: Settings) -> Transformer:
    """The Spec of a T5 config."""
    ffn, depth = _ffn(settings), count(settings, "num_decoder_layers", settings["num_layers"])
    head = head_of(settings, scaled=_scaled(settings))
    return encoder_decoder(settings, [ffn] * settings["num_layers"], [ffn] * depth, head)


def _ffn(settings: Settings) -> FFNSpec:
    """The dense feed-forward layer."""
    *gated, name = settings["feed_forward_proj"].split("-")
    if gated not in ([], ["gated"]):
        raise ValueError(
            f"config.json has feed_forward_proj={settings['feed_forward_proj']!r}; use an activation, or gated- and one"
        )
    name = "gelu_new" if settings["feed_forward_proj"] == "gated-gelu" else name
    layer = GLU if (bool(gated) if settings["is_gated_act"] is None else settings["is_gated_act"]) else MLP
    return layer(
        inner=settings["d_ff"],
        activation=nearest(ACTIVATIONS, settings["dense_act_fn"] or name, "dense_act_fn"),
        dropout=settings["dropout_rate"],
        up_init=FanIn(settings["initializer_factor"]),
        down_init=FanIn(settings["initializer_factor"]),
    )


def _scaled(settings: Settings) -> bool:
    scaled = settings["scale_decoder_outputs"]
    return settings["tie_word_embeddings"] if scaled is None else scaled


def head_of(settings: Settings, *, scaled: bool) -> HeadSpec:
    """The embedding's table or a matrix, of the stream over sqrt(width) or as it is."""
    scale = 1 / math.sqrt(settings["d_model"]) if scaled else 1.0
    if settings["tie_word_embeddings"]:
        return Tied(scale=scale)
    return Untied(scale=scale, init=FanIn(settings["initializer_factor"]))


def encoder_decoder(
    settings: Settings, encoder: Sequence[FFNSpec], decoder: Sequence[FFNSpec], head: HeadSpec
) -> Transformer:
    """T5 with these feed-forward layers in its encoder and in its decoder."""
    writer = replace(_block(settings, Causal(), decoder[0]), cross=_attention(settings, Full()))
    return Transformer(
        embed=_embed(settings),
        encoder=_stack(settings, encoder, _block(settings, Full(), encoder[0]), bidirectional=True),
        stack=_stack(settings, decoder, writer, bidirectional=False),
        head=head,
    )


def read_encoder(settings: Settings) -> Transformer:
    """The Spec of the encoder of a T5 config alone."""
    ffns = [_ffn(settings)] * settings["num_layers"]
    stack = _stack(settings, ffns, _block(settings, Full(), ffns[0]), bidirectional=True)
    return Transformer(embed=_embed(settings), stack=stack, head=Bare())


def _embed(settings: Settings) -> Embed:
    rate, init = settings["dropout_rate"], Normal(settings["initializer_factor"])
    return Embed(vocab=settings["vocab_size"], width=settings["d_model"], dropout=rate, init=init)


def _block(settings: Settings, mask: Mask, ffn: FFNSpec) -> Block:
    """A layer without cross-attention."""
    residual = Residual(placement="pre", norm=_norm(settings), dropout=settings["dropout_rate"])
    return Block(attention=_attention(settings, mask), ffn=ffn, residual=residual)


def _attention(settings: Settings, mask: Mask) -> GQA:
    gain, key_width = settings["initializer_factor"], settings["d_kv"]
    return GQA(
        heads=settings["num_heads"],
        kv_heads=settings["num_heads"],
        key_width=key_width,
        mask=mask,
        scale=1.0,
        dropout=settings["dropout_rate"],
        init=FanIn(gain / math.sqrt(key_width)),
        key_init=FanIn(gain),
        value_init=FanIn(gain),
        out_init=FanIn(gain),
    )


def _norm(settings: Settings) -> Norm:
    return Norm(kind="rms", eps=settings["layer_norm_epsilon"])


def _stack(settings: Settings, ffns: Sequence[FFNSpec], block: Block, *, bidirectional: bool) -> Stack:
    """Layers like `block` with these feed-forward layers, and one table of logit biases for all."""
    bias = Buckets(
        heads=settings["num_heads"],
        count=settings["relative_attention_num_buckets"],
        max_distance=settings["relative_attention_max_distance"],
        bidirectional=bidirectional,
        deviation=settings["initializer_factor"] / math.sqrt(settings["d_model"]),
    )
    groups = fold([replace(block, ffn=ffn) for ffn in ffns])
    return Stack(groups=groups, norm=_norm(settings), bias=bias, dropout=settings["dropout_rate"])


def write(spec: Transformer) -> Settings | None:
    """The config of a T5 whose feed-forward layers are dense."""
    sizes, ffn, head = sizes_of(spec), _write_ffn(spec.stack), spec.head
    match head:
        case Tied() | Untied() if sizes is not None and ffn is not None:
            scaled = head.scale != 1
            return {**sizes, **ffn, "tie_word_embeddings": type(head) is Tied, "scale_decoder_outputs": scaled}
    return None


def write_encoder(spec: Transformer) -> Settings | None:
    """The config of the encoder of such a T5 alone."""
    ffn = _write_ffn(spec.stack)
    if spec.encoder is not None or ffn is None:
        return None
    sizes = _stack_sizes(spec, spec.stack)
    if sizes is None:
        return None
    named = {"model_type": "t5", "is_encoder_decoder": False}
    return {**sizes, **ffn, **named, "num_layers": spec.stack.depth, "num_decoder_layers": spec.stack.depth}


def _write_ffn(stack: Stack) -> Settings | None:
    match stack.blocks[0].ffn:
        case (MLP() | GLU()) as ffn:
            name = nearest(ACTIVATION_NAMES, ffn.activation, "activation of transformers")
            gated = type(ffn) is GLU
            return {
                "d_ff": ffn.inner,
                "feed_forward_proj": f"gated-{name}" if gated else name,
                "dense_act_fn": name,
                "is_gated_act": gated,
            }
    return None


def sizes_of(spec: Transformer) -> Settings | None:
    """The settings of an encoder and a decoder with bucketed logit biases, except of feed-forward layers and head."""
    sizes = None if spec.encoder is None else _stack_sizes(spec, spec.stack)
    if spec.encoder is None or sizes is None:
        return None
    return {
        **sizes,
        "num_layers": spec.encoder.depth,
        "num_decoder_layers": spec.stack.depth,
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "decoder_start_token_id": 0,
    }


def _stack_sizes(spec: Transformer, stack: Stack) -> dict[str, Any] | None:
    """The settings of one stack with bucketed logit biases, and of the embedding."""
    match stack.bias, stack.blocks[0].attention:
        case Buckets() as bias, GQA() as attention:
            return {
                "vocab_size": spec.embed.vocab,
                "d_model": spec.embed.width,
                "d_kv": attention.key_width,
                "num_heads": attention.heads,
                "relative_attention_num_buckets": bias.count,
                "relative_attention_max_distance": bias.max_distance,
                "dropout_rate": spec.embed.dropout,
                "layer_norm_epsilon": stack.norm.eps,
                "initializer_factor": spec.embed.init.std(spec.embed.width, spec.embed.vocab),
            }
    return None


def amend(settings: Settings, stored: Mapping[str, Stored]) -> Settings:
    """transformers 5 ties the head, whatever `tie_word_embeddings` says; only what goes into it depends on that."""
    return {**settings, "scale_decoder_outputs": _scaled(settings), "tie_word_embeddings": True}


def block_tensors(side: str, root: str) -> tuple[Tensor, ...]:
    """The lines of what all blocks of a stack have: `side` is their name of the stack, `root` ours."""
    sublayers = {"attention": "layer.0.SelfAttention", "cross": "layer.1.EncDecAttention"}
    matrices = {"query": ("q", "h"), "key": ("k", "g"), "value": ("v", "g")}
    ffn = "layer.2" if side == "decoder" else "layer.1"
    return (
        tensor(f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", f"{root}.bias.table"),
        *(
            tensor(
                f"{side}.block.{{}}.{theirs}.{letter}.weight",
                f"{root}.{{}}.{ours}.{name}.weight",
                layout=Axes(f"d {axis} k -> ({axis} k) d"),
            )
            for ours, theirs in sublayers.items()
            for name, (letter, axis) in matrices.items()
        ),
        *(
            tensor(
                f"{side}.block.{{}}.{theirs}.o.weight",
                f"{root}.{{}}.{ours}.out.weight",
                layout=Axes("h k d -> d (h k)"),
            )
            for ours, theirs in sublayers.items()
        ),
        tensor(f"{side}.block.{{}}.layer.0.layer_norm.weight", f"{root}.{{}}.attention_residual.before.scale"),
        tensor(f"{side}.block.{{}}.layer.1.layer_norm.weight", f"{root}.{{}}.cross_residual.before.scale"),
        tensor(f"{side}.block.{{}}.{ffn}.layer_norm.weight", f"{root}.{{}}.ffn_residual.before.scale"),
        tensor(f"{side}.final_layer_norm.weight", f"{root}.final_norm.scale"),
    )


def tensors_of(side: str, root: str) -> tuple[Tensor, ...]:
    """The lines of a stack with dense feed-forward layers."""
    ffn, ours = f"{side}.block.{{}}.layer.{2 if side == 'decoder' else 1}.DenseReluDense", f"{root}.{{}}.ffn"
    gate = f"{ours}.gate.weight"
    return (
        *block_tensors(side, root),
        tensor(f"{ffn}.wi.weight", f"{ours}.up.weight", layout=Axes("d f -> f d"), without=gate),
        tensor(f"{ffn}.wi_0.weight", gate, layout=Axes("d f -> f d")),
        tensor(f"{ffn}.wi_1.weight", f"{ours}.up.weight", layout=Axes("d f -> f d"), beside=gate),
        tensor(f"{ffn}.wo.weight", f"{ours}.down.weight", layout=Axes("f d -> d f")),
    )


ENDS = (
    tensor(SHARED, "embed.table"),
    tensor("lm_head.weight", "head.out.weight", layout=Axes("d v -> v d")),
)
DEFAULTS = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "initializer_factor": 1.0,
    "tie_word_embeddings": True,
}
SYNONYMS = {"hidden_size": "d_model", "num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}
# A head of logit biases of cross-attention was stored with the first checkpoints and never read.
BUFFERS = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)

DENSE: Settings = {
    **DEFAULTS,
    "num_layers": 6,
    "num_decoder_layers": None,
    "feed_forward_proj": "relu",
    "dense_act_fn": None,
    "is_gated_act": None,
    "scale_decoder_outputs": None,
}
T5 = Family(
    architecture="T5ForConditionalGeneration",
    defaults=DENSE,
    synonyms={**SYNONYMS, "head_dim": "d_kv"},
    fixed={"is_encoder_decoder": True},
    inert=frozenset({"n_positions", "classifier_dropout"}),
    read=read,
    write=write,
    amend=amend,
    tensors=(*ENDS, *tensors_of("encoder", "encoder"), *tensors_of("decoder", "stack")),
    prefix="",
    buffers=BUFFERS,
    copies=COPIES,
)

# What is stored of a decoder beside it is not read, as in transformers; is_encoder_decoder says what it was cut from.
T5_ENCODER = Family(
    architecture="T5EncoderModel",
    defaults=DENSE,
    synonyms={**SYNONYMS, "head_dim": "d_kv"},
    inert=frozenset({"n_positions", "classifier_dropout", "is_encoder_decoder"}),
    read=read_encoder,
    write=write_encoder,
    tensors=(ENDS[0], *tensors_of("encoder", "stack")),
    prefix="",
    buffers=("decoder.*", "lm_head.weight"),
    copies={"encoder.embed_tokens.weight": SHARED},
)
