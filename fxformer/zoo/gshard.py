"""GShard: a translation model, where every other feed-forward layer sends each token to two of many experts.

Lepikhin et al. 2020, section 2.2 and 4. Certain are width 1024, inner width 8192, 16 heads of 128, the experts without
biases (eq. 3), top-2 routing (algorithm 1), 2048 experts and 36 layers: eighteen layers of experts make 600 billion
parameters, so the layers are those of encoder and decoder together. That each has half of them, that experts come first
in a pair, sinusoids, norms after the sum (figure 3), a tied head and the vocabulary are this page's reading.
"""

import math

from fxformer.block import Block
from fxformer.fields import Least, Size, checked
from fxformer.layers.attention import GQA
from fxformer.layers.embed import Embed, Sinusoidal
from fxformer.layers.ffn import MLP, FFNSpec, MoE
from fxformer.layers.head import Tied
from fxformer.layers.norm import Norm
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.ops.dispatch import Capacity
from fxformer.ops.mask import Causal, Full, Mask
from fxformer.ops.route import GShard
from fxformer.stack import Repeat, Stack
from fxformer.zoo.family import Family, Sizes, pairs


@checked
def gshard(
    *,
    depth: Size,
    experts: Size,
    width: Size = 1024,
    heads: Size = 16,
    key_width: Size = 128,
    inner: Size = 8192,
    capacity: Least = 1.0,
    placement: str = "post",
    vocab: Size = 64_000,
) -> Transformer:
    """GShard of any size: `depth` layers in the encoder and in the decoder; the first of each pair has experts.

    capacity: 1.0 gives each expert 2 S / E places for a row of S tokens. placement: of the norms.
    """
    norm = Norm(kind="layer", eps=1e-6, bias=True)
    dense = MLP(inner=inner, activation="relu")
    moe = MoE(experts=experts, expert=dense, router=GShard(), dispatch=Capacity(factor=capacity), per_row=True)

    def attention(mask: Mask) -> GQA:
        return GQA(heads=heads, kv_heads=heads, key_width=key_width, mask=mask)

    def stack(mask: Mask, cross: GQA | None) -> Stack:
        def block(ffn: FFNSpec) -> Block:
            residual = Residual(placement=placement, norm=norm)
            return Block(attention=attention(mask), cross=cross, ffn=ffn, residual=residual)

        return Stack(groups=(Repeat(pairs(depth), (block(moe), block(dense))),), norm=norm)

    return Transformer(
        embed=Embed(vocab=vocab, width=width, position=Sinusoidal(), scale=math.sqrt(width)),
        encoder=stack(Full(), None),
        stack=stack(Causal(), attention(Full())),
        head=Tied(),
    )


def _tiny(sizes: Sizes) -> Sizes:
    """Room for every token, so that reading in parts is reading at once: what is dropped depends on the rest."""
    sizes = {"depth": 4, "experts": 5, "width": 40, "heads": 6, "key_width": 8, "inner": 44, "capacity": 2.5}
    return {**sizes, "vocab": 256}


GSHARD = Family(
    title="GShard",
    year=2020,
    kind="encoder-decoder",
    source="Lepikhin et al. 2020, GShard: Scaling Giant Models with Conditional Computation and Automatic Sharding",
    objective="translation: the target's causal language model given the source, many languages to English",
    build=gshard,
    published={"gshard-600b": {"depth": 18, "experts": 2048}},
    tiny=_tiny,
)
