"""Mistral 7B: LLaMA's block with grouped queries and, in the first version, a sliding window.

Jiang et al. 2023, table 1; mistralai/mistral-src. The window is W keys, the query's own included, as in the rolling
cache and in Hugging Face; the mask of the one-file reference lets W + 1 through. Version 0.2 has no window and turns a
hundred times slower (mistralai/Mistral-7B-v0.2). The initialisation is unpublished; 0.02 is the usual choice.
"""

from fxformer.fields import Distance, Positive, Size, checked
from fxformer.model import Transformer
from fxformer.ops.mask import Causal, Window
from fxformer.zoo.family import Family, Sizes
from fxformer.zoo.llama import llama


@checked
def mistral(
    *,
    window: Distance | None,
    base: Positive,
    depth: Size = 32,
    width: Size = 4096,
    heads: Size = 32,
    kv_heads: Size = 8,
    inner: Size = 14336,
    vocab: Size = 32000,
) -> Transformer:
    """Mistral of any size; window: keys that a query sees, None for all up to its own."""
    mask = Causal() if window is None else Window(window)
    return llama(
        depth=depth, width=width, heads=heads, kv_heads=kv_heads, inner=inner, vocab=vocab, base=base, mask=mask
    )


def _tiny(sizes: Sizes) -> Sizes:
    return {
        "window": None if sizes["window"] is None else 7,
        "base": sizes["base"],
        "depth": 3,
        "width": 60,
        "heads": 6,
        "kv_heads": 2,
        "inner": 104,
        "vocab": 256,
    }


MISTRAL = Family(
    title="Mistral",
    year=2023,
    kind="decoder",
    source="Jiang et al. 2023, Mistral 7B",
    objective="causal language model",
    build=mistral,
    published={
        "mistral-7b": {"window": 4096, "base": 1e4},
        "mistral-7b-v0.2": {"window": None, "base": 1e6},
    },
    tiny=_tiny,
)
