"""One layer, one block or one stack by itself: arrays of numbers go in, and nothing has to be built around it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from fxformer.block import Block, BlockModule
from fxformer.coords import Coords, check_rows, plain
from fxformer.fields import checked, shown
from fxformer.given import check_arrays, check_key, check_params
from fxformer.jit import as_array, promoting, traced
from fxformer.layers.attention import ATTENTION, GQA, AttentionSpec, CrossModule
from fxformer.layers.context import Context, Execution, Memory, Side
from fxformer.layers.ffn import FFN, FFNSpec
from fxformer.layers.norm import Norm, NormModule
from fxformer.layers.residual import PLACEMENTS, main
from fxformer.ops.statistic import numbers
from fxformer.stack import Stack, StackModule
from fxformer.transformer import Params
from fxformer.written import Brief

LayerSpec = AttentionSpec | FFNSpec | Norm | Block | Stack


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LayerOutput(Brief):
    """What a layer says about T tokens in B rows.

    hidden: [B, T, D]. table: of an attention or a stack that was given a cache table, the next one. losses, stats:
    as in `Output`.
    """

    hidden: Array
    table: Any
    losses: dict[str, Array]
    stats: dict[str, Array]


def _attention(spec: Any, x_BTD: Array, context: Context, table: Any) -> tuple[Array, Side]:
    """Self-attention; with a memory the keys and values are those of its tokens."""
    module = ATTENTION[type(spec)] if context.memory is None else CROSSED[type(spec)]
    y_BTD, side = module(spec, name="layer")(x_BTD, context, table)
    return y_BTD, side._replace(stats=numbers(side.stats))


def _ffn(spec: Any, x_BTD: Array, context: Context, table: Any) -> tuple[Array, Side]:
    y_BTD, side = FFN[type(spec)](spec, name="layer")(x_BTD, context)
    return y_BTD, side._replace(stats=numbers(side.stats))


def _norm(spec: Norm, x_BTD: Array, context: Context, table: Any) -> tuple[Array, Side]:
    return NormModule(spec, name="layer")(x_BTD), Side()


def _block(spec: Block, x_BTD: Array, context: Context, table: Any) -> tuple[Array, Side]:
    stream, side = BlockModule(spec, name="layer")(PLACEMENTS[spec.residual.placement].enter(x_BTD), context, table)
    return main(stream), side._replace(stats=numbers(side.stats))


def _stack(spec: Stack, x_BTD: Array, context: Context, table: Any) -> tuple[Array, Side]:
    return StackModule(spec, name="layer")(x_BTD, context, table)


CROSSED: dict[type, Callable[..., nn.Module]] = {GQA: CrossModule}
ALONE: dict[type, Callable[[Any, Array, Context, Any], tuple[Array, Side]]] = {
    **dict.fromkeys(ATTENTION, _attention),
    **dict.fromkeys(FFN, _ffn),
    Norm: _norm,
    Block: _block,
    Stack: _stack,
}


class Layer(nn.Module):
    """A layer as a Flax Linen module, for models that are written in Linen.

    spec: an attention, a feed-forward layer, a norm, a block or a stack; what it is called with: see `apply_layer`.
    """

    spec: LayerSpec

    @nn.compact
    def __call__(
        self,
        x_BTD: Array,
        *,
        coords: Coords | None = None,
        memory: Memory | None = None,
        table: Any = None,
        kernel: str | None = None,
    ) -> LayerOutput:
        coords = plain(x_BTD.shape[1]) if coords is None else coords
        context = Context(coords=coords, execution=Execution(kernel=kernel), memory=memory)
        y_BTD, side = ALONE[type(self.spec)](self.spec, x_BTD, context, table)
        return LayerOutput(hidden=y_BTD, table=side.tables, losses=side.losses, stats=side.stats)


@checked
def init_layer(spec: LayerSpec, key: Array, x: ArrayLike, *, memory: Memory | None = None) -> Params:
    """Fresh float32 parameters of a layer that reads arrays like x [B, T, D], of which the shape matters.

    memory: where the layer looks at another's tokens. Raises ValueError for what is no layer, no key and no such array.
    """
    check_key(key)
    return _init(spec, key, _numbers(x), memory)


@checked
def apply_layer(
    spec: LayerSpec,
    params: Params,
    x: ArrayLike,
    *,
    coords: Coords | None = None,
    memory: Memory | None = None,
    table: Any = None,
    key: Array | None = None,
    kernel: str | None = None,
) -> LayerOutput:
    """Run a layer on numbers x [B, T, D], as `apply` runs a model on tokens.

    coords: where the tokens stand; None counts them from 0. memory: another's tokens, which attention looks at instead
    of its own, and a block or a stack with cross-attention besides. table: what was remembered, with coords that go on
    from there. key: for dropout.
    Raises ValueError for what is no layer, and where shapes and parameters do not fit.
    """
    if params != {}:  # as those of a norm without a gain
        check_arrays(params)
    x_BTD = _numbers(x)
    if coords is None:
        if table is not None:
            raise ValueError("a table says not where the new tokens stand; give coords, as fx.plain(length, start=…)")
        coords = plain(x_BTD.shape[1])
    check_rows(coords, *x_BTD.shape[:2])
    run = _apply if traced((params, x_BTD, coords, memory, table, key)) else _compiled
    return run(spec, kernel, params, x_BTD, coords, memory, table, key)


@promoting()
def _apply(
    spec: LayerSpec,
    kernel: str | None,
    params: Params,
    x_BTD: Array,
    coords: Coords,
    memory: Memory | None,
    table: Any,
    key: Array | None,
) -> LayerOutput:
    needed = jax.eval_shape(partial(_init, spec), jax.random.key(0), x_BTD, memory)
    check_params(params, needed)
    rngs = {} if key is None else {"dropout": key}
    said = Layer(spec).apply(
        {"params": {"layer": params}}, x_BTD, coords=coords, memory=memory, table=table, kernel=kernel, rngs=rngs
    )
    return cast(LayerOutput, said)


@partial(jax.jit, static_argnums=0)
@promoting()
def _init(spec: LayerSpec, key: Array, x_BTD: Array, memory: Memory | None) -> Params:
    made = Layer(spec).init(key, x_BTD, memory=memory)
    return nn.meta.unbox(made["params"]["layer"]) if made else {}


_compiled = jax.jit(_apply, static_argnums=(0, 1))


def _numbers(x: ArrayLike) -> Array:
    x_BTD = as_array(x)
    if x_BTD.ndim != 3 or not jnp.issubdtype(x_BTD.dtype, jnp.floating):
        raise ValueError(f"x={shown(x_BTD)} does not fit; give floating point numbers [batch, length, width]")
    return cast(Array, x_BTD)
