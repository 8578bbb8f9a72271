"""The models that laws are quantified over: every published one at toy widths, and a toy for each entry of each table.

A new entry of a table is tested by existing.
"""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import fxformer as fx
from fxformer import zoo
from fxformer.layers.embed import Free
from fxformer.layers.ffn import GLU
from fxformer.layers.norm import Norm
from fxformer.layers.residual import PLACEMENTS
from fxformer.model import abstract_params
from fxformer.ops.activation import ACTIVATIONS
from fxformer.ops.mask import Blocks, Mask, Strided, Window
from fxformer.ops.norm import NORMS
from fxformer.ops.rotary import NTK, Linear, Llama3, Scaling, YaRN
from fxformer.stack import Repeat
from fxformer.zoo.toy import FFNS, HEADS, POSITIONS

BASE = {"width": 24, "depth": 2, "heads": 3, "inner": 40, "length": 32}
VARIANTS = {
    "placement": tuple(PLACEMENTS),
    "norm": tuple(NORMS),
    "position": tuple(POSITIONS),
    "activation": tuple(ACTIVATIONS),
    "ffn": tuple(FFNS),
    "head": tuple(HEADS),
    "qk_norm": tuple(NORMS),
    "kv_heads": (1, 3),
    "softcap": (2.0,),
    "window": (3, 13),
    "residual_scale": (1.7,),
}
SCALED: dict[type, Scaling] = {
    Linear: Linear(factor=3.0),
    NTK: NTK(factor=4.0),
    YaRN: YaRN(factor=8.0, original_length=64, fast=2.0, slow=0.5),
    Llama3: Llama3(factor=8.0, original_length=64),
}


def toy(**choices) -> fx.Transformer:
    """The toy that differs from the base in `choices`."""
    return zoo.toy(**{**BASE, **choices})


def unique(named: dict[str, fx.Transformer]) -> dict[str, fx.Transformer]:
    """Each structure once, under its first name."""
    first = {spec: name for name, spec in reversed(named.items())}
    return {name: spec for name, spec in named.items() if first[spec] == name}


def specs() -> dict[str, fx.Transformer]:
    """Name -> spec: the zoo, and what the toy factory can choose."""
    named = {name: zoo.tiny(name) for name in zoo.names()}
    for name, values in VARIANTS.items():
        named |= {f"{name}={value}": toy(**{name: value}) for value in values}
    return unique(named)


def with_groups(spec: fx.Transformer, *groups: Repeat) -> fx.Transformer:
    """The same model with another depth pattern."""
    return replace(spec, stack=replace(spec.stack, groups=groups))


def with_attention(spec: fx.Transformer, **changes) -> fx.Transformer:
    """The same model of one repeated block with another attention."""
    (group,) = spec.stack.groups
    (block,) = group.blocks
    block = replace(block, attention=replace(block.attention, **changes))
    return with_groups(spec, replace(group, blocks=(block,)))


def with_mask(spec: fx.Transformer, mask: Mask) -> fx.Transformer:
    """The same model with another mask."""
    return with_attention(spec, mask=mask)


def written() -> dict[str, fx.Transformer]:
    """Name -> spec: decoders that can be written down though no factory makes them yet."""
    base = toy()
    (block,) = base.stack.groups[0].blocks
    local = replace(block, attention=replace(block.attention, mask=Window(3)), ffn=GLU(inner=17, activation="silu"))
    rotary = block.attention.rotary
    named = {
        "tied": with_groups(base, Repeat(3, (block,), tied=True)),
        "pattern": with_groups(base, Repeat(2, (block, local))),
        "groups": with_groups(base, Repeat(1, (local,)), Repeat(2, (block,))),
        "mask=strided": with_mask(base, Strided(3) | Window(2)),
        "mask=blocks": with_mask(base, Blocks(4)),
        "rotary=partial": with_attention(base, rotary=replace(rotary, width=4, base=50.0)),
        "attention=wide": with_attention(base, heads=4, kv_heads=2, key_width=10, scale=0.4, bias=True, out_bias=True),
        "embed=normed": replace(base, embed=replace(base.embed, norm=Norm(kind="layer", bias=True))),
        "head=biased": replace(base, head=Free(bias=True)),
    }
    named |= {
        f"scaling={kind.__name__}": with_attention(base, rotary=replace(rotary, base=50.0, scaling=scaling))
        for kind, scaling in SCALED.items()
    }
    return named


SPECS = specs()
STRUCTURES = unique(SPECS | written())


def attentions(named: dict[str, fx.Transformer]) -> list[str]:
    """The first name of each different way to attend: masks, groups of heads, logits, bias and depth pattern."""
    first: dict[tuple, str] = {}
    for name, spec in named.items():
        pattern = tuple((group.n > 1, group.tied, len(group.blocks)) for group in spec.stack.groups)
        kinds = tuple(
            (a.mask, a.heads == a.kv_heads, a.kv_heads == 1, a.softcap, a.scale, a.qk_norm is None)
            for a in (block.attention for group in spec.stack.groups for block in group.blocks)
        )
        first.setdefault((pattern, kinds, type(spec.stack.bias)), name)
    return list(first.values())


def disturbed(spec: fx.Transformer, seed: int = 1) -> fx.model.Params:
    """Random parameters of about their initial size, so that no gain is one, no bias zero and no path silent."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        centre, deviation = {"scale": (1.0, 0.2), "bias": (0.0, 0.2)}.get(path[-1].key, (0.0, 0.3))
        return jnp.asarray(centre + deviation * rng.normal(size=leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, nn.meta.unbox(abstract_params(spec)))


def tokens_of(spec: fx.Transformer, batch: int, length: int, seed: int = 2) -> np.ndarray:
    """Tokens [batch, length], no two of a row alike."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(spec.embed.vocab)[:length] for _ in range(batch)]).astype(np.int32)
