"""Parameters of published models at their exact size, by shapes alone."""

import jax
import numpy as np
import pytest

import fxformer as fx

PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-33b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-34b": 33_743_970_304,
    "llama2-70b": 68_976_648_192,
}


@pytest.mark.parametrize("name", fx.zoo.names())
def test_a_published_model_has_the_published_number_of_parameters(name):
    """Every name of the zoo has its number here."""
    assert fx.count(fx.zoo.get(name)) == PUBLISHED[name]


@pytest.mark.parametrize("name", fx.zoo.names())
def test_a_tiny_model_counts_what_it_holds(name):
    spec = fx.zoo.tiny(name)
    held = sum(np.asarray(leaf).size for leaf in jax.tree.leaves(fx.init(spec, jax.random.key(0))))
    assert fx.count(spec) == held < 200_000


@pytest.mark.parametrize(
    ("choices", "inner", "parts"),
    [
        ({"norm": "rms"}, 40, {"norm": 24}),
        ({"norm": "layer"}, 40, {"norm": 2 * 24}),
        ({"norm": "none"}, 40, {"norm": 0}),
        ({"kv_heads": 1}, 40, {"norm": 24, "key and value": 2 * 24 * 8}),
        ({"ffn": "glu"}, 40, {"norm": 24, "ffn": 3 * 24 * 40}),
        ({"head": "free"}, 40, {"norm": 24, "head": 24 * 256}),
        ({"position": "learned", "length": 32}, 40, {"norm": 24, "position": 32 * 24}),
        ({"position": "t5"}, 40, {"norm": 24, "bias": 32 * 3}),
        ({"qk_norm": "rms"}, 40, {"norm": 24, "qk": 2 * 8}),
    ],
    ids=str,
)
def test_a_toy_counts_what_its_formulas_add_up_to(choices, inner, parts):
    """Depth 2, width 24, 3 heads of 8, pre-norm: vocabulary, then attention, feed-forward and norms of each block."""
    block = 2 * 24 * 24 + parts.get("key and value", 2 * 24 * 24) + parts.get("ffn", 2 * 24 * inner)
    block += parts.get("qk", 0) + 2 * parts["norm"]
    outside = 256 * 24 + parts.get("head", 0) + parts.get("position", 0) + parts.get("bias", 0) + parts["norm"]
    assert fx.count(fx.zoo.toy(width=24, depth=2, heads=3, inner=inner, **choices)) == outside + 2 * block
