"""The models that laws are quantified over: every published one at toy widths, and a toy for each entry of each table.

A new entry of a table is tested by existing. Published models obey the laws of `fxformer.verify`; toys, which are
quicker to compile, those and more.
"""

import re
from dataclasses import replace

import flax.linen as nn
import numpy as np

import fxformer as fx
from fxformer import zoo
from fxformer.layers.attention import GQA, MLA, AttentionSpec, Differential
from fxformer.layers.attention.indexer import Indexer
from fxformer.layers.bias import Buckets
from fxformer.layers.ffn import GLU, MoE
from fxformer.layers.head import HeadSpec, Labels, Span, Tied, Untied
from fxformer.layers.norm import Norm
from fxformer.layers.residual import PLACEMENTS
from fxformer.model import Params, abstract_params
from fxformer.ops.activation import ACTIVATIONS
from fxformer.ops.dispatch import Capacity
from fxformer.ops.mask import Blocks, Mask, Prefix, Strided, Window
from fxformer.ops.norm import NORMS
from fxformer.ops.rotary import NTK, Dynamic, Linear, Llama3, Rotary, Scaling, YaRN
from fxformer.stack import Repeat
from fxformer.verify import LAWS, lawful
from fxformer.walk import parts
from fxformer.zoo.toy import ATTENTIONS, FFNS, GATES, HEADS, MASKS, POSITIONS, TALKING

BASE = {"width": 24, "depth": 2, "heads": 3, "inner": 40, "length": 32}
VARIANTS = {
    "placement": tuple(PLACEMENTS),
    "norm": tuple(NORMS),
    "position": tuple(POSITIONS),
    "activation": tuple(ACTIVATIONS),
    "ffn": tuple(FFNS),
    "head": tuple(HEADS),
    "attention": tuple(ATTENTIONS),
    "mask": tuple(MASKS),
    "qk_norm": tuple(NORMS),
    "kv_heads": (1, 3),
    "softcap": (2.0,),
    "gate": tuple(GATES),
    "talking_heads": tuple(TALKING),
    "value_residual": (0.4,),
    "window": (3, 13),
    "residual_scale": (1.7,),
    "layer_scale": (0.1,),
    "stochastic_depth": (0.5,),
    "memory_tokens": (3,),
}
SCALED: dict[type, Scaling] = {
    Linear: Linear(factor=3.0),
    NTK: NTK(factor=4.0),
    Dynamic: Dynamic(factor=2.5, original_length=64),
    YaRN: YaRN(factor=8.0, original_length=64, fast=2.0, slow=0.5),
    Llama3: Llama3(factor=8.0, original_length=64),
}
# Heads that no toy chooses: what they say is not of tokens.
SAYING: dict[type, HeadSpec] = {Labels: Labels(labels=5), Span: Span()}


def toy(**choices) -> fx.Transformer:
    """The toy that differs from the base in `choices`."""
    return zoo.toy(**{**BASE, **choices})


def unique(named: dict[str, fx.Transformer]) -> dict[str, fx.Transformer]:
    """Each structure once, under its first name."""
    first = {spec: name for name, spec in reversed(named.items())}
    return {name: spec for name, spec in named.items() if first[spec] == name}


def toys() -> dict[str, fx.Transformer]:
    """Name -> spec: what the toy factory can choose, one choice at a time."""
    return unique({f"{name}={value}": toy(**{name: value}) for name, values in VARIANTS.items() for value in values})


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
    rotary, rms, offset = block.attention.rotary, Norm(kind="rms"), Norm(kind="rms", offset=1.0)
    latent = toy(attention="mla")
    index = Indexer(heads=5, width=6, keep=3, rotary=Rotary(width=4))
    crowded = replace(toy(ffn="moe").stack.blocks[0].ffn, dispatch=Capacity(factor=1.1, least=1))
    named = {
        "tied": with_groups(base, Repeat(3, (block,), tied=True)),
        "pattern": with_groups(base, Repeat(2, (block, local))),
        "groups": with_groups(base, Repeat(1, (local,)), Repeat(2, (block,))),
        "mask=strided": with_mask(base, Strided(3) | Window(2)),
        "mask=blocks": with_mask(base, Blocks(4)),
        "rotary=partial": with_attention(base, rotary=replace(rotary, width=4, base=50.0)),
        "attention=wide": with_attention(base, heads=4, kv_heads=2, key_width=10, scale=0.4, bias=True, out_bias=True),
        "embed=normed": replace(base, embed=replace(base.embed, norm=Norm(kind="layer", bias=True))),
        "head=biased": replace(base, head=Untied(bias=True)),
        "head=capped": replace(base, head=Tied(scale=0.5, softcap=3.0)),
        **{f"head={kind.__name__.lower()}": replace(base, head=head) for kind, head in SAYING.items()},
        "attention=sinks": with_attention(base, sinks=True, head_gains=True, out_bias=True),
        "attention=normed": with_attention(
            base, qk_norm=rms, joint_norm=True, value_norm=rms, out_norm=Norm(kind="layer", bias=True)
        ),
        "attention=relative": with_attention(base, relative=Buckets(heads=3, count=8, max_distance=20)),
        "attention=sparse": with_attention(latent, query_latent=14, index=index),
        "memory=buckets": toy(memory_tokens=2, position="t5", window=4),
        "memory=reading": toy(memory_tokens=2, position="alibi", mask="full"),
        "ffn=normed": with_groups(base, Repeat(2, (replace(block, ffn=replace(block.ffn, inner_norm=rms)),))),
        "ffn=crowded": with_groups(base, Repeat(2, (replace(block, ffn=crowded),))),
        "norm=offset": with_groups(base, Repeat(2, (replace(block, residual=replace(block.residual, norm=offset)),))),
    }
    named |= {
        f"scaling={kind.__name__}": with_attention(base, rotary=replace(rotary, base=50.0, scaling=scaling))
        for kind, scaling in SCALED.items()
    }
    return named


TOYS = toys()
STRUCTURES = unique(TOYS | written())
PUBLISHED = unique({name: lawful(zoo.tiny(name)) for name in zoo.names()})


def apart(named: dict[str, fx.Transformer]) -> dict[str, fx.Transformer]:
    """Those whose tokens do not meet in a norm, in memory tokens or in the queue before an expert.

    Laws of influence are for them.
    """
    return {
        name: spec
        for name, spec in named.items()
        if LAWS["packed documents are apart"].concerns(spec) and not any(parts(spec, Capacity))
    }


def cacheable(named: dict[str, fx.Transformer]) -> dict[str, fx.Transformer]:
    """Those of them that can be read piece by piece."""
    return {
        name: spec
        for name, spec in apart(named).items()
        if not any(b.attention.mask.bidirectional for b in spec.stack.blocks)
    }


def attentions(named: dict[str, fx.Transformer]) -> list[str]:
    """The first name of each different way in which tokens meet: masks, kinds of heads, experts, depth pattern."""
    first: dict[tuple, str] = {}
    for name, spec in named.items():
        pattern = tuple((group.n > 1, group.tied, len(group.blocks)) for group in spec.stack.groups)
        first.setdefault((pattern, *ways(spec), spec.encoder is None), name)
    return list(first.values())


def unlike(named: dict[str, fx.Transformer], others: dict[str, fx.Transformer]) -> list[str]:
    """The names among those of `attentions` with a way in which no tokens of `others` meet."""
    met = {way for spec in others.values() for way in ways(spec)}
    return [name for name in attentions(named) if not set(ways(named[name])) <= met]


def ways(spec: fx.Transformer) -> list[tuple]:
    """What tells one block from another where tokens meet, and stacks by their bias, sizes aside."""
    blocks = [(*way(block.attention), block.cross is None, type(block.ffn) is MoE) for block in spec.stack.blocks]
    return [*blocks, (type(spec.stack.bias),)]


def way(attention: AttentionSpec) -> tuple:
    """What tells one attention from another, sizes aside."""
    mask = re.sub(r"\d+", "", str(attention.mask))
    if type(attention) is MLA:
        return MLA, mask, attention.query_latent is None, attention.index is None
    if type(attention) is Differential:
        return Differential, mask
    heads = attention.heads == attention.kv_heads, attention.kv_heads == 1
    given = attention.softcap, attention.scale, attention.qk_norm, attention.relative
    talks = attention.mix_logits, attention.mix_weights, attention.value_residual is None
    return GQA, mask, *heads, *(value is None for value in given), attention.sinks, *talks


def kinds(named: dict[str, fx.Transformer]) -> list[str]:
    """The names that have some part that none before them has: what laws are tried on where they take long."""
    chosen, met = [], set()
    for name, spec in named.items():
        attentions = [block.attention for block in spec.stack.blocks]
        has = {(way(attention)[0], attention.mask.reach is None) for attention in attentions}
        has |= {type(part).__name__ for part in parts(spec, (MoE, Indexer, Prefix))} | {spec.encoder is None}
        if not has <= met:
            chosen.append(name)
            met |= has
    return chosen


def shapes_of(spec: fx.Transformer) -> Params:
    """What `init` would make, as shapes."""
    return nn.meta.unbox(abstract_params(spec))


def tokens_of(spec: fx.Transformer, batch: int, length: int, seed: int = 2) -> np.ndarray:
    """Tokens [batch, length], no two of a row alike."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(spec.embed.vocab)[:length] for _ in range(batch)]).astype(np.int32)
