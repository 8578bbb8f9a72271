"""The two steps of decoding, and the model as it is fastest to decode with."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from fxformer.cache import Cache
from fxformer.coords import Coords
from fxformer.given import check_cacheable
from fxformer.jit import promoting
from fxformer.model import Output, Params, Transformer, apply, read_out
from fxformer.stack import Once


@promoting()
def prefill(
    spec: Transformer,
    params: Params,
    prompt_BT: Array,
    cache: Cache,
    *,
    coords: Coords | None = None,
    encoder_tokens: Array | None = None,
    encoder_coords: Coords | None = None,
    dtype: DTypeLike = jnp.float32,
) -> tuple[Array, Cache]:
    """Read the prompt, and first what the encoder reads: (logits [B, V] after the last token of each row, the cache).

    The last token is the one of greatest index. Under `jit` no other logits are computed.
    """
    logits_BV, out = read(spec, params, prompt_BT, cache, coords, encoder_tokens, encoder_coords, jnp.dtype(dtype))
    assert out.cache is not None
    return logits_BV, out.cache


def read(
    spec: Transformer,
    params: Params,
    prompt_BT: Array,
    cache: Cache,
    coords: Coords | None,
    encoder_tokens: Array | None,
    encoder_coords: Coords | None,
    dtype: jnp.dtype,
) -> tuple[Array, Output]:
    """`prefill`, with all that was said on the way."""
    out = apply(
        spec,
        params,
        prompt_BT,
        cache=cache,
        coords=coords,
        encoder_tokens=encoder_tokens,
        encoder_coords=encoder_coords,
        dtype=dtype,
    )
    if coords is None:
        hidden_B1D = out.hidden[:, -1:]
    else:
        last_B = jnp.broadcast_to(jnp.argmax(coords.index, axis=1), prompt_BT.shape[:1])
        hidden_B1D = jnp.take_along_axis(out.hidden, last_B[:, None, None], axis=1)
    return read_out(spec, params, hidden_B1D)[:, 0], out


@promoting()
def step(
    spec: Transformer,
    params: Params,
    token_B: Array,
    cache: Cache,
    *,
    coords: Coords | None = None,
    dtype: DTypeLike = jnp.float32,
) -> tuple[Array, Cache]:
    """Read one more token in each row: (logits [B, V] of the next one, the cache). coords: None goes on counting."""
    out = apply(spec, params, token_B[:, None], cache=cache, coords=coords, dtype=dtype)
    assert out.cache is not None
    return out.logits[:, 0], out.cache


@promoting()
def unstacked(spec: Transformer, params: Params, cache: Cache) -> tuple[Transformer, Params, Cache]:
    """The same model with each pass over a pattern standing `Once`, its parameters, and its cache.

    It says the same. A loop that is compiled around it updates the cache of every layer in place, where a stacked one
    is cut into layers and put together again at each token; the encoder, which runs once, stays as it is.
    """
    shared = {name: value for name, value in params["stack"].items() if not name.startswith("group_")}
    layers, tables = [], []
    for i, group in enumerate(spec.stack.groups):
        for n in range(group.n):
            own = params["stack"][f"group_{i}"]
            layers.append(own if group.tied else jax.tree.map(partial(_layer, n), own))
            tables.append(jax.tree.map(partial(_layer, n), cache.tables[f"group_{i}"]))
    flat_params = {**params, "stack": {**shared, **_named(layers)}}
    return unstacked_spec(spec), flat_params, replace(cache, tables=_named(tables))


def unstacked_spec(spec: Transformer) -> Transformer:
    """The spec alone."""
    groups = tuple(Once(group.blocks) for group in spec.stack.groups for _ in range(group.n))
    return replace(spec, stack=replace(spec.stack, groups=groups))


def _layer(n: int, leaf: Array) -> Array:
    return leaf[n]


def _named(layers: list[Any]) -> dict[str, Any]:
    return {f"group_{i}": layer for i, layer in enumerate(layers)}


def check_decodable(spec: Transformer) -> None:
    """Raise ValueError for a model that cannot go on from a prompt alone."""
    check_cacheable(spec)
    if spec.encoder is not None:
        raise ValueError("the model reads with an encoder before it writes; give encoder_tokens")
