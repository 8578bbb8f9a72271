"""What a model is given: tokens, places, caches, keys and parameters are looked at before anything is computed.

What does not fit is refused by one sentence where it is known; within `jit` shapes are, and numbers are not.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from fxformer.cache import Cache
from fxformer.coords import PADDING, Coords
from fxformer.fields import shown
from fxformer.jit import known
from fxformer.layers.context import Memory
from fxformer.layers.norm import Norm
from fxformer.ops.norm import ACROSS_TOKENS
from fxformer.transformer import Params, Reading, Transformer
from fxformer.walk import parts

Tokens = ArrayLike | Sequence[Sequence[int]]  # integers [B, T], as an array or as rows


def check_memory(spec: Transformer, reading: Reading | None, memory: Memory | None, cache: Cache | None) -> None:
    """Raise ValueError unless the cross-attentions have exactly one source, and only where there are some."""
    given = [name for name, value in (("encoder_tokens", reading), ("memory", memory)) if value is not None]
    if spec.encoder is None and given:
        raise ValueError(f"{given[0]} are for a model with an encoder; this one has none")
    if len(given) > 1:
        raise ValueError("encoder_tokens and memory are two answers to one question; give one of them")
    if spec.encoder is None or given:
        return
    length_B = np.zeros(1) if cache is None else known(cache.length_B)
    if length_B is not None and not length_B.any():
        raise ValueError("the model has an encoder and nothing to read; give encoder_tokens or memory")


def check_cacheable(spec: Transformer) -> None:
    """Raise ValueError where an earlier token's output depends on later ones, so that remembering it would be wrong."""
    kinds = {norm.kind for norm in parts(spec.stack, Norm)} & ACROSS_TOKENS
    if kinds:
        raise ValueError(f"norm {min(kinds)!r} mixes all tokens of a batch, later ones too; it cannot be cached")
    if any(block.attention.mask.bidirectional for block in spec.stack.blocks):
        raise ValueError("each token of this model sees those after it; run it on whole sequences, without a cache")


def check_arrays(params: Any) -> None:
    """Raise ValueError for parameters that are no tree of arrays."""
    if not isinstance(params, Mapping) or not params:
        raise ValueError("there are no parameters; give those that init or hf.load returned")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not isinstance(leaf, Array | np.ndarray | np.generic | int | float):
            raise ValueError(f"parameter {_dotted(path)} is {shown(leaf)}; give an array")


def check_params(params: Params, needed: Params, failure: Exception | None = None) -> None:
    """Raise ValueError with the first parameter that is missing, of another shape than `needed`, or too many."""
    has, needs = _shapes(params), _shapes(needed)
    for path in needs | has:
        if has.get(path) != needs.get(path):
            what = _other_depth(path, has, needs) or _other_shape(path, has.get(path), needs.get(path))
            raise ValueError(f"{what}; give the parameters of this spec") from failure


def _other_depth(path: str, has: dict[str, list[int]], needs: dict[str, list[int]]) -> str | None:
    """In words, where all that a group of blocks has is of one other number of layers than it needs; else None."""
    group, blocks, _ = path.partition(".blocks.")
    ours = [each for each in needs if each.startswith(f"{group}{blocks}")]
    if not blocks or any(each not in has or not needs[each] or has[each][1:] != needs[each][1:] for each in ours):
        return None
    layers = {(*has[each][:1], needs[each][0]) for each in ours}
    (given, wanted), *others = layers
    return None if others or given == wanted else f"parameters of {group} are of {given} layers, the model has {wanted}"


def _other_shape(path: str, has: list[int] | None, needs: list[int] | None) -> str:
    if has is None:
        return f"parameter {path} is missing, the model needs {needs}"
    if needs is None:
        return f"parameter {path} is {has}, the model needs nothing of that name"
    return f"parameter {path} is {has}, the model needs {needs}"


def _shapes(params: Params) -> dict[str, list[int]]:
    """The shape of each parameter by its dotted path."""
    return {_dotted(path): list(np.shape(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _dotted(path: jax.tree_util.KeyPath) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def check_key(key: Any) -> None:
    """Raise ValueError for what is not one key of jax.random."""
    check_keys(key)
    if key.ndim != (0 if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else 1):
        raise ValueError(f"key={shown(key)} is not one key; give jax.random.key(seed)")


def check_keys(key: Any) -> None:
    """Raise ValueError for what is no key of jax.random, nor several."""
    kinds = (jax.dtypes.prng_key, jnp.uint32)
    if not isinstance(key, Array | np.ndarray) or not any(jnp.issubdtype(key.dtype, kind) for kind in kinds):
        raise ValueError(f"key={shown(key)} is no key; give jax.random.key(seed)")


def floating(dtype: DTypeLike) -> np.dtype:
    """The floating type that is meant. Raises ValueError for another one, or none."""
    meant = dtype_of(dtype)
    if not jnp.issubdtype(meant, jnp.floating):
        raise ValueError(f"dtype={meant} is no floating type; use float32, bfloat16 or float16")
    return meant


def dtype_of(dtype: DTypeLike) -> np.dtype:
    """The type of numbers that is meant. Raises ValueError where none is."""
    try:
        return jnp.dtype(dtype)
    except TypeError:
        raise ValueError(f"dtype={shown(dtype)} is no floating type; use float32, bfloat16 or float16") from None


def position_limit(spec: Transformer) -> int | None:
    """The number of learned positions, or None where any position can be encoded."""
    return None if spec.embed.position is None else spec.embed.position.limit


def length_limit(spec: Transformer) -> int | None:
    """The most tokens of one document, or None where places come again, as in spans, or any position can be encoded."""
    position = spec.embed.position
    return None if position is None or position.streams > 1 else position.limit


def as_tokens(tokens: Tokens, vocab: int) -> Array:
    """Integer tokens [B, T]; lists of rows count too. Raises ValueError as `check_tokens` does, and for ragged rows."""
    if not isinstance(tokens, Array | np.ndarray):
        try:
            tokens = np.asarray(tokens)
        except ValueError:
            raise ValueError("tokens are rows of unequal lengths; pad them, and say where with fx.padded") from None
    check_tokens(tokens, vocab)
    return cast(Array, tokens)


def check_tokens(tokens: Array | np.ndarray, vocab: int) -> tuple[int, int]:
    """(B, T) of integer tokens; raises ValueError for another shape or dtype, or a token outside the vocabulary."""
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"tokens are {tokens.dtype} {list(tokens.shape)}; give integers [batch, length]")
    values = known(tokens)
    if values is not None and values.size:
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= vocab:
            raise ValueError(f"token {low if low < 0 else high} is outside the vocabulary of {vocab}")
    batch, length = tokens.shape
    return batch, length


def check_end(spec: Transformer, cache: Cache | None, length: int, start: ArrayLike) -> None:
    """Raise ValueError where `length` tokens from `start`, a number or [B], are more than positions or room."""
    first = known(start)
    last = None if first is None else int(first.max()) + length - 1
    position = spec.embed.position
    if position is not None and position.limit is not None:
        _check_limit(position.limit, length if last is None else last + 1)
    _check_last(cache, last)


def check_positions(spec: Transformer, coords: Coords) -> None:
    """Raise ValueError where a position is not in the model's learned table, or under `jit` may well not be."""
    position = spec.embed.position
    if position is None or position.limit is None:
        return
    coords.check_streams(position.streams)
    assert coords.pos is not None
    known_pos = coords.at_tokens(coords.pos)
    if known_pos is not None:
        low, high = int(known_pos.min(initial=0)), int(known_pos.max(initial=0))
        if low < 0:
            raise ValueError(f"position {low} is before the first of the {position.limit} learned ones; use 0 or more")
        _check_limit(position.limit, high + 1)
    elif position.streams == 1:  # with more, places come again, so that their number says nothing
        _check_limit(position.limit, coords.length)


def check_types(spec: Transformer, coords: Coords) -> None:
    """Raise ValueError for a token type that the model has not, if they are known."""
    types = None if coords.type is None or not spec.embed.types else coords.at_tokens(coords.type)
    if types is not None and types.size:
        low, high = int(types.min()), int(types.max())
        if low < 0 or high >= spec.embed.types:
            raise ValueError(f"token type {low if low < 0 else high} is none of the model's {spec.embed.types}")


def _check_limit(limit: int, needed: int) -> None:
    if needed > limit:
        raise ValueError(f"sequence of {needed} tokens is longer than the {limit} learned positions")


def check_cache_rows(cache: Cache, batch: int) -> None:
    """Raise ValueError unless the cache has as many rows as the tokens."""
    rows = cache.length_B.shape[0]
    if rows != batch:
        raise ValueError(f"the cache has {rows} rows, tokens have {batch}; make an empty cache of batch={batch}")


def check_capacity(cache: Cache | None, coords: Coords) -> None:
    """Raise ValueError where the tokens do not fit what is left of the cache, if that is known."""
    index = known(coords.index)
    _check_last(cache, None if index is None else int(index.max(initial=PADDING)))


def _check_last(cache: Cache | None, last: int | None) -> None:
    """Raise ValueError where the cache has no place for token `last`; None is not known."""
    capacity = None if cache is None else cache.capacity
    if capacity is not None and last is not None and last >= capacity:
        raise ValueError(f"token {last} does not fit a cache of {capacity} tokens; make a longer cache")
