"""Mixtral: Mistral's block with eight experts, of which each token passes two.

Jiang et al. 2024, section 2 and table 1; the 8x22B of mistralai/Mixtral-8x22B-v0.1. Weights are a softmax over the two
chosen logits. No token is dropped, and there is no window. The initialisation is unpublished; 0.02 is the usual choice.
"""

from fxformer.fields import Size, checked
from fxformer.layers.ffn import GLU, MoE
from fxformer.model import Transformer
from fxformer.ops.route import TopK
from fxformer.walk import parts, replaced
from fxformer.zoo.family import Family, Sizes
from fxformer.zoo.llama import llama


@checked
def mixtral(
    *,
    depth: Size,
    width: Size,
    heads: Size,
    inner: Size,
    kv_heads: Size = 8,
    experts: Size = 8,
    vocab: Size = 32000,
) -> Transformer:
    """Mixtral of any size; `inner` is the width between the matrices of one expert."""
    dense = llama(depth=depth, width=width, heads=heads, kv_heads=kv_heads, inner=inner, vocab=vocab, base=1e6)
    (expert,) = set(parts(dense, GLU))
    moe = MoE(experts=experts, expert=expert, router=TopK(k=2, renormalise=True), router_init=expert.up_init)
    return replaced(dense, GLU, moe)


def _tiny(sizes: Sizes) -> Sizes:
    return {"depth": 4, "width": 48, "heads": 6, "kv_heads": 3, "experts": 5, "inner": 28, "vocab": 256}


MIXTRAL = Family(
    title="Mixtral",
    year=2024,
    kind="decoder",
    source="Jiang et al. 2024, Mixtral of Experts",
    objective="causal language model",
    build=mixtral,
    published={
        "mixtral-8x7b": {"depth": 32, "width": 4096, "heads": 32, "inner": 14336},
        "mixtral-8x22b": {"depth": 56, "width": 6144, "heads": 48, "inner": 16384},
    },
    tiny=_tiny,
)
