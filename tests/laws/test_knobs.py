"""No inert knobs: every field of every spec changes the parameter tree, the initial values or the program."""

import functools
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters.partial_eval import dce_jaxpr

import fxformer as fx
from fxformer.layers.attention import GQA, MLA, Differential
from fxformer.layers.attention.gqa import GATES
from fxformer.layers.attention.indexer import Indexer
from fxformer.layers.bias import ALiBi, Buckets
from fxformer.layers.embed import Learned, LearnedPair, Sinusoidal
from fxformer.layers.ffn import GLU, MLP, MoE
from fxformer.layers.head import Labels, Span, Tied, Untied
from fxformer.layers.norm import Norm
from fxformer.layers.project import FanIn, Normal, Truncated
from fxformer.layers.residual import PLACEMENTS
from fxformer.ops.activation import ACTIVATIONS
from fxformer.ops.dispatch import Capacity, Dropless
from fxformer.ops.mask import Causal, Mask, Window
from fxformer.ops.norm import NORMS
from fxformer.ops.rotary import PAIRINGS, SCALINGS, Linear, Rotary
from fxformer.ops.route import TopK
from fxformer.stack import Stack
from tests.laws.specs import STRUCTURES

LENGTH = 9
NAMES = {"kind": NORMS, "placement": PLACEMENTS, "activation": ACTIVATIONS, "pairing": PAIRINGS, "gate": GATES}
ABSENT = {  # what a field that is None could be instead
    "rotary": Rotary(width=4),
    "scaling": Linear(factor=2.0),
    **dict.fromkeys(("qk_norm", "value_norm", "out_norm", "inner_norm"), Norm(kind="rms")),
    "key_init": Normal(0.7),
    "relative": Buckets(heads=3),
    "alpha": 0.3,
    "limit": 0.2,
    "factor": 14,
    "query_latent": 14,
    "shared": MLP(inner=9, activation="relu"),
    "index": None,  # it needs a query latent: see the structure that has both
    "pooler": None,  # what they say stands beside the logits: see tests/test_hf_encoders.py
    "mtp": None,
    "encoder": None,  # each needs the other: see the tests of bad input
    "cross": None,
    "softcap": 3.0,
    "layer_scale": 0.1,
    "gate": "head",
    "value_residual": 0.4,
    "scale": 0.3,
    "position": Sinusoidal(),
    "norm": Norm(kind="layer"),
    "bias": ALiBi(heads=3),
}
OTHERS = {  # what one of several kinds could be instead; a part of one kind only is spoken for by its fields
    FanIn: Normal(0.7),
    Normal: FanIn(0.7),
    MLP: GLU(inner=9, activation="silu"),
    GLU: MLP(inner=9, activation="relu"),
    Truncated: Normal(0.7),
    Tied: Untied(),
    Untied: Tied(),
    **dict.fromkeys((Labels, Span), Tied()),
    Sinusoidal: Learned(limit=64),
    Learned: Sinusoidal(),
    LearnedPair: Sinusoidal(),
    MoE: MLP(inner=9, activation="relu"),
    Dropless: Capacity(factor=0.5, least=1),
    Capacity: Dropless(),
    **dict.fromkeys((MLA, Differential), GQA(heads=3, kv_heads=3, key_width=4)),
    **dict.fromkeys((Buckets, ALiBi, Rotary, Indexer, TopK, *SCALINGS)),
}
# A field may be idle beside another choice, if this says so.
IDLE = (
    lambda spec, path: path[:2] == ("stack", "norm") and spec.stack.placement in ("post", "rezero"),  # it leaves as is
    lambda spec, path: path[-2:-1] == ("norm",) and "residual" in path and spec.stack.placement == "rezero",
    lambda spec, path: path[-1] == "eps" and at(spec, path[:-1]).kind in ("none", "dyt"),  # these divide by nothing
)


def at(value: Any, path: tuple) -> Any:
    for step in path:
        value = value[step] if isinstance(step, int) else getattr(value, step)
    return value


def put(value: Any, path: tuple, new: Any) -> Any:
    """The spec with another value at `path`, everything on the way there rebuilt and checked again."""
    if not path:
        return new
    step, rest = path[0], path[1:]
    inner = put(at(value, (step,)), rest, new)
    if isinstance(step, int):
        return (*value[:step], inner, *value[step + 1 :])
    return replace(value, **{step: inner})


def knobs(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every field of every dataclass in a spec."""
    if isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from knobs(item, (*path, i))
    if is_dataclass(value):
        for field in fields(value):
            yield (*path, field.name)
            yield from knobs(getattr(value, field.name), (*path, field.name))


def alternatives(value: Any, name: str) -> list:
    """Other values for a field; of numbers one that is accepted suffices, of names every one counts."""
    match value:
        case bool():
            return [not value]
        case int():
            return [other for other in (value + 1, value * 2, value // 2, 1) if other != value]
        case float():
            return [other for other in (value * 1.5 + 0.1, value / 2) if other != value]
        case str():
            return [other for other in NAMES[name] if other != value]
        case tuple():
            return [value + value]
        case Mask():
            return [Window(2) if value == Causal() else Causal()]
        case None:
            return [] if ABSENT[name] is None else [ABSENT[name]]
    assert type(value) in OTHERS or fields(value)
    return [OTHERS[type(value)]] if type(value) in OTHERS else []


@functools.cache
def beginning(spec: fx.Transformer) -> jax.stages.Traced:
    """`init`, traced once for the shapes and for the program."""
    return jax.jit(functools.partial(fx.init, spec)).trace(jax.random.key(0))


@functools.cache
def said(spec: fx.Transformer) -> str:
    """The program from parameters and tokens to logits, constants and all, without what is not used."""

    def run(params, tokens, key):
        return fx.apply(spec, params, tokens, key=key).logits

    return text_of(jax.jit(run).trace(beginning(spec).out_info, jnp.zeros((2, LENGTH), jnp.int32), jax.random.key(0)))


def text_of(program: jax.stages.Traced) -> str:
    """All that its results depend on, and the constants."""
    closed = program.jaxpr
    used, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return f"{used} {[np.asarray(array).tolist() for array in closed.consts]}"


def shapes(spec: fx.Transformer) -> fx.model.Params:
    """Of the parameters."""
    return jax.tree.map(lambda leaf: leaf.shape, beginning(spec).out_info)


@functools.cache
def begun(spec: fx.Transformer) -> str:
    """The program from a key to parameters."""
    return text_of(beginning(spec))


def same(spec: fx.Transformer, other: fx.Transformer) -> bool:
    """Whether they are one in all of these; the quickest to make is looked at first."""
    return all(way(spec) == way(other) for way in (shapes, said, begun))


def cases() -> Iterator:
    """(structure, path) of each field, once beside each choice that could make it idle."""
    tried = set()
    for name, spec in STRUCTURES.items():
        for path in knobs(spec):
            part, steps = at(spec, path[:-1]), tuple(step for step in path if isinstance(step, str))
            around = (steps, type(part))
            if isinstance(part, Norm | Stack):  # what makes them idle
                kind = (part.norm if isinstance(part, Stack) else part).kind
                around += (spec.stack.placement in ("post", "rezero"), kind if kind in ("none", "dyt") else "")
            if around not in tried:
                tried.add(around)
                yield pytest.param(name, path, id=f"{name}-{'.'.join(map(str, path))}")


@pytest.mark.parametrize(("name", "path"), list(cases()))
def test_every_field_changes_something(name, path):
    spec, refused, changed = STRUCTURES[name], [], []
    value = at(spec, path)
    (field,) = (field for field in fields(at(spec, path[:-1])) if field.name == path[-1])
    for other in alternatives(value, path[-1]):
        if other is None and field.default is not None:
            continue  # such a layer has no place for nothing
        try:
            changed.append(not same(put(spec, path, other), spec))
        except ValueError as error:
            refused.append(str(error))
        if any(changed) and not isinstance(value, str):
            break
    works = all(changed) if isinstance(value, str) else any(changed)
    if any(idle(spec, path) for idle in IDLE):
        assert not works, "it is not idle any more: take it off the list"
    elif changed:
        assert works, f"{value!r} can change without changing the program"
    else:  # a number that is tied to another cannot change alone: the refusal says so, with both
        assert all(path[-1] in sentence or len(re.findall(r"\d+", sentence)) > 1 for sentence in refused)
