"""LLaMA 1 and 2: pre-RMSNorm, rotary positions, SwiGLU, no biases, an untied head; grouped queries in the large ones.

Touvron et al. 2023a, table 2; Touvron et al. 2023b, table 1; facebookresearch/llama. Rotary pairs are half-split, as
in Hugging Face checkpoints. The initialisation is unpublished; 0.02 is the usual choice.
"""

from fxformer.block import Block
from fxformer.fields import Least, Positive, Size, checked
from fxformer.layers.attention import GQA
from fxformer.layers.embed import Embed
from fxformer.layers.ffn import GLU
from fxformer.layers.head import Untied
from fxformer.layers.norm import Norm
from fxformer.layers.project import Normal
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.ops.mask import Causal, Mask
from fxformer.ops.rotary import Rotary
from fxformer.stack import Repeat, Stack
from fxformer.zoo.family import Family, Sizes, columns


@checked
def llama(
    *,
    depth: Size,
    width: Size,
    heads: Size,
    kv_heads: Size,
    inner: Size,
    vocab: Size = 32000,
    eps: Least = 1e-5,
    base: Positive = 1e4,
    mask: Mask = Causal(),
) -> Transformer:
    """LLaMA of any size; `inner` is the width between the feed-forward matrices. base: of the rotation."""
    norm, init = Norm(kind="rms", eps=eps), Normal(0.02)
    key_width = width // heads
    block = Block(
        attention=GQA(
            heads=heads,
            kv_heads=kv_heads,
            key_width=key_width,
            mask=mask,
            rotary=Rotary(width=key_width, base=base),
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
    grouped = sizes["kv_heads"] < sizes["heads"]
    return {
        "depth": 3,
        "width": 48,
        "heads": 6,
        "kv_heads": 2 if grouped else 6,
        "inner": 104,
        "vocab": 256,
        "eps": sizes["eps"],
    }


_sizes = columns("depth", "width", "heads", "kv_heads", "inner", "eps")

LLAMA = Family(
    title="LLaMA",
    year=2023,
    kind="decoder",
    source="Touvron et al. 2023, LLaMA: Open and Efficient Foundation Language Models",
    objective="causal language model",
    build=llama,
    published={
        "llama-7b": _sizes(32, 4096, 32, 32, 11008, 1e-6),
        "llama-13b": _sizes(40, 5120, 40, 40, 13824, 1e-6),
        "llama-33b": _sizes(60, 6656, 52, 52, 17920, 1e-6),
        "llama-65b": _sizes(80, 8192, 64, 64, 22016, 1e-6),
    },
    tiny=_tiny,
)

LLAMA2 = Family(
    title="LLaMA-2",
    year=2023,
    kind="decoder",
    source="Touvron et al. 2023, Llama 2: Open Foundation and Fine-Tuned Chat Models",
    objective="causal language model",
    build=llama,
    published={
        "llama2-7b": _sizes(32, 4096, 32, 32, 11008, 1e-5),
        "llama2-13b": _sizes(40, 5120, 40, 40, 13824, 1e-5),
        "llama2-34b": _sizes(48, 8192, 64, 8, 22016, 1e-5),
        "llama2-70b": _sizes(80, 8192, 64, 8, 28672, 1e-5),
    },
    tiny=_tiny,
)
