"""ChatGLM-6B and ChatGLM2-6B: two models that share little but the name.

THUDM/ChatGLM-6B: GLM-130B's residual (see glm.py), a plain MLP with tanh GELU and biases, and heads whose halves are
rotated by two positions, the place in the text and the place in the answer. THUDM/ChatGLM2-6B: a causal decoder with
pre-RMSNorm, SwiGLU, two key heads, biases on query, key and value only, and the first half of each head rotated; it is
not the post-norm encoder-decoder with GELU and sinusoids that it is sometimes said to be. Initialisations are
unpublished: the first has GLM-130B's, the second the usual 0.02.
"""

import math

from fxformer.block import Block
from fxformer.fields import Size, checked
from fxformer.layers.attention import GQA
from fxformer.layers.embed import Embed
from fxformer.layers.ffn import GLU, MLP
from fxformer.layers.head import Tied, Untied
from fxformer.layers.norm import Norm
from fxformer.layers.project import Normal, Xavier
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.ops.mask import Causal, Prefix
from fxformer.ops.rotary import Rotary
from fxformer.stack import Repeat, Stack
from fxformer.zoo.family import Family, Sizes


@checked
def chatglm(*, depth: Size, width: Size, heads: Size, vocab: Size = 130528) -> Transformer:
    """ChatGLM of any size; the feed-forward layer is four times as wide as the stream."""
    norm, key_width = Norm(kind="layer", eps=1e-5, bias=True), width // heads
    init, branch_init = Xavier(), Xavier(gain=1 / math.sqrt(2 * depth))
    block = Block(
        attention=GQA(
            heads=heads,
            kv_heads=heads,
            key_width=key_width,
            mask=Causal() | Prefix(),
            rotary=Rotary(width=key_width // 2, streams=2),
            bias=True,
            out_bias=True,
            init=init,
            value_init=branch_init,
            out_init=branch_init,
        ),
        ffn=MLP(inner=4 * width, activation="gelu_tanh", bias=True, up_init=branch_init, down_init=branch_init),
        residual=Residual(placement="shifted", norm=norm, skip=math.sqrt(2 * depth)),
    )
    return Transformer(
        embed=Embed(vocab=vocab, width=width),
        stack=Stack(groups=(Repeat(depth, (block,)),), norm=norm),
        head=Tied(),
    )


@checked
def chatglm2(*, depth: Size, width: Size, heads: Size, kv_heads: Size, inner: Size, vocab: Size = 65024) -> Transformer:
    """ChatGLM2 of any size; `inner` is the width between the feed-forward matrices."""
    norm, init, key_width = Norm(kind="rms", eps=1e-5), Normal(0.02), width // heads
    block = Block(
        attention=GQA(
            heads=heads,
            kv_heads=kv_heads,
            key_width=key_width,
            rotary=Rotary(width=key_width // 2, pairing="interleaved"),
            bias=True,
            init=init,
            value_init=init,
            out_init=init,
        ),
        ffn=GLU(inner=inner, activation="silu", up_init=init, down_init=init),
        residual=Residual(placement="pre", norm=norm),
    )
    return Transformer(
        embed=Embed(vocab=vocab, width=width),
        stack=Stack(groups=(Repeat(depth, (block,)),), norm=norm),
        head=Untied(init=init),
    )


def _tiny(sizes: Sizes) -> Sizes:
    return {"depth": 3, "width": 40, "heads": 5, "vocab": 256}


def _tiny2(sizes: Sizes) -> Sizes:
    return {"depth": 3, "width": 48, "heads": 6, "kv_heads": 2, "inner": 160, "vocab": 256}


CHATGLM = Family(
    title="ChatGLM",
    year=2023,
    kind="prefix decoder",
    source="THUDM/ChatGLM-6B, modeling_chatglm.py",
    objective="blank infilling, then dialogue with the prefix language model",
    build=chatglm,
    published={"chatglm-6b": {"depth": 28, "width": 4096, "heads": 32}},
    tiny=_tiny,
)

CHATGLM2 = Family(
    title="ChatGLM2",
    year=2023,
    kind="decoder",
    source="THUDM/ChatGLM2-6B, modeling_chatglm.py",
    objective="blank infilling, then dialogue with the causal language model",
    build=chatglm2,
    published={"chatglm2-6b": {"depth": 28, "width": 4096, "heads": 32, "kv_heads": 2, "inner": 13696}},
    tiny=_tiny2,
)
