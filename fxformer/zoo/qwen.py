"""Qwen 3, dense: grouped queries with a norm on each head of queries and keys; small sizes tie the head.

Yang et al. 2025, section 2 and table 1; Qwen/Qwen3 for the widths. Heads have 128 channels whatever the width of the
stream. The initialisation is unpublished; 0.02 is the usual choice.
"""

from fxformer.block import Block
from fxformer.fields import Size, checked
from fxformer.layers.attention import GQA
from fxformer.layers.embed import Embed
from fxformer.layers.ffn import GLU
from fxformer.layers.head import Tied, Untied
from fxformer.layers.norm import Norm
from fxformer.layers.project import Normal
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.ops.rotary import Rotary
from fxformer.stack import Repeat, Stack
from fxformer.zoo.family import Family, Sizes, columns


@checked
def qwen3(
    *,
    depth: Size,
    width: Size,
    heads: Size,
    inner: Size,
    tied: bool,
    kv_heads: Size = 8,
    key_width: Size = 128,
    vocab: Size = 151_936,
) -> Transformer:
    """Qwen 3 of any size; tied: the head is the embedding's table."""
    norm, init = Norm(kind="rms", eps=1e-6), Normal(0.02)
    block = Block(
        attention=GQA(
            heads=heads,
            kv_heads=kv_heads,
            key_width=key_width,
            rotary=Rotary(width=key_width, base=1e6),
            qk_norm=norm,
            init=init,
            value_init=init,
            out_init=init,
        ),
        ffn=GLU(inner=inner, activation="silu", up_init=init, down_init=init),
        residual=Residual(placement="pre", norm=norm),
    )
    return Transformer(
        embed=Embed(vocab=vocab, width=width, init=init),
        stack=Stack(groups=(Repeat(depth, (block,)),), norm=norm),
        head=Tied() if tied else Untied(init=init),
    )


def _tiny(sizes: Sizes) -> Sizes:
    return {
        "depth": 3,
        "width": 48,
        "heads": 6,
        "kv_heads": 2,
        "key_width": 10,
        "inner": 104,
        "tied": sizes["tied"],
        "vocab": 256,
    }


_sizes = columns("depth", "width", "heads", "inner", "tied")

QWEN3 = Family(
    title="Qwen 3",
    year=2025,
    kind="decoder",
    source="Yang et al. 2025, Qwen3 Technical Report",
    objective="causal language model",
    build=qwen3,
    published={
        "qwen3-0.6b": _sizes(28, 1024, 16, 3072, True),
        "qwen3-1.7b": _sizes(28, 2048, 16, 6144, True),
        "qwen3-4b": _sizes(36, 2560, 32, 9728, True),
        "qwen3-8b": _sizes(36, 4096, 32, 12288, False),
        "qwen3-14b": _sizes(40, 5120, 40, 17408, False),
        "qwen3-32b": _sizes(64, 5120, 64, 25600, False),
    },
    tiny=_tiny,
)
