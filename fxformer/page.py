"""A model on one page: its spec, the formula of each part, and what it costs."""

from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Any

import jax

from fxformer import accounting
from fxformer.given import position_limit
from fxformer.layers.bias import ALiBi, Buckets
from fxformer.layers.embed import Learned, LearnedPair, Sinusoidal
from fxformer.layers.ffn import GLU, MLP, MoE
from fxformer.layers.norm import Norm
from fxformer.layers.residual import PLACEMENTS, Residual
from fxformer.ops.activation import ACTIVATIONS
from fxformer.ops.norm import NORMS
from fxformer.ops.rotary import Rotary, rotate
from fxformer.ops.route import ROUTERS
from fxformer.transformer import Transformer
from fxformer.walk import parts
from fxformer.written import listing, python

LENGTH = 2048  # tokens that FLOPs are stated at, where a model has no limit of its own
SPOKEN = {Rotary: rotate}  # specs whose formula stands at a function


def describe(value: Any) -> str:
    """Of a spec everything on one page; of parameters, a cache, an output or any tree each array and its shape."""
    return PAGES.get(type(value), _tree)(value)


def page(spec: Transformer, length: int | None = None) -> str:
    """The spec as Python, the formula of each different part, parameters, FLOPs and memory.

    FLOPs are those of a sequence of `length` tokens; None is as many as it has positions for, or 2048.
    """
    lines = [python(spec), "", *(f"{part:<16}  {formula}" for part, formula in _formulas(spec)), ""]
    costs = _costs(spec, length or position_limit(spec) or LENGTH)
    return "\n".join([*lines, *(f"{title:<16}  {value}" for title, value in costs.items())])


def _costs(spec: Transformer, length: int) -> dict[str, str]:
    full, causal = accounting.flops(spec, length), accounting.flops(spec, length, causal=True)
    inference, training = _size(accounting.inference_bytes(spec)), _size(accounting.training_bytes(spec))
    return {
        "parameters": f"{accounting.count(spec):,}",
        "FLOPs per token": f"{full:.4g} forward at {length} tokens, {causal:.4g} if future keys are skipped",
        "cache per token": f"{accounting.cache_bytes(spec):,} bytes in 16 bits",
        "memory": f"{inference} in 16 bits, {training} to train with Adam",
    }


def _size(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.2f} MB"


PAGES: dict[type, Callable[[Any], str]] = {Transformer: page}


def _tree(value: Any) -> str:
    """A spec that is no whole model is no tree of arrays."""
    alone = is_dataclass(value) and jax.tree.leaves(value) == [value]
    return python(value) if alone else listing(value)


def _formulas(spec: Transformer) -> Iterator[tuple[str, str]]:
    """The first line of what documents each different part."""
    stacks = (spec.stack,) if spec.encoder is None else (spec.encoder, spec.stack)
    said = [
        *(("placement", line) for residual in parts(stacks, Residual) for line in _joins(residual)),
        *(("norm", _first_line(NORMS[norm.kind])) for norm in parts(spec, Norm)),
        *(("position", _first_line(SPOKEN.get(type(position), type(position)))) for position in positions(spec)),
    ]
    for block in (block for stack in stacks for block in stack.blocks):
        said.append(("attention", _first_line(type(block.attention))))
        said.append(("mask", _first_line(type(block.attention.mask))))
        said.append(("feed-forward", _first_line(type(block.ffn))))
    said += [("router", _first_line(ROUTERS[type(moe.router)])) for moe in parts(spec, MoE)]
    dense: tuple[MLP | GLU, ...] = (*parts(spec, MLP), *parts(spec, GLU))
    said += [("activation", _first_line(ACTIVATIONS[ffn.activation])) for ffn in dense]
    said += [("head", _first_line(type(spec.head)))]
    said += [(name, _first_line(type(part))) for name, part in _extras(spec) if part is not None]
    last = ""
    for name, line in sorted(dict.fromkeys(said), key=lambda pair: [name for name, _ in said].index(pair[0])):
        yield "" if name == last else name, line
        last = name


def _joins(residual: Residual) -> tuple[str, ...]:
    placement = PLACEMENTS[residual.placement]
    return _first_line(placement.attention), _first_line(placement.ffn)


def _extras(spec: Transformer) -> tuple[tuple[str, Any], ...]:
    return ("pooler", spec.pooler), ("multi-token prediction", spec.mtp)


def _first_line(documented: Any) -> str:
    return documented.__doc__.strip().splitlines()[0]


def positions(spec: Transformer) -> tuple[Any, ...]:
    """What fills the three places where position acts: embedding, queries and keys, logits."""
    kinds = (Sinusoidal, Learned, LearnedPair, Rotary, Buckets, ALiBi)
    return tuple(dict.fromkeys(part for kind in kinds for part in parts(spec, kind)))
