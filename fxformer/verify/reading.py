"""A random text, what a model says to it in one pass, and the ways to read it that should make no difference.

Whatever the way, rows are padded to one width, so that a model is compiled once for all laws without a cache and once
for all with one: what varies is which tokens stand where.
"""

from collections.abc import Callable
from functools import lru_cache, partial, wraps
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from fxformer.cache import Cache
from fxformer.coords import PADDING, Coords, of_index
from fxformer.model import Params, Transformer, abstract_params, apply, empty_cache

ROWS = 2
LENGTH = 13  # tokens of a text, where no window asks for more
SIZE = 0.15  # of weights: attention without a scale, as in T5, would be sharp and amplify rounding with larger ones
MORE = 4  # places of a row beyond the text, for padding and for tokens that do not fit
WRAPS = 3  # times that a text is longer than a window

QUICK = {  # to the CPU's compiler: each program runs a few times on a few tokens
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


def quick(function: Callable[..., Any], static_argnums: int | tuple[int, ...] = ()) -> Callable[..., Any]:
    """`function`, compiled quickly, for exact products: accelerators round those of float32 unless told not to."""

    @wraps(function)
    def exact(*arguments: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*arguments)

    @lru_cache
    def compiled() -> Callable[..., Any]:
        options = QUICK if jax.default_backend() == "cpu" else None
        return jax.jit(exact, static_argnums=static_argnums, compiler_options=options)

    return lambda *arguments: compiled()(*arguments)


of_spec = partial(quick, static_argnums=0)
Source = dict[str, Any]


class Text(NamedTuple):
    """Tokens [B, N] in rows of `width` places; what an encoder reads, [B, N], where there is one.

    whole: the logits of one pass over it without a cache, [B, N, V].
    """

    spec: Transformer
    params: Params
    tokens: np.ndarray
    encoder_tokens: np.ndarray | None
    width: int
    whole: np.ndarray

    @property
    def length(self) -> int:
        """Number of tokens N."""
        return self.tokens.shape[1]

    def rows(self, rows: list[int]) -> "Text":
        """The text with rows in another order."""
        read = None if self.encoder_tokens is None else self.encoder_tokens[rows]
        return self._replace(tokens=self.tokens[rows], encoder_tokens=read, whole=self.whole[rows])

    def of(self, tokens: np.ndarray, encoder_tokens: np.ndarray | None) -> "Text":
        """Another text for the same model."""
        other = self._replace(tokens=tokens, encoder_tokens=encoder_tokens)
        return other._replace(whole=at_once(other))

    def only(self, start: int, stop: int) -> "Text":
        """These tokens by themselves."""
        read = None if self.encoder_tokens is None else self.encoder_tokens[:, start:stop]
        return self.of(self.tokens[:, start:stop], read)


def text_of(spec: Transformer) -> Text:
    """A random text of two rows; where a model has windows it is longer than three of the widest."""
    rng = np.random.default_rng(0)
    widest = max((block.attention.mask.reach or 0 for block in spec.stack.blocks), default=0)
    length = WRAPS * widest + 2 if widest else LENGTH
    tokens, read = (rng.integers(0, spec.embed.vocab, (ROWS, length), np.int32) for _ in range(2))
    blank = Text(spec, disturbed(spec, size=SIZE), tokens, None, length + MORE, np.zeros(0))
    return blank.of(tokens, None if spec.encoder is None else read)


def disturbed(spec: Transformer, seed: int = 1, size: float = 0.3) -> Params:
    """Random parameters, weights of deviation `size`, so that no gain is one, no bias zero and no path silent."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> Array:
        usual = {"scale": (1.0, 0.2), "bias": (0.0, 0.2), "alpha": (0.5, 0.1), "head_gains": (1.0, 0.2)}
        centre, deviation = usual.get(path[-1].key, (0.0, size))
        return jax.device_put(np.float32(centre + deviation * rng.normal(size=leaf.shape)))

    return jax.tree_util.tree_map_with_path(draw, nn.meta.unbox(abstract_params(spec)))


def empty(text: Text, *, spare: int = 0, dtype: DTypeLike = jnp.float32) -> Cache:
    """A cache with room for the text."""
    return empty_cache(text.spec, ROWS, text.length, encoder_length=text.width, spare=spare, dtype=dtype)


@of_spec
def passed(
    spec: Transformer, params: Params, tokens: Array, coords: Coords, cache: Cache | None, source: Source
) -> tuple[Array, Cache | None]:
    """Logits and cache of one pass."""
    out = apply(spec, params, tokens, coords=coords, cache=cache, **source)
    return out.logits, out.cache


Places = Callable[[np.ndarray, int], np.ndarray]


def at_the_front(_: np.ndarray, width: int) -> np.ndarray:
    """Which of `width` places the tokens of each row take, where it has `count_B` of them: the first."""
    return np.arange(width)[None]


def at_the_end(count_B: np.ndarray, width: int) -> np.ndarray:
    """The last."""
    return np.arange(width) + width - count_B[:, None]


def with_a_hole(_: np.ndarray, width: int) -> np.ndarray:
    """Padding stands inside the row."""
    return np.arange(width)[None] + (np.arange(width) > 1) * (MORE - 1)


def index_of(text: Text, start_B: np.ndarray, stop_B: np.ndarray, places: Places = at_the_front) -> np.ndarray:
    """Index [B, width] of tokens `start` to `stop` of each row amid padding."""
    index = np.full((ROWS, text.width), PADDING, np.int32)
    at_BX = np.broadcast_to(places(stop_B - start_B, text.width), index.shape)
    for row, (start, stop) in enumerate(zip(start_B, stop_B, strict=True)):
        index[row, at_BX[row, : stop - start]] = np.arange(start, stop)
    return index


def placed(text: Text, tokens_BN: np.ndarray, index: np.ndarray, filler: int = 7) -> np.ndarray:
    """Each token at the places that have its index; `filler` at padding and beyond the text."""
    there = np.take_along_axis(tokens_BN, index.clip(0, text.length - 1), axis=1)
    return np.where((index >= 0) & (index < text.length), there, filler % text.spec.embed.vocab)


def source_of(text: Text, places: Places = at_the_front, filler: int = 7) -> Source:
    """What an encoder reads, where there is one: by these names `apply` takes it."""
    if text.encoder_tokens is None:
        return {}
    index = index_of(text, *_all(text), places)
    tokens = placed(text, text.encoder_tokens, index, filler)
    return {"encoder_tokens": tokens, "encoder_coords": of_index(jnp.asarray(index))}


def at_once(text: Text, places: Places = at_the_front, *, coords: Coords | None = None, filler: int = 7) -> np.ndarray:
    """What is said to all tokens, and they to an encoder, in one pass without a cache: [B, N, V].

    coords: where they stand if not at their index; those of padding must be as of `places`.
    """
    index, source = index_of(text, *_all(text), places), source_of(text, places, filler)
    here = of_index(jnp.asarray(index)) if coords is None else coords
    source |= {"encoder_coords": here} if source else {}
    logits, _ = passed(text.spec, text.params, placed(text, text.tokens, index, filler), here, None, source)
    return by_index(text, index, logits)


def read(
    text: Text,
    cache: Cache,
    start_B: np.ndarray,
    stop_B: np.ndarray,
    *,
    places: Places = at_the_front,
    source: Source | None = None,
) -> tuple[np.ndarray, Cache]:
    """Read a piece in one pass: what is said to each token, [B, N, V], NaN where none was read; and the cache."""
    index = index_of(text, start_B, stop_B, places)
    tokens, coords = placed(text, text.tokens, index), of_index(jnp.asarray(index))
    logits, after = passed(text.spec, text.params, tokens, coords, cache, source or {})
    assert after is not None
    return by_index(text, index, logits), after


def in_chunks(text: Text, cache: Cache, sizes: list[list[int]]) -> np.ndarray:
    """What is said to a text read in chunks of these sizes for each row, over and over: [B, N, V]."""
    said, i, start_B = np.full(1, np.nan), 0, np.zeros(ROWS, int)
    while start_B.min() < text.length:
        stop_B = np.minimum(start_B + sizes[i % len(sizes)], text.length)
        piece, cache = read(text, cache, start_B, stop_B, source={} if i else source_of(text))
        said = np.where(np.isnan(piece), said, piece)
        i, start_B = i + 1, stop_B
    return said


def by_index(text: Text, index: np.ndarray, logits: Array) -> np.ndarray:
    """Logits [B, width, V] of tokens of this index as [B, N, V], in the order of the text."""
    row, at = np.nonzero((index >= 0) & (index < text.length))
    return laid_out(text, row, index[row, at], np.asarray(logits)[row, at])


def laid_out(text: Text, row: np.ndarray, at: np.ndarray, logits: Any) -> np.ndarray:
    """Logits [n, V] of tokens `at` of rows `row` as [B, N, V], NaN elsewhere; infinite where they are not numbers."""
    said = np.full((*text.tokens.shape, logits.shape[-1]), np.nan, np.float32)
    said[row, at] = np.where(np.isnan(logits), np.inf, logits)
    return said


def off(text: Text, said: np.ndarray) -> float:
    """The largest difference to one pass where something was said, relative to the largest logit."""
    gap = float(np.nanmax(np.abs(said - text.whole), initial=0) / np.abs(text.whole).max())
    return gap if np.isfinite(gap) else float("inf")


def _all(text: Text) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(ROWS, int), np.full(ROWS, text.length)
