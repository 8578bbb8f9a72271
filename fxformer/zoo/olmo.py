"""OLMo 2: norms on what leaves each sublayer, none on what enters, and one norm over all heads of queries and keys.

OLMo Team 2024, section 2.1 and table 2; allenai/OLMo-2 for the 1B and the 32B of 2025, which has grouped queries.
"""

from fxformer.block import Block
from fxformer.fields import Size, checked
from fxformer.layers.attention import GQA
from fxformer.layers.embed import Embed
from fxformer.layers.ffn import GLU
from fxformer.layers.head import Untied
from fxformer.layers.norm import Norm
from fxformer.layers.project import Normal
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.ops.rotary import Rotary
from fxformer.stack import Repeat, Stack
from fxformer.zoo.family import Family, Sizes, columns


@checked
def olmo2(*, depth: Size, width: Size, heads: Size, kv_heads: Size, inner: Size, vocab: Size = 100_352) -> Transformer:
    """OLMo 2 of any size."""
    norm, init = Norm(kind="rms", eps=1e-6), Normal(0.02)
    key_width = width // heads
    block = Block(
        attention=GQA(
            heads=heads,
            kv_heads=kv_heads,
            key_width=key_width,
            rotary=Rotary(width=key_width, base=5e5),
            qk_norm=norm,
            joint_norm=True,
            init=init,
            value_init=init,
            out_init=init,
        ),
        ffn=GLU(inner=inner, activation="silu", up_init=init, down_init=init),
        residual=Residual(placement="output", norm=norm),
    )
    return Transformer(
        embed=Embed(vocab=vocab, width=width, init=init),
        stack=Stack(groups=(Repeat(depth, (block,)),), norm=norm),
        head=Untied(init=init),
    )


def _tiny(sizes: Sizes) -> Sizes:
    grouped = sizes["kv_heads"] < sizes["heads"]
    return {"depth": 3, "width": 60, "heads": 6, "kv_heads": 2 if grouped else 6, "inner": 104, "vocab": 256}


_sizes = columns("depth", "width", "heads", "kv_heads", "inner")

OLMO2 = Family(
    title="OLMo 2",
    year=2024,
    kind="decoder",
    source="OLMo Team 2024, 2 OLMo 2 Furious",
    objective="causal language model, with a z-loss",
    build=olmo2,
    published={
        "olmo2-1b": _sizes(16, 2048, 16, 16, 8192),
        "olmo2-7b": _sizes(32, 4096, 32, 32, 11008),
        "olmo2-13b": _sizes(40, 5120, 40, 40, 13824),
        "olmo2-32b": _sizes(64, 5120, 40, 8, 27648),
    },
    tiny=_tiny,
)
