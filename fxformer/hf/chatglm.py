"""ChatGLM-6B, ChatGLM2-6B and GLM-130B by the names of THUDM's code; transformers has none of them.

ChatGLM-6B and GLM-130B fuse [query | key | value] head by head; ChatGLM2-6B has all queries, all keys, all values. Both
ChatGLMs say model_type="chatglm"; the second has `multi_query_group_num`. GLM-130B is published as pickles of a model
cut into parts, without a config.json: here are its tensors joined, and as config.json the arguments of its launch
script. Its gated layer is [up | gate].
"""

import math
from dataclasses import replace

from fxformer.block import Block
from fxformer.hf.family import Family, Settings, count
from fxformer.hf.layout import Axes, Fused, Joined, Layout, Same
from fxformer.hf.names import Tensor, tensor
from fxformer.layers.attention import GQA
from fxformer.layers.embed import Embed
from fxformer.layers.ffn import GLU, MLP, FFNSpec
from fxformer.layers.head import Tied, Untied
from fxformer.layers.norm import Norm
from fxformer.layers.project import Normal, Xavier
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.ops.mask import Causal, Prefix
from fxformer.ops.rotary import Linear, Rotary
from fxformer.stack import Repeat, Stack

SECOND = "chatglm2"  # in `_name_or_path` of the second generation


def read_chatglm(settings: Settings) -> Transformer:
    """The Spec of a ChatGLM-6B config: two positions, one for each half of a head."""
    channels = settings["hidden_size"] // settings["num_attention_heads"]
    branch = _branch_init(settings)
    ffn = MLP(inner=settings["inner_hidden_size"], activation="gelu_tanh", bias=True, up_init=branch, down_init=branch)
    return _shifted(settings, Rotary(width=channels // 2, streams=2), ffn, dropout=0.0, shrink=1.0)


def read_glm_130b(settings: Settings) -> Transformer:
    """The Spec of GLM-130B's arguments; the gradient of its embedding is multiplied by 0.1."""
    channels = settings["hidden_size"] // settings["num_attention_heads"]
    branch = _branch_init(settings)
    ffn = GLU(inner=settings["inner_hidden_size"], activation="gelu_erf", bias=True, up_init=branch, down_init=branch)
    return _shifted(settings, Rotary(width=channels), ffn, dropout=settings["hidden_dropout"], shrink=0.1)


def _branch_init(settings: Settings) -> Xavier:
    return Xavier(gain=1 / math.sqrt(2 * settings["num_layers"]))


def _shifted(settings: Settings, rotary: Rotary, ffn: FFNSpec, *, dropout: float, shrink: float) -> Transformer:
    """What ChatGLM-6B has of GLM-130B: a prefix that sees itself, and norms that are input and shortcut at once."""
    norm, heads = Norm(kind="layer", eps=settings["layernorm_epsilon"], bias=True), settings["num_attention_heads"]
    block = Block(
        attention=GQA(
            heads=heads,
            kv_heads=heads,
            key_width=settings["hidden_size"] // heads,
            mask=Causal() | Prefix(),
            rotary=rotary,
            bias=True,
            out_bias=True,
            dropout=settings["attention_dropout"],
            init=Xavier(),
            value_init=_branch_init(settings),
            out_init=_branch_init(settings),
        ),
        ffn=ffn,
        residual=Residual(placement="shifted", norm=norm, skip=math.sqrt(2 * settings["num_layers"]), dropout=dropout),
    )
    return Transformer(
        embed=Embed(vocab=settings["vocab_size"], width=settings["hidden_size"], dropout=dropout, shrink=shrink),
        stack=Stack(groups=(Repeat(settings["num_layers"], (block,)),), norm=norm),
        head=Tied() if settings["tie_word_embeddings"] else Untied(init=Xavier()),
    )


def read_chatglm2(settings: Settings) -> Transformer:
    """The Spec of a ChatGLM2-6B config: the first half of each head is rotated."""
    norm, init = Norm(kind="rms", eps=settings["layernorm_epsilon"]), Normal(0.02)
    heads, bias = settings["num_attention_heads"], settings["add_bias_linear"]
    channels = count(settings, "kv_channels", settings["hidden_size"] // heads)
    block = Block(
        attention=GQA(
            heads=heads,
            kv_heads=settings["multi_query_group_num"],
            key_width=channels,
            rotary=_stretched(settings, Rotary(width=channels // 2, pairing="interleaved")),
            bias=bias or settings["add_qkv_bias"],
            out_bias=bias,
            dropout=settings["attention_dropout"],
            init=init,
            value_init=init,
            out_init=init,
        ),
        ffn=GLU(inner=settings["ffn_hidden_size"], activation="silu", bias=bias, up_init=init, down_init=init),
        residual=Residual(placement="pre", norm=norm, dropout=settings["hidden_dropout"]),
    )
    return Transformer(
        embed=Embed(vocab=settings["padded_vocab_size"], width=settings["hidden_size"]),
        stack=Stack(groups=(Repeat(settings["num_layers"], (block,)),), norm=norm),
        head=Tied() if settings["tie_word_embeddings"] else Untied(init=init),
    )


def _stretched(settings: Settings, rotary: Rotary) -> Rotary:
    """The rotation with `rope_ratio`, which one setting says of two: in the code of ChatGLM2-6B-32k positions are
    divided by it, in that of ChatGLM3-6B-32k and GLM-4-9B the base is multiplied by it.
    """
    ratio = settings["rope_ratio"]
    if ratio == 1:
        return rotary
    if SECOND in (settings["_name_or_path"] or "").lower():
        return replace(rotary, scaling=Linear(factor=ratio))
    return replace(rotary, base=rotary.base * ratio)


def write_chatglm(spec: Transformer) -> Settings | None:
    """The config of a shifted placement with two positions and an MLP."""
    match spec.stack.blocks[0]:
        case Block(attention=GQA(rotary=Rotary(streams=2)) as attention, ffn=MLP() as ffn):
            return {**_shared(spec, attention), "inner_hidden_size": ffn.inner, "position_encoding_2d": True}
    return None


def write_glm_130b(spec: Transformer) -> Settings | None:
    """The arguments of a shifted placement with one position and a GLU."""
    match spec.stack.blocks[0]:
        case Block(
            attention=GQA(rotary=Rotary()) as attention,
            ffn=GLU() as ffn,
            residual=Residual(placement="shifted") as join,
        ):
            return {
                **_shared(spec, attention),
                "inner_hidden_size": ffn.inner,
                "layernorm_order": "post",
                "hidden_dropout": join.dropout,
                "attention_dropout": attention.dropout,
            }
    return None


def write_chatglm2(spec: Transformer) -> Settings | None:
    """The config of a pre-norm decoder with a GLU that has the biases of ChatGLM2."""
    match spec.stack.blocks[0]:
        case Block(attention=GQA(rotary=Rotary() as rotary) as attention, ffn=GLU() as ffn, residual=join) if (
            2 * rotary.width == attention.key_width
        ):
            shared = _shared(spec, attention)
            return {
                **shared,
                "model_type": "chatglm",
                "padded_vocab_size": shared["vocab_size"],
                "ffn_hidden_size": ffn.inner,
                "kv_channels": attention.key_width,
                "multi_query_attention": True,
                "multi_query_group_num": attention.kv_heads,
                "add_bias_linear": attention.out_bias,
                "add_qkv_bias": attention.bias,
                "hidden_dropout": join.dropout,
                "attention_dropout": attention.dropout,
                **_write_ratio(rotary),
                "rmsnorm": True,
                "post_layer_norm": True,
                "apply_residual_connection_post_layernorm": False,
            }
    return None


def _write_ratio(rotary: Rotary) -> Settings:
    """The ratio, and the name of the code that reads it so where that is not the later one."""
    match rotary.scaling:
        case Linear(factor=ratio):
            return {"_name_or_path": SECOND, "rope_ratio": ratio}
    return {"rope_ratio": rotary.base / Rotary(width=2).base}


def _shared(spec: Transformer, attention: GQA) -> Settings:
    return {
        "vocab_size": spec.embed.vocab,
        "hidden_size": spec.embed.width,
        "num_layers": spec.stack.depth,
        "num_attention_heads": attention.heads,
        "layernorm_epsilon": spec.stack.norm.eps,
        "tie_word_embeddings": type(spec.head) is Tied,
    }


def _pair(theirs: str, *ours: str, weight: Layout, bias: Layout = Same()) -> tuple[Tensor, Tensor]:
    """The lines of a weight and of its bias."""
    return (
        tensor(f"{theirs}.weight", *(f"{path}.weight" for path in ours), layout=weight),
        tensor(f"{theirs}.bias", *(f"{path}.bias" for path in ours), layout=bias),
    )


QKV = tuple(f"stack.{{}}.attention.{part}" for part in ("query", "key", "value"))
SIDE_BY_SIDE = Joined("d *", "d x -> x d")


def _layer(layer: str, attention: str, qkv: tuple[Layout, Layout], up: tuple[str, ...]) -> tuple[Tensor, ...]:
    """A layer under these names; `up` are the parts of the matrix before the activation."""
    parts = tuple(f"stack.{{}}.ffn.{part}" for part in up)
    return (
        tensor(f"{layer}.input_layernorm.weight", "stack.{}.attention_residual.before.scale"),
        tensor(f"{layer}.input_layernorm.bias", "stack.{}.attention_residual.before.bias"),
        *_pair(f"{layer}.{attention}.query_key_value", *QKV, weight=qkv[0], bias=qkv[1]),
        *_pair(f"{layer}.{attention}.dense", "stack.{}.attention.out", weight=Axes("h k d -> d (h k)")),
        tensor(f"{layer}.post_attention_layernorm.weight", "stack.{}.ffn_residual.before.scale"),
        tensor(f"{layer}.post_attention_layernorm.bias", "stack.{}.ffn_residual.before.bias"),
        *_pair(f"{layer}.mlp.dense_h_to_4h", *parts, weight=SIDE_BY_SIDE, bias=Fused("*")),
        *_pair(f"{layer}.mlp.dense_4h_to_h", "stack.{}.ffn.down", weight=Axes("f d -> d f")),
    )


HEAD_BY_HEAD = (Joined("d h *", "d h x -> (h x) d"), Joined("h *", "h x -> (h x)"))
TENSORS = (
    tensor("transformer.word_embeddings.weight", "embed.table"),
    tensor("transformer.final_layernorm.weight", "stack.final_norm.scale"),
    tensor("transformer.final_layernorm.bias", "stack.final_norm.bias"),
)
HEAD = Axes("d v -> v d")
INERT2 = frozenset({
    "vocab_size", "seq_length", "apply_query_key_layer_scaling", "bias_dropout_fusion",
    "attention_softmax_in_fp32", "fp32_residual_connection", "classifier_dropout",
})  # fmt: skip

CHATGLM = Family(
    architecture="ChatGLMForConditionalGeneration",
    defaults={
        "vocab_size": 150528,
        "hidden_size": 4096,
        "num_layers": 28,
        "num_attention_heads": 32,
        "inner_hidden_size": 16384,
        "layernorm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    },
    fixed={
        "position_encoding_2d": True,
        "attention_dropout": 0.0,
        "pre_seq_len": None,
        "prefix_projection": False,
        "quantization_bit": 0,
        "quantization_embeddings": False,
    },
    inert=frozenset({"max_sequence_length", "mask_token_id", "gmask_token_id"}),
    read=read_chatglm,
    write=write_chatglm,
    tensors=(
        *TENSORS,
        *_layer("transformer.layers.{}", "attention", HEAD_BY_HEAD, ("up",)),
        tensor("lm_head.weight", "head.out.weight", layout=HEAD),
    ),
    prefix="transformer.",
    buffers=("*rotary_emb.inv_freq",),
    copies={"lm_head.weight": "transformer.word_embeddings.weight"},
)

CHATGLM2 = Family(
    architecture="ChatGLMForConditionalGeneration",
    defaults={
        "padded_vocab_size": 65024,
        "hidden_size": 4096,
        "ffn_hidden_size": 13696,
        "kv_channels": 128,
        "num_layers": 28,
        "num_attention_heads": 32,
        "multi_query_group_num": 1,
        "layernorm_epsilon": 1e-5,
        "add_bias_linear": False,
        "add_qkv_bias": False,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "tie_word_embeddings": True,
        "rope_ratio": 1.0,
        "_name_or_path": None,
    },
    optional=frozenset({"kv_channels"}),
    synonyms={"num_hidden_layers": "num_layers"},
    fixed={
        "multi_query_attention": True,
        "rmsnorm": True,
        "post_layer_norm": True,
        "apply_residual_connection_post_layernorm": False,
        "original_rope": True,
        "pre_seq_len": None,
        "prefix_projection": False,
        "quantization_bit": 0,
    },
    inert=INERT2,
    read=read_chatglm2,
    write=write_chatglm2,
    tensors=(
        tensor("transformer.embedding.word_embeddings.weight", "embed.table"),
        *_layer("transformer.encoder.layers.{}", "self_attention", (SIDE_BY_SIDE, Fused("*")), ("gate", "up")),
        tensor("transformer.encoder.final_layernorm.weight", "stack.final_norm.scale"),
        tensor("transformer.output_layer.weight", "head.out.weight", layout=HEAD),
    ),
    prefix="transformer.",
    buffers=("*rotary_pos_emb.inv_freq",),
    copies={"transformer.output_layer.weight": "transformer.embedding.word_embeddings.weight"},
)

GLM_130B = Family(
    architecture="GLM130B",
    defaults={
        "vocab_size": 150528,
        "hidden_size": 12288,
        "num_layers": 70,
        "num_attention_heads": 96,
        "inner_hidden_size": 32768,
        "layernorm_epsilon": 1e-5,
        "hidden_dropout": 0.1,
        "attention_dropout": 0.1,
    },
    fixed={"layernorm_order": "post", "tie_word_embeddings": True},
    inert=frozenset({"max_sequence_length", "tokenizer_type", "model_parallel_size"}),
    read=read_glm_130b,
    write=write_glm_130b,
    tensors=(*TENSORS, *_layer("transformer.layers.{}", "attention", HEAD_BY_HEAD, ("up", "gate"))),
    prefix="transformer.",
    buffers=("*rotary_emb.inv_freq",),
)
