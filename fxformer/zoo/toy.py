"""The ablation's factory: its signature is the schema of every sweep."""

import math
from collections.abc import Callable
from typing import Any

from fxformer.block import Block
from fxformer.layers.attention import GQA
from fxformer.layers.bias import ALiBi, Buckets
from fxformer.layers.embed import Embed, Free, Learned, Sinusoidal, Tied
from fxformer.layers.ffn import GLU, MLP
from fxformer.layers.norm import Norm
from fxformer.layers.project import FanIn
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.names import nearest
from fxformer.ops.attend import divisors
from fxformer.ops.mask import Causal, Window
from fxformer.ops.rotary import Rotary
from fxformer.stack import Repeat, Stack

# "Position encoding" acts in three places: on the embedding, on queries and keys, on logits. Each position fills one.
POSITIONS: dict[str, Callable[[int, int, int], dict[str, Any]]] = {
    "none": lambda length, heads, key_width: {},
    "sinusoidal": lambda length, heads, key_width: {"absolute": Sinusoidal()},
    "learned": lambda length, heads, key_width: {"absolute": Learned(limit=length, init=FanIn())},
    "rotary": lambda length, heads, key_width: {"rotary": Rotary(width=key_width)},
    "rotary-interleaved": lambda length, heads, key_width: {"rotary": Rotary(width=key_width, pairing="interleaved")},
    "t5": lambda length, heads, key_width: {"bias": Buckets(heads=heads)},
    "alibi": lambda length, heads, key_width: {"bias": ALiBi(heads=heads)},
}
FFNS: dict[str, type[MLP] | type[GLU]] = {"mlp": MLP, "glu": GLU}
HEADS: dict[str, type[Tied] | type[Free]] = {"tied": Tied, "free": Free}
BIASED_NORMS = ("layer",)


def toy(
    *,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
    kv_heads: int | None = None,
    norm: str = "rms",
    placement: str = "pre",
    position: str = "rotary",
    ffn: str = "mlp",
    activation: str = "gelu_tanh",
    inner: int | None = None,
    qk_norm: str = "none",
    softcap: float | None = None,
    window: int | None = None,
    head: str = "tied",
    dropout: float = 0.0,
    vocab: int = 256,
    length: int = 64,
    residual_scale: float = 1.0,
    branch_scale: float = 1.0,
    init_scale: float = 1.0,
) -> Transformer:
    """A small decoder with one choice on every axis; unknown names raise ValueError with the nearest valid one.

    kv_heads: None is `heads`. inner: None is 4 x width for "mlp", 8/3 x width for "glu". window: None sees all.
    length: positions of "learned". residual_scale, branch_scale, init_scale: numbers that may be traced: the skip of
    the residual, and the gain at initialisation of value, output and feed-forward matrices, and of all matrices.
    DeepNorm is placement="post", residual_scale=(2 depth)^(1/4), branch_scale=(8 depth)^(-1/4).
    """
    if heads < 1 or width % heads:
        raise ValueError(f"heads={heads} does not divide width={width}; use {divisors(width)}")
    key_width = width // heads
    slots = nearest(POSITIONS, position, "position")(length, heads, key_width)
    frame = Norm(kind=norm, scale=norm != "none", bias=norm in BIASED_NORMS)
    init, branch_init = FanIn(gain=init_scale), FanIn(gain=init_scale * branch_scale)
    default_inner = {"mlp": 4 * width, "glu": math.ceil(8 * width / 3)}
    block = Block(
        attention=GQA(
            heads=heads,
            kv_heads=heads if kv_heads is None else kv_heads,
            key_width=key_width,
            mask=Causal() if window is None else Window(window),
            rotary=slots.get("rotary"),
            qk_norm=None if qk_norm == "none" else Norm(kind=qk_norm),
            softcap=softcap,
            init=init,
            value_init=branch_init,
            out_init=branch_init,
        ),
        ffn=nearest(FFNS, ffn, "ffn")(
            inner=nearest(default_inner, ffn, "ffn") if inner is None else inner,
            activation=activation,
            up_init=branch_init,
            down_init=branch_init,
        ),
        residual=Residual(placement=placement, norm=frame, skip=residual_scale, dropout=dropout),
    )
    embed = Embed(
        vocab=vocab,
        width=width,
        position=slots.get("absolute"),
        scale=math.sqrt(width),
        dropout=dropout,
        init=init,
    )
    stack = Stack(groups=(Repeat(depth, (block,)),), norm=frame, bias=slots.get("bias"))
    return Transformer(embed=embed, stack=stack, head=nearest(HEADS, head, "head")())
