"""Half precision: numbers of a spec leave activations in it, and logits are float32 from the product on."""

import operator
import re
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.coords import plain
from fxformer.layers.context import Memory
from fxformer.layers.head import HEADS, Bare, Labels, Pooler, PoolerModule, Span, Tied, Transformed, Untied
from fxformer.layers.norm import Norm
from tests.laws.specs import PUBLISHED, STRUCTURES, shapes_of, toy

MODELS = {**PUBLISHED, **STRUCTURES}
HALVES = (jnp.bfloat16, jnp.float16)
TOKENS = np.zeros((2, 12), np.int32)


def with_numbers(spec: Any, number: jax.Array) -> Any:
    """The same spec with a traced number in every field that takes one."""
    if is_dataclass(spec):
        for field in fields(spec):
            value = getattr(spec, field.name)
            changed = number if isinstance(value, float) else with_numbers(value, number)
            if changed is not value:
                with suppress(ValueError):  # what decides the program has to be known
                    spec = replace(spec, **{field.name: changed})
        return spec
    if isinstance(spec, tuple):
        items = tuple(with_numbers(item, number) for item in spec)
        return spec if all(map(operator.is_, items, spec)) else items
    return spec


def program(spec: fx.Transformer, dtype: Any, *, traced: bool) -> tuple[list[str], fx.Output]:
    """The dtype of every matrix product of a pass with dropout, in order, and what comes out, as shapes."""
    read = {} if spec.encoder is None else {"encoder_tokens": TOKENS[:, :7]}

    def says(params: Any, key: jax.Array, number: jax.Array) -> fx.Output:
        numbered = with_numbers(spec, number) if traced else spec
        assert (numbered is spec) != traced
        return fx.apply(numbered, params, TOKENS, key=key, dtype=dtype, **read)

    jaxpr, out = jax.make_jaxpr(says, return_shape=True)(shapes_of(spec), jax.random.key(0), jnp.float32(1.5))
    return re.findall(r":(\w+)\[[\d,]*\] = dot_general", str(jaxpr)), out


@pytest.mark.parametrize("name", MODELS)
def test_traced_numbers_of_a_spec_change_no_dtype(name):
    """Float32 ones, where Python's own take the dtype of what they meet: the same products in the same precision."""
    own, traced = (program(MODELS[name], jnp.bfloat16, traced=traced) for traced in (False, True))
    assert own == traced
    assert traced[1].hidden.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((own[1].logits, own[1].losses, own[1].stats))} == {
        jnp.dtype(jnp.float32)
    }


@pytest.mark.parametrize("dtype", HALVES)
def test_traced_numbers_of_the_factory_change_no_dtype(dtype):
    def says(number: jax.Array) -> fx.Output:
        spec = toy(residual_scale=number, branch_scale=number, init_scale=number)
        return fx.apply(spec, fx.init(spec, jax.random.key(0)), TOKENS, dtype=dtype)

    assert jax.eval_shape(says, jnp.float32(1.5)).hidden.dtype == dtype


def test_a_memory_of_another_dtype_changes_none():
    """A float32 memory, kept from a pass in float32, read by a decoder in half precision."""
    spec = PUBLISHED["t5-small"]
    memory = Memory(jnp.zeros((2, 7, spec.embed.width)), plain(7))
    out = jax.eval_shape(
        lambda params: fx.apply(spec, params, TOKENS, memory=memory, dtype=jnp.bfloat16), shapes_of(spec)
    )
    assert out.hidden.dtype == jnp.bfloat16


B, T, D, V = 2, 9, 32, 50
RNG = np.random.default_rng(0)
SIZES = (1, 8, 32)


def entropies(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log softmax(logits)[target] in float64."""
    peak = logits.max(axis=-1, keepdims=True)
    return np.log(np.exp(logits - peak).sum(axis=-1)) + peak[..., 0] - np.take_along_axis(logits, targets, -1)[..., 0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("head", [Tied(), Untied(bias=True), Tied(softcap=30.0, scale=1.5)], ids=repr)
def test_logits_are_float32_from_the_product_on(head, dtype, size):
    """The loss errs by 1e-5 nats at any size of the logits; rounded to bfloat16 it was 0.002 of that size."""
    x = jnp.asarray(size / np.sqrt(D) * RNG.normal(size=(B, T, D)), dtype)
    table, targets = jnp.asarray(RNG.normal(size=(V, D)), dtype), RNG.integers(0, V, (B, T, 1))
    module = HEADS[type(head)](head)
    params = {"out": {"weight": table.T, "bias": jnp.asarray(RNG.normal(size=V), dtype)}}
    logits = module.apply({"params": params if type(head) is Untied else {}}, x, table)
    exact = np.asarray(x, np.float64) @ np.asarray(table, np.float64).T
    if type(head) is Untied:
        exact = exact + np.asarray(params["out"]["bias"], np.float64)
    elif head.softcap is not None:
        exact = head.softcap * np.tanh(head.scale * exact / head.softcap)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, exact, atol=4e-6 * size)
    told = fx.ops.cross_entropy(logits, targets[..., 0])
    np.testing.assert_allclose(told, entropies(exact, targets), atol=1e-5)


def test_every_readout_and_label_keeps_the_bits_of_its_product():
    """Each head with a readout, and the pooler: float32 numbers that bfloat16 could not hold."""
    x, table = jnp.asarray(RNG.normal(size=(B, T, D)), jnp.bfloat16), jnp.asarray(RNG.normal(size=(V, D)), jnp.float32)
    norm = Norm(kind="layer", bias=True)
    heads = [Tied(), Untied(), Transformed(activation="gelu_erf", norm=norm), Labels(labels=3), Span()]
    assert {type(head) for head in heads} == set(HEADS) - {Bare}
    told = [HEADS[type(head)](head).init_with_output(jax.random.key(0), x, table)[0] for head in heads]
    pooler = PoolerModule(Pooler(labels=3, init=Untied().init))
    told.append(pooler.init_with_output(jax.random.key(0), x, plain(T))[0][1])
    for logits in told:
        assert logits.dtype == jnp.float32
        assert np.mean(logits == logits.astype(jnp.bfloat16)) < 0.1
