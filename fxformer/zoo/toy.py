"""The ablation's factory: its signature is the schema of every sweep."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fxformer.block import Block
from fxformer.fields import Count, Distance, Number, Positive, Rate, Share, Size, checked
from fxformer.layers.attention import GQA, MLA, AttentionSpec, Differential, gqa
from fxformer.layers.bias import ALiBi, Buckets
from fxformer.layers.embed import Embed, Learned, LearnedPair, Sinusoidal
from fxformer.layers.ffn import GLU, MLP, FFNSpec, MoE
from fxformer.layers.head import Tied, Untied
from fxformer.layers.norm import Norm
from fxformer.layers.project import FanIn, Init
from fxformer.layers.residual import Residual
from fxformer.lookup import answering, nearest, renamed
from fxformer.model import Transformer
from fxformer.ops.attend import divisors
from fxformer.ops.mask import Blocks, Causal, Full, Mask, Prefix, Strided, Window
from fxformer.ops.norm import NORMS
from fxformer.ops.rotary import Rotary
from fxformer.ops.route import TopK
from fxformer.stack import Repeat, Stack
from fxformer.zoo.elsewhere import ELSEWHERE

# "Position encoding" acts in three places: on the embedding, on queries and keys, on logits. Each position fills one.
POSITIONS: dict[str, Callable[[int, int, int], dict[str, Any]]] = {
    "none": lambda length, heads, key_width: {},
    "sinusoidal": lambda length, heads, key_width: {"absolute": Sinusoidal()},
    "learned": lambda length, heads, key_width: {"absolute": Learned(limit=length, init=FanIn())},
    "rotary": lambda length, heads, key_width: {"rotary": Rotary(width=key_width)},
    "rotary-interleaved": lambda length, heads, key_width: {"rotary": Rotary(width=key_width, pairing="interleaved")},
    "learned-pair": lambda length, heads, key_width: {"absolute": LearnedPair(limit=length, init=FanIn())},
    "rotary-2d": lambda length, heads, key_width: {"rotary": Rotary(width=key_width // 4 * 2, streams=2)},
    "t5": lambda length, heads, key_width: {"bias": Buckets(heads=heads)},
    "alibi": lambda length, heads, key_width: {"bias": ALiBi(heads=heads)},
}
TURNED = {"rotary": (2, 2), "rotary-interleaved": (2, 2), "rotary-2d": (4, 1)}  # channels of a head: least, multiple of
MASKS: dict[str, Mask] = {
    "causal": Causal(),
    "prefix": Causal() | Prefix(),
    "strided": Strided(4) | Window(4),
    "blocks": Blocks(16),
    "full": Full(),
}
GATES: dict[str, str | None] = {"none": None, **{name: name for name in gqa.GATES}}
TALKING: dict[str, dict[str, bool]] = {  # what is mixed between heads
    "none": {},
    "logits": {"mix_logits": True},
    "weights": {"mix_weights": True},
    "both": {"mix_logits": True, "mix_weights": True},
}
HEADS: dict[str, Callable[[], Tied | Untied]] = {
    "tied": Tied,
    "untied": Untied,
    "zero": lambda: Untied(init=FanIn(gain=0.0)),  # begins by saying nothing: Yang et al. 2022, D.2, for muP
}
OLD_HEADS = {"free": "untied"}
KINDS = {kind: kind for kind in NORMS}
BIASED_NORMS = ("layer", "batch", "dyt")
FACTORS = {"dyt": 0.5}  # norms that learn a factor on their input, and where it starts


def _gqa(
    heads: int, key_width: int, rotary: Rotary | None, mask: Mask, own: dict[str, Any], inits: dict[str, Any]
) -> GQA:
    return GQA(heads=heads, key_width=key_width, rotary=rotary, mask=mask, **own, **inits)


def _mla(
    heads: int, key_width: int, rotary: Rotary | None, mask: Mask, own: dict[str, Any], inits: dict[str, Any]
) -> MLA:
    if rotary is None:
        raise ValueError('attention="mla" compares a rotated part of every key; use position="rotary"')
    _refuse("mla", [name for name, value in own.items() if value != (heads if name == "kv_heads" else None)])
    rotary = replace(rotary, width=max(2, key_width // 4 * 2))
    latent = max(1, heads * key_width // 2)
    return MLA(
        heads=heads, nope_width=key_width, value_width=key_width, latent=latent, rotary=rotary, mask=mask, **inits
    )


def _refuse(attention: str, names: list[str]) -> None:
    if names:
        raise ValueError(f"attention={attention!r} has no {' and no '.join(names)}; leave out what it has not")


def _differential(
    heads: int, key_width: int, rotary: Rotary | None, mask: Mask, own: dict[str, Any], inits: dict[str, Any]
) -> Differential:
    """Two maps of half the width in each head, so that all matrices are as large as those of GQA."""
    known = {name: own[name] for name in ("kv_heads", "qk_norm", "softcap")}
    _refuse("differential", [name for name, value in own.items() if name not in known and value is not None])
    if key_width % 2:
        raise ValueError(f'attention="differential" halves heads of {key_width} channels; use an even width / heads')
    if rotary is not None:
        rotary = replace(rotary, width=max(2, rotary.width // 4 * 2))
    return Differential(heads=heads, key_width=key_width // 2, rotary=rotary, mask=mask, **known, **inits)


ATTENTIONS: dict[str, Callable[..., AttentionSpec]] = {"gqa": _gqa, "mla": _mla, "differential": _differential}


def _slots(position: str, length: int, heads: int, key_width: int) -> dict[str, Any]:
    """What a position fills. Raises ValueError where it turns channels that a head has not."""
    slots, (least, multiple) = nearest(POSITIONS, position, "position"), TURNED.get(position, (1, 1))
    fitting = max(least, -(-key_width // multiple) * multiple)
    if key_width != fitting:
        raise ValueError(
            f"width={heads * key_width} over heads={heads} gives a head {key_width} channels, which "
            f"position={position!r} cannot turn in pairs; use width={heads * fitting} or other heads"
        )
    return slots(length, heads, key_width)


def _norm(kind: str) -> Norm:
    return Norm(kind=kind, scale=kind != "none", bias=kind in BIASED_NORMS, alpha=FACTORS.get(kind))


def _mlp(inner: int | None, width: int, activation: str, init: Init) -> MLP:
    inner = 4 * width if inner is None else inner
    return MLP(inner=inner, activation=activation, up_init=init, down_init=init)


def _glu(inner: int | None, width: int, activation: str, init: Init) -> GLU:
    inner = math.ceil(8 * width / 3) if inner is None else inner
    return GLU(inner=inner, activation=activation, up_init=init, down_init=init)


def _moe(inner: int | None, width: int, activation: str, init: Init) -> MoE:
    return MoE(experts=5, expert=_glu(inner, width, activation, init), router=TopK(k=2, renormalise=True))


FFNS: dict[str, Callable[[int | None, int, str, Init], FFNSpec]] = {"mlp": _mlp, "glu": _glu, "moe": _moe}


@answering(ELSEWHERE)
@checked
def toy(
    *,
    width: Size = 64,
    depth: Size = 4,
    heads: Size = 4,
    kv_heads: Size | None = None,
    norm: str = "rms",
    placement: str = "pre",
    position: str = "rotary",
    attention: str = "gqa",
    mask: str = "causal",
    ffn: str = "mlp",
    activation: str = "gelu_tanh",
    inner: Size | None = None,
    qk_norm: str = "none",
    softcap: Positive | None = None,
    gate: str = "none",
    talking_heads: str = "none",
    value_residual: Share | None = None,
    window: Distance | None = None,
    memory_tokens: Count = 0,
    head: str = "tied",
    layer_scale: Positive | None = None,
    dropout: Rate = 0.0,
    stochastic_depth: Rate = 0.0,
    vocab: Size = 256,
    length: Size = 64,
    residual_scale: Number = 1.0,
    branch_scale: Number = 1.0,
    init_scale: Number = 1.0,
) -> Transformer:
    """A small decoder with one choice on every axis; unknown names raise ValueError with the nearest valid one.

    kv_heads: None is `heads`. inner: None is 4 x width for "mlp", 8/3 x width for "glu", and for each expert of "moe".
    window: keys that are seen of those the mask allows; None is all. length: positions of "learned".
    gate: on what attention says, for each "head" or each "channel" of one.
    talking_heads: what is mixed between heads by learned maps, "logits", "weights" or "both".
    value_residual: the weight of the first block's values in those of each later one, where it starts; None has none.
    memory_tokens: learned tokens before those of each row, which all of them see.
    attention: "mla" makes keys and values of a latent of half the width, and half of each key is rotary;
    "differential" subtracts two maps of half the width in each head.
    layer_scale: where a learned factor on each channel of every branch starts (LayerScale); None has none.
    stochastic_depth: how often, in training, the last block passes a row by; earlier ones in proportion to their place.
    residual_scale, branch_scale, init_scale: numbers that may be traced: the skip of the residual, and the gain at
    initialisation of value, output and feed-forward matrices, and of all matrices.
    DeepNorm is placement="post", residual_scale=(2 depth)^(1/4), branch_scale=(8 depth)^(-1/4).
    """
    if width % heads:
        raise ValueError(f"heads={heads} does not divide width={width}; use {divisors(width)}")
    key_width = width // heads
    slots = _slots(position, length, heads, key_width)
    frame = _norm(nearest(KINDS, norm, "norm"))
    init, branch_init = FanIn(gain=init_scale), FanIn(gain=init_scale * branch_scale)
    seen = nearest(MASKS, mask, "mask")
    if window is not None:
        seen = Window(window) if seen == Causal() else seen & Window(window)
    own = {
        "kv_heads": heads if kv_heads is None else kv_heads,
        "qk_norm": None
        if qk_norm == "none"
        else Norm(kind=nearest(KINDS, qk_norm, "qk_norm"), alpha=FACTORS.get(qk_norm)),
        "softcap": softcap,
        "gate": nearest(GATES, gate, "gate"),
        "value_residual": value_residual,
        **nearest(TALKING, talking_heads, "talking_heads"),
    }
    matrices = {"init": init, "value_init": branch_init, "out_init": branch_init}
    block = Block(
        attention=nearest(ATTENTIONS, attention, "attention")(
            heads, key_width, slots.get("rotary"), seen, own, matrices
        ),
        ffn=nearest(FFNS, ffn, "ffn")(inner, width, activation, branch_init),
        residual=Residual(
            placement=placement,
            norm=frame,
            skip=residual_scale,
            layer_scale=layer_scale,
            dropout=dropout,
            stochastic_depth=stochastic_depth,
        ),
    )
    embed = Embed(
        vocab=vocab,
        width=width,
        position=slots.get("absolute"),
        scale=math.sqrt(width),
        dropout=dropout,
        init=init,
    )
    stack = Stack(groups=(Repeat(depth, (block,)),), norm=frame, bias=slots.get("bias"), memory_tokens=memory_tokens)
    return Transformer(embed=embed, stack=stack, head=nearest(HEADS, renamed(OLD_HEADS, head, "head"), "head")())
