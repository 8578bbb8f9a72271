"""T5 v1.0 and v1.1 (`T5ForConditionalGeneration`): no biases, one table of logit biases a stack.

transformers 5 ties the head to the embedding unless both are stored and differ, and scales what goes into it by
`scale_decoder_outputs`; transformers 4 does both by `tie_word_embeddings`. In half precision it clamps the stream where
that overflows; we do not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

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
from fxformer.layers.head import HeadSpec, Tied, Untied
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
    *gated, name = settings["feed_forward_proj"].split("-")
    if gated not in ([], ["gated"]):
        raise ValueError(
            f"config.json has feed_forward_proj={settings['feed_forward_proj']!r}; use an activation, or gated- and one"
        )
    name = "gelu_new" if settings["feed_forward_proj"] == "gated-gelu" else name
    layer = GLU if (bool(gated) if settings["is_gated_act"] is None else settings["is_gated_act"]) else MLP
    ffn = layer(
        inner=settings["d_ff"],
        activation=nearest(ACTIVATIONS, settings["dense_act_fn"] or name, "dense_act_fn"),
        dropout=settings["dropout_rate"],
        up_init=FanIn(settings["initializer_factor"]),
        down_init=FanIn(settings["initializer_factor"]),
    )
    depth = count(settings, "num_decoder_layers", settings["num_layers"])
    head = head_of(settings, scaled=_scaled(settings))
    return encoder_decoder(settings, [ffn] * settings["num_layers"], [ffn] * depth, head)


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
    width, key_width, heads = settings["d_model"], settings["d_kv"], settings["num_heads"]
    gain, rate = settings["initializer_factor"], settings["dropout_rate"]
    norm = Norm(kind="rms", eps=settings["layer_norm_epsilon"])

    def attention(mask: Mask) -> GQA:
        return GQA(
            heads=heads,
            kv_heads=heads,
            key_width=key_width,
            mask=mask,
            scale=1.0,
            dropout=rate,
            init=FanIn(gain / math.sqrt(key_width)),
            key_init=FanIn(gain),
            value_init=FanIn(gain),
            out_init=FanIn(gain),
        )

    def stack(ffns: Sequence[FFNSpec], block: Block, *, bidirectional: bool) -> Stack:
        bias = Buckets(
            heads=heads,
            count=settings["relative_attention_num_buckets"],
            max_distance=settings["relative_attention_max_distance"],
            bidirectional=bidirectional,
            deviation=gain / math.sqrt(width),
        )
        groups = fold([replace(block, ffn=ffn) for ffn in ffns])
        return Stack(groups=groups, norm=norm, bias=bias, dropout=rate)

    residual = Residual(placement="pre", norm=norm, dropout=rate)
    reader = Block(attention=attention(Full()), ffn=encoder[0], residual=residual)
    writer = Block(attention=attention(Causal()), cross=attention(Full()), ffn=decoder[0], residual=residual)
    return Transformer(
        embed=Embed(vocab=settings["vocab_size"], width=width, dropout=rate, init=Normal(gain)),
        encoder=stack(encoder, reader, bidirectional=True),
        stack=stack(decoder, writer, bidirectional=False),
        head=head,
    )


def write(spec: Transformer) -> Settings | None:
    """The config of a T5 whose feed-forward layers are dense."""
    sizes, head = sizes_of(spec), spec.head
    match spec.stack.groups[0].blocks[0].ffn, head:
        case (MLP() | GLU()) as ffn, Tied() | Untied() if sizes is not None:
            name = nearest(ACTIVATION_NAMES, ffn.activation, "activation of transformers")
            gated = type(ffn) is GLU
            return {
                **sizes,
                "d_ff": ffn.inner,
                "feed_forward_proj": f"gated-{name}" if gated else name,
                "dense_act_fn": name,
                "is_gated_act": gated,
                "tie_word_embeddings": type(head) is Tied,
                "scale_decoder_outputs": head.scale != 1,
            }
    return None


def sizes_of(spec: Transformer) -> Settings | None:
    """The settings of an encoder and a decoder with bucketed logit biases, except of feed-forward layers and head."""
    match spec.encoder, spec.stack:
        case Stack() as encoder, Stack(bias=Buckets() as bias) as stack:
            attention = stack.groups[0].blocks[0].attention
            if type(attention) is not GQA:
                return None
            return {
                "vocab_size": spec.embed.vocab,
                "d_model": spec.embed.width,
                "d_kv": attention.key_width,
                "num_heads": attention.heads,
                "num_layers": encoder.depth,
                "num_decoder_layers": stack.depth,
                "relative_attention_num_buckets": bias.count,
                "relative_attention_max_distance": bias.max_distance,
                "dropout_rate": spec.embed.dropout,
                "layer_norm_epsilon": stack.norm.eps,
                "initializer_factor": spec.embed.init.std(spec.embed.width, spec.embed.vocab),
                "is_encoder_decoder": True,
                "pad_token_id": 0,
                "decoder_start_token_id": 0,
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

T5 = Family(
    architecture="T5ForConditionalGeneration",
    defaults={
        **DEFAULTS,
        "num_layers": 6,
        "num_decoder_layers": None,
        "feed_forward_proj": "relu",
        "dense_act_fn": None,
        "is_gated_act": None,
        "scale_decoder_outputs": None,
    },
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
