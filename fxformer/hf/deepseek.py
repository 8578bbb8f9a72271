"""DeepSeek V2, V3 and V3.2 (`DeepseekV2ForCausalLM` and so on): latent attention, dense layers, mixtures of experts.

In their tensors a head's query is [without position | rotated], the stream becomes [latent | rotated key], and the
latent becomes [key | value] head by head. The norms of latents have an epsilon of their own, 1e-6. transformers leaves
the weights of V2's experts as they are whatever `norm_topk_prob` says, and so does this page. What predicts the token
after the next, published as one more layer, is left out as there.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

from fxformer.block import Block
from fxformer.hf.depth import fold
from fxformer.hf.family import ACTIVATION_NAMES, ACTIVATIONS, Family, Settings, count
from fxformer.hf.layout import Axes, Fused, Joined
from fxformer.hf.llama import BUFFERS, COPIES, EMBED, FFN, NORMS, STACKED_EXPERTS
from fxformer.hf.names import tensor
from fxformer.hf.parts import DECODER_PARTS, decoder_classes, decoder_parts, read_head
from fxformer.hf.rope import DEFAULTS, read_rope, rope_of, write_rope
from fxformer.layers.attention import MLA
from fxformer.layers.attention.indexer import Indexer
from fxformer.layers.embed import Embed
from fxformer.layers.ffn import GLU, MLP, FFNSpec, MoE
from fxformer.layers.head import Tied
from fxformer.layers.norm import Norm
from fxformer.layers.project import Normal
from fxformer.layers.residual import Residual
from fxformer.lookup import nearest
from fxformer.model import Transformer
from fxformer.ops.rotary import Dynamic, Linear, Llama3, Rotary, YaRN, magnitude
from fxformer.ops.route import Router, Sigmoid, TopK
from fxformer.stack import Repeat, Stack

DENSE, SPARSE = "dense", "sparse"
LIMITED = "group_limited_greedy"


def read_v2(settings: Settings) -> Transformer:
    """The Spec of a DeepSeek-V2 config."""
    method = settings["topk_method"]
    if method not in ("greedy", LIMITED):
        raise ValueError(f"config.json has topk_method={method!r}; only 'greedy' and {LIMITED!r} are supported")

    def router() -> Router:
        return TopK(
            k=count(settings, "num_experts_per_tok"),
            scale=settings["routed_scaling_factor"],
            groups=count(settings, "n_group") if method == LIMITED else 1,
            kept_groups=count(settings, "topk_group") if method == LIMITED else 1,
        )

    return _model(settings, _attention(settings), _kinds(settings, 0), router, bias=settings["mlp_bias"])


def read_v3(settings: Settings) -> Transformer:
    """The Spec of a DeepSeek-V3 config."""
    attention = _attention(settings, pairing="interleaved" if settings["rope_interleave"] else "half")
    return _model(settings, attention, _kinds(settings, 3), lambda: _sigmoid(settings))


def read_v32(settings: Settings) -> Transformer:
    """The Spec of a DeepSeek-V3.2 config."""
    depth, kinds = settings["num_hidden_layers"], settings["mlp_layer_types"] or _kinds(settings, 3)
    if len(kinds) != depth or not set(kinds) <= {DENSE, SPARSE}:
        raise ValueError(f"config.json has mlp_layer_types={kinds!r}; give {depth} of {DENSE!r} and {SPARSE!r}")
    attentions = settings["layer_types"]
    if attentions not in (None, ["indexed_attention"] * depth):
        raise ValueError(f"config.json has layer_types={attentions!r}; give {depth} of 'indexed_attention', or null")
    index = Indexer(
        heads=settings["index_n_heads"],
        width=settings["index_head_dim"],
        keep=settings["index_topk"],
        rotary=_rotary(settings, "half"),
        init=Normal(settings["initializer_range"]),
    )
    return _model(settings, _attention(settings, index=index), kinds, lambda: _sigmoid(settings))


def _sigmoid(settings: Settings) -> Router:
    return Sigmoid(
        k=settings["num_experts_per_tok"],
        renormalise=settings["norm_topk_prob"],
        scale=settings["routed_scaling_factor"],
        groups=settings["n_group"],
        kept_groups=settings["topk_group"],
    )


def _kinds(settings: Settings, default: int) -> list[str]:
    """The kind of each layer; `default` of them are dense where config.json is silent."""
    first = settings["first_k_dense_replace"]
    first = default if first is None else count(settings, "first_k_dense_replace")
    return [DENSE if layer < first else SPARSE for layer in range(settings["num_hidden_layers"])]


def _model(
    settings: Settings, attention: MLA, kinds: Sequence[str], router: Callable[[], Router], *, bias: bool = False
) -> Transformer:
    """A layer of each kind; bias: of dense layers and shared experts."""
    norm, init = Norm(kind="rms", eps=settings["rms_norm_eps"]), Normal(settings["initializer_range"])
    activation = nearest(ACTIVATIONS, settings["hidden_act"], "hidden_act")

    def glu(inner: int, bias: bool) -> GLU:
        return GLU(inner=inner, activation=activation, bias=bias, up_init=init, down_init=init)

    def moe() -> MoE:
        inner, choice = settings["moe_intermediate_size"], router()
        return MoE(
            experts=settings["n_routed_experts"],
            expert=glu(inner, bias=False),
            router=choice,
            shared=glu(inner * settings["n_shared_experts"], bias=bias),
            selection_bias=type(choice) is Sigmoid,
            per_row=True,
            router_init=init,
        )

    makers: dict[str, Callable[[], FFNSpec]] = {DENSE: lambda: glu(settings["intermediate_size"], bias), SPARSE: moe}
    residual = Residual(placement="pre", norm=norm)
    blocks = {kind: Block(attention=attention, ffn=makers[kind](), residual=residual) for kind in set(kinds)}
    runs = tuple(Repeat(len(list(run)), (blocks[kind],)) for kind, run in groupby(kinds))
    return Transformer(
        embed=Embed(vocab=settings["vocab_size"], width=settings["hidden_size"], init=init),
        stack=Stack(groups=runs if len(runs) < 3 else fold([blocks[kind] for kind in kinds]), norm=norm),
        head=read_head(settings, init),
    )


def _attention(settings: Settings, *, pairing: str = "interleaved", index: Indexer | None = None) -> MLA:
    heads, kv_heads = settings["num_attention_heads"], settings["num_key_value_heads"]
    if kv_heads not in (None, heads):
        raise ValueError(f"config.json has num_key_value_heads={kv_heads}, but each of {heads} heads has its own")
    rotary, init = _rotary(settings, pairing), Normal(settings["initializer_range"])
    nope_width = settings["qk_nope_head_dim"]
    return MLA(
        heads=heads,
        nope_width=nope_width,
        value_width=settings["v_head_dim"],
        latent=settings["kv_lora_rank"],
        query_latent=settings["q_lora_rank"],
        rotary=rotary,
        scale=_scale(settings, rotary, nope_width + rotary.width),
        bias=settings["attention_bias"],
        index=index,
        init=init,
        value_init=init,
        out_init=init,
    )


def _rotary(settings: Settings, pairing: str) -> Rotary:
    rotary, gain = read_rope(settings, settings["qk_rope_head_dim"])
    return replace(rotary, pairing=pairing, gain=gain)


def _scale(settings: Settings, rotary: Rotary, width: int) -> float | None:
    """The factor on logits: with YaRN and `mscale_all_dim` its magnitude squared over the root of a head's width."""
    mscale = rope_of(settings).get("mscale_all_dim")
    if not mscale or type(rotary.scaling) is not YaRN:
        return None
    return magnitude(rotary.scaling.factor, mscale) ** 2 / math.sqrt(width)


class Parts(NamedTuple):
    """What of a spec all three configs say: the first of each part, and the kind of each layer."""

    attention: MLA
    dense: GLU | None
    moe: MoE | None
    kinds: list[str]


def write_v2(spec: Transformer) -> Settings | None:
    """The config of latent attention and experts chosen by softmax."""
    parts = _parts(spec)
    # V2's class alone wants heads that divide the width, and rotates pairs only where they start at even channels.
    if parts is None or spec.embed.width % parts.attention.heads:
        return None
    if parts.attention.nope_width % 2 or parts.attention.latent % 2:
        return None
    match parts:
        case Parts(moe=None, dense=GLU() as dense):
            return {**_shared(spec, parts), "mlp_bias": dense.bias}
        case Parts(moe=MoE(router=TopK() as router, shared=GLU() as shared)):
            groups = {"topk_method": LIMITED, "n_group": router.groups, "topk_group": router.kept_groups}
            chosen = {"topk_method": "greedy"} if router.groups == 1 else groups
            return {**_shared(spec, parts), **_chosen(router), **chosen, "mlp_bias": shared.bias}
    return None


def write_v3(spec: Transformer) -> Settings | None:
    """The config of latent attention and experts chosen by sigmoid."""
    parts = _parts(spec)
    grouped = None if parts is None else _grouped(parts)
    if parts is None or grouped is None:
        return None
    return {**_shared(spec, parts), **grouped, "rope_interleave": parts.attention.rotary.pairing == "interleaved"}


def write_v32(spec: Transformer) -> Settings | None:
    """The config of latent attention with an indexer and experts chosen by sigmoid."""
    parts = _parts(spec)
    grouped = None if parts is None else _grouped(parts)
    if parts is None or grouped is None or parts.attention.index is None:
        return None
    return {
        **_shared(spec, parts),
        **grouped,
        "mlp_layer_types": parts.kinds,
        "layer_types": ["indexed_attention"] * len(parts.kinds),
        "index_n_heads": parts.attention.index.heads,
        "index_head_dim": parts.attention.index.width,
        "index_topk": parts.attention.index.keep,
    }


def _parts(spec: Transformer) -> Parts | None:
    """None where attention is of another kind."""
    ffns = [block.ffn for block in spec.stack.blocks]
    match spec.stack.blocks[0].attention:
        case MLA(rotary=Rotary(scaling=None | Linear() | Dynamic() | Llama3() | YaRN())) as attention:
            return Parts(
                attention,
                next((ffn for ffn in ffns if type(ffn) is GLU), None),
                next((ffn for ffn in ffns if type(ffn) is MoE), None),
                [SPARSE if type(ffn) is MoE else DENSE for ffn in ffns],
            )
    return None


def _shared(spec: Transformer, parts: Parts) -> Settings:
    """What all three write."""
    embed, attention = spec.embed, parts.attention
    config: dict[str, Any] = {
        "vocab_size": embed.vocab,
        "hidden_size": embed.width,
        "num_hidden_layers": len(parts.kinds),
        "first_k_dense_replace": (*parts.kinds, SPARSE).index(SPARSE),
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.heads,
        "q_lora_rank": attention.query_latent,
        "kv_lora_rank": attention.latent,
        "qk_nope_head_dim": attention.nope_width,
        "qk_rope_head_dim": attention.rotary.width,
        "v_head_dim": attention.value_width,
        "rms_norm_eps": spec.stack.norm.eps,
        "attention_bias": attention.bias,
        "initializer_range": embed.init.std(embed.width, embed.vocab),
        "tie_word_embeddings": type(spec.head) is Tied,
        **_write_rope(attention),
    }
    if parts.dense is not None:
        config |= {"intermediate_size": parts.dense.inner, "hidden_act": _activation(parts.dense)}
    match parts.moe:
        case MoE(expert=expert, shared=GLU() as shared) as moe:
            config |= {
                "hidden_act": _activation(expert),
                "n_routed_experts": moe.experts,
                "moe_intermediate_size": expert.inner,
                "n_shared_experts": max(shared.inner // expert.inner, 1),
            }
    return config


def _activation(ffn: GLU | MLP) -> str:
    return nearest(ACTIVATION_NAMES, ffn.activation, "activation of transformers")


def _chosen(router: TopK | Sigmoid) -> Settings:
    return {"num_experts_per_tok": router.k, "routed_scaling_factor": router.scale}


def _grouped(parts: Parts) -> Settings | None:
    """How experts are chosen by sigmoid, where there are some; None where they are chosen otherwise."""
    match parts.moe:
        case None:
            return {}
        case MoE(router=Sigmoid() as router):
            groups = {"n_group": router.groups, "topk_group": router.kept_groups}
            return {**_chosen(router), **groups, "norm_topk_prob": router.renormalise}
    return None


def _write_rope(attention: MLA) -> Settings:
    """With YaRN also `mscale_all_dim`, which makes `scale`, and `mscale`, which makes `gain` of it."""
    rotary = attention.rotary
    written = write_rope(rotary, rotary.gain)
    if type(rotary.scaling) is not YaRN or rotary.scaling.factor <= 1:
        return written
    given: dict[str, float] = {"attention_factor": rotary.gain}
    if attention.scale is not None:
        width = attention.nope_width + attention.rope_width
        stretch = 0.1 * math.log(rotary.scaling.factor)
        whole = math.sqrt(attention.scale * math.sqrt(width))
        mscales = {"mscale": (rotary.gain * whole - 1) / stretch, "mscale_all_dim": (whole - 1) / stretch}
        given |= {key: float(f"{value:.12g}") for key, value in mscales.items()}
    return {
        **written,
        "rope_scaling": {**written["rope_scaling"], **given},
        "rope_parameters": {**written["rope_parameters"], **given},
    }


QUERY = ("stack.{}.attention.query.weight", "stack.{}.attention.query_rope.weight")
QUERY_DOWN = "stack.{}.attention.query_down.weight"
HEADS = Joined("d h *", "d h x -> (h x) d")
MATRICES = (("gate", Axes("d f -> f d")), ("up", Axes("d f -> f d")), ("down", Axes("f d -> d f")))
WITHOUT_EXPERTS = (
    *EMBED,
    *NORMS,
    *FFN,
    tensor("model.layers.{}.self_attn.q_proj.weight", *QUERY, layout=HEADS, without=QUERY_DOWN),
    tensor("model.layers.{}.self_attn.q_a_proj.weight", QUERY_DOWN, layout=Axes("d a -> a d")),
    tensor("model.layers.{}.self_attn.q_a_proj.bias", "stack.{}.attention.query_down.bias"),
    tensor("model.layers.{}.self_attn.q_a_layernorm.weight", "stack.{}.attention.query_norm.scale"),
    tensor("model.layers.{}.self_attn.q_b_proj.weight", *QUERY, layout=HEADS, beside=QUERY_DOWN),
    tensor(
        "model.layers.{}.self_attn.kv_a_proj_with_mqa.weight",
        "stack.{}.attention.latent.weight",
        "stack.{}.attention.rope.weight",
        layout=Joined("d *", "d x -> x d"),
    ),
    tensor(
        "model.layers.{}.self_attn.kv_a_proj_with_mqa.bias",
        "stack.{}.attention.latent.bias",
        "stack.{}.attention.rope.bias",
        layout=Fused("*"),
    ),
    tensor("model.layers.{}.self_attn.kv_a_layernorm.weight", "stack.{}.attention.latent_norm.scale"),
    tensor(
        "model.layers.{}.self_attn.kv_b_proj.weight",
        "stack.{}.attention.key_up.weight",
        "stack.{}.attention.value_up.weight",
        layout=HEADS,
    ),
    tensor("model.layers.{}.self_attn.o_proj.weight", "stack.{}.attention.out.weight", layout=Axes("h u d -> d (h u)")),
    tensor("model.layers.{}.self_attn.o_proj.bias", "stack.{}.attention.out.bias"),
    tensor(
        "model.layers.{}.self_attn.indexer.wq_b.weight",
        "stack.{}.attention.index.query.weight",
        layout=Axes("a i j -> (i j) a"),
    ),
    tensor(
        "model.layers.{}.self_attn.indexer.wk.weight", "stack.{}.attention.index.key.weight", layout=Axes("d j -> j d")
    ),
    tensor("model.layers.{}.self_attn.indexer.k_norm.weight", "stack.{}.attention.index.key_norm.scale"),
    tensor("model.layers.{}.self_attn.indexer.k_norm.bias", "stack.{}.attention.index.key_norm.bias"),
    tensor(
        "model.layers.{}.self_attn.indexer.weights_proj.weight",
        "stack.{}.attention.index.head_weight.weight",
        layout=Axes("d i -> i d"),
    ),
    tensor("model.layers.{}.mlp.gate.weight", "stack.{}.ffn.router.weight", layout=Axes("d e -> e d")),
    tensor("model.layers.{}.mlp.gate.e_score_correction_bias", "stack.{}.ffn.selection_bias"),
    *(
        tensor(
            f"model.layers.{{}}.mlp.shared_experts.{name}_proj.weight",
            f"stack.{{}}.ffn.shared.{name}.weight",
            layout=layout,
        )
        for name, layout in MATRICES
    ),
    *(
        tensor(f"model.layers.{{}}.mlp.shared_experts.{name}_proj.bias", f"stack.{{}}.ffn.shared.{name}.bias")
        for name, _ in MATRICES
    ),
)
TENSORS = (
    *WITHOUT_EXPERTS,
    *(
        tensor(
            f"model.layers.{{}}.mlp.experts.{{expert}}.{name}_proj.weight",
            f"stack.{{}}.ffn.experts.{name}.weight",
            layout=layout,
        )
        for name, layout in MATRICES
    ),
)
OTHERS = ((*WITHOUT_EXPERTS, *STACKED_EXPERTS),)

COMMON: Settings = {
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "first_k_dense_replace": None,
    "num_key_value_heads": None,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    **DEFAULTS,
}
V3_SIZES: Settings = {
    **COMMON,
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "max_position_embeddings": 4096,
}
INERT = frozenset(
    {"head_dim", "qk_head_dim", "aux_loss_alpha", "seq_aux", "ep_size", "num_nextn_predict_layers", "num_mtp_layers"}
)
LEFT_OUT = (*BUFFERS, "layers.{depth}.*")

DEEPSEEK_V2 = Family(
    architecture="DeepseekV2ForCausalLM",
    classes=decoder_classes("DeepseekV2", without=("ForTokenClassification",)),
    parts=DECODER_PARTS,
    parts_of=decoder_parts,
    defaults={
        **COMMON,
        "vocab_size": 102400,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "moe_intermediate_size": 1407,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "n_shared_experts": 2,
        "n_routed_experts": 64,
        "num_experts_per_tok": None,
        "n_group": None,
        "topk_group": None,
        "topk_method": "greedy",
        "routed_scaling_factor": 1.0,
        "mlp_bias": False,
        "max_position_embeddings": 2048,
    },
    optional=frozenset({"q_lora_rank"}),
    fixed={"moe_layer_freq": 1, "scoring_func": "softmax"},
    synonyms={"num_experts": "n_routed_experts"},
    inert=INERT | {"norm_topk_prob"},
    read=read_v2,
    write=write_v2,
    tensors=TENSORS,
    others=OTHERS,
    prefix="model.",
    buffers=LEFT_OUT,
    copies=COPIES,
)

DEEPSEEK_V3 = Family(
    architecture="DeepseekV3ForCausalLM",
    classes=decoder_classes("DeepseekV3"),
    parts=DECODER_PARTS,
    parts_of=decoder_parts,
    defaults={**V3_SIZES, "rope_interleave": True},
    optional=frozenset({"q_lora_rank"}),
    fixed={"moe_layer_freq": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc"},
    synonyms={"num_local_experts": "n_routed_experts"},
    inert=INERT,
    read=read_v3,
    write=write_v3,
    tensors=TENSORS,
    others=OTHERS,
    prefix="model.",
    buffers=LEFT_OUT,
    copies=COPIES,
)

DEEPSEEK_V32 = Family(
    architecture="DeepseekV32ForCausalLM",
    classes=decoder_classes("DeepseekV32", without=("ForSequenceClassification", "ForTokenClassification")),
    parts=DECODER_PARTS,
    parts_of=decoder_parts,
    defaults={
        **V3_SIZES,
        "max_position_embeddings": 163840,
        "mlp_layer_types": None,
        "layer_types": None,
        "index_n_heads": 64,
        "index_head_dim": 128,
        "index_topk": 2048,
    },
    fixed={"moe_layer_freq": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "rope_interleave": True},
    synonyms={"num_local_experts": "n_routed_experts", "num_experts": "n_routed_experts"},
    inert=INERT | {"mlp_bias"},
    read=read_v32,
    write=write_v32,
    tensors=TENSORS,
    others=OTHERS,
    prefix="model.",
    buffers=LEFT_OUT,
    copies=COPIES,
)
