"""A handful of structures that together have every entry of every table, for `make quick`.

Toys take one choice on every axis from its table, the first toy the first of each, the second the second, and so on;
of these, of published models and of what can only be written down, those are taken that add the most entries.
A new entry of a table is among them by existing.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import fxformer as fx
from fxformer.layers import bias, embed, head
from fxformer.layers.attention import ATTENTION
from fxformer.layers.ffn import FFN, GLU, MLP
from fxformer.layers.norm import Norm
from fxformer.layers.residual import PLACEMENTS, Residual
from fxformer.ops import ACTIVATIONS, DISPATCHES, NORMS, PAIRINGS, ROUTERS, SCALINGS, Mask, Rotary
from fxformer.walk import parts
from fxformer.zoo.toy import ATTENTIONS, FFNS, HEADS, MASKS, POSITIONS
from tests.laws.specs import PUBLISHED, SAYING, SCALED, STRUCTURES, toy, with_attention

MASK_KINDS = {kind for kind in vars(fx.ops).values() if inspect.isclass(kind) and issubclass(kind, Mask)} - {Mask}
TYPED: dict[str, Iterable[type]] = {  # tables of what is chosen by its type
    "ATTENTION": ATTENTION, "FFN": FFN, "BIASES": bias.BIASES, "POSITIONS": embed.POSITIONS, "HEADS": head.HEADS,
    "SCALINGS": SCALINGS, "ROUTERS": ROUTERS, "DISPATCHES": DISPATCHES, "masks": MASK_KINDS,
}  # fmt: skip
NAMED: dict[str, tuple[Mapping[str, Any], Callable[[fx.Transformer], set[str]]]] = {  # and by a name in some spec
    "NORMS": (NORMS, lambda spec: {norm.kind for norm in parts(spec, Norm)}),
    "ACTIVATIONS": (ACTIVATIONS, lambda spec: {layer.activation for layer in parts(spec, (MLP, GLU))}),
    "PLACEMENTS": (PLACEMENTS, lambda spec: {residual.placement for residual in parts(spec, Residual)}),
    "PAIRINGS": (PAIRINGS, lambda spec: {rotary.pairing for rotary in parts(spec, Rotary)}),
}
EVERY = {(table, kind) for table, kinds in TYPED.items() for kind in kinds}
EVERY |= {(table, name) for table, (names, _) in NAMED.items() for name in names}
AXES = {
    "placement": PLACEMENTS,
    "norm": NORMS,
    "position": POSITIONS,
    "activation": ACTIVATIONS,
    "ffn": FFNS,
    "head": HEADS,
    "mask": MASKS,
    "attention": ATTENTIONS,
}


def entries(spec: fx.Transformer) -> set[tuple[str, Any]]:
    """(table, entry) of all that a model has."""
    kinds = {type(part) for part in parts(spec, object)}
    typed = {(table, kind) for table, those in TYPED.items() for kind in kinds & set(those)}
    return typed | {(table, name) for table, (_, named) in NAMED.items() for name in named(spec)}


def mixed() -> dict[str, fx.Transformer]:
    """As many toys as the longest table has entries; rotations are scaled in turn, and latent keys are rotated.

    The last of them have the heads that no toy chooses.
    """
    scalings, heads, toys = list(SCALED.values()), list(SAYING.values()), {}
    most = max(map(len, AXES.values()))
    for i in range(most):
        choices = {axis: list(table)[i % len(table)] for axis, table in AXES.items()}
        if choices["attention"] == "mla" and "rotary" not in POSITIONS[choices["position"]](32, 3, 8):
            choices["attention"] = "gqa"
        spec = toy(**choices)
        rotary = spec.stack.blocks[0].attention.rotary
        if rotary is not None and rotary.streams == 1:
            spec = with_attention(spec, rotary=replace(rotary, scaling=scalings.pop()))
            scalings = scalings or list(SCALED.values())
        if i + len(SAYING) >= most:
            spec = replace(spec, head=heads.pop())
        toys[" ".join(choices.values())] = spec
    return toys


def covering(candidates: Mapping[str, fx.Transformer]) -> dict[str, fx.Transformer]:
    """Of the candidates those that add the most to the ones before, until nothing is added."""
    left, chosen = set(EVERY), {}
    while gains := {name: len(entries(spec) & left) for name, spec in candidates.items() if entries(spec) & left}:
        best = max(gains, key=gains.__getitem__)
        chosen[best] = candidates[best]
        left -= entries(candidates[best])
    return chosen


HANDFUL = covering({**mixed(), **PUBLISHED, **STRUCTURES})
