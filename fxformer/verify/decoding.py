"""What holds for decoding, whatever the model: reading piece by piece says what one pass over the whole text says.

Each model is compiled a few times for all laws: pieces are padded to one width, or are one token a row.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from fxformer.cache import Cache, Table, fork, rollback
from fxformer.coords import PADDING, Coords, of_index
from fxformer.decode import generate, prefill, step, unstacked
from fxformer.decode.steps import unstacked_spec
from fxformer.model import Params, Transformer, apply, empty_cache
from fxformer.verify.laws import LENGTH, ROUNDING, Finding, Law, cacheable, reads, sample_of

MORE = 4  # places of a piece beyond the text, for padding and for tokens that do not fit
WRAPS = 3  # times that a text is longer than a window
INT8_ROUNDING = 0.03  # mean, relative to the largest logit: 7 bits of each key and value; 0.01 is the worst of the zoo
BF16_ROUNDING = 0.015  # the same with 8 bits of mantissa; 0.006 is the worst

QUICK = {  # to the compiler: each program runs a few times on a few tokens
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
_quick = partial(jax.jit, static_argnums=0, compiler_options=QUICK)


class Text(NamedTuple):
    """What is read: tokens [B, N], what an encoder reads, and what one pass without a cache says, [B, N, V]."""

    spec: Transformer
    params: Params
    tokens: np.ndarray
    source: dict[str, Any]
    whole: np.ndarray

    @property
    def length(self) -> int:
        """Number of tokens N."""
        return self.tokens.shape[1]


def text_of(spec: Transformer) -> Text:
    """A random text of two rows; where a model has windows it is longer than three of the widest."""
    widest = max((block.attention.mask.reach or 0 for block in spec.stack.blocks), default=0)
    sample = sample_of(spec, length=WRAPS * widest + 2 if widest else LENGTH)
    whole, _ = _read(spec, sample.params, sample.tokens, None, None, sample.source)
    return Text(spec, sample.params, np.asarray(sample.tokens), sample.source, np.asarray(whole))


def empty(text: Text, *, spare: int = 0, dtype: DTypeLike = jnp.float32) -> Cache:
    """A cache with room for the text."""
    rows, length = text.tokens.shape
    return empty_cache(text.spec, rows, length, encoder_length=length + MORE, spare=spare, dtype=dtype)


@_quick
def _read(
    spec: Transformer, params: Params, tokens: Array, coords: Coords | None, cache: Cache | None, source: dict[str, Any]
) -> tuple[Array, Cache | None]:
    out = apply(spec, params, tokens, coords=coords, cache=cache, **source)
    return out.logits, out.cache


@_quick
def _prefill(
    spec: Transformer, params: Params, tokens: Array, coords: Coords, cache: Cache, source: dict[str, Any]
) -> tuple[Array, Cache]:
    return prefill(spec, params, tokens, cache, coords=coords, **source)


@_quick
def _step(spec: Transformer, params: Params, token_B: Array, cache: Cache, coords: Coords) -> tuple[Array, Cache]:
    return step(spec, params, token_B, cache, coords=coords)


@_quick
def _unstacked(spec: Transformer, params: Params, cache: Cache) -> tuple[Params, Cache]:
    return unstacked(spec, params, cache)[1:]


@partial(_quick, static_argnums=(0, 3))
def _generate(spec: Transformer, params: Params, prompt: Array, count: int, options: dict[str, Any]) -> Array:
    return generate(spec, params, prompt, count, **options)[:, prompt.shape[1] :]


_fork = jax.jit(fork, compiler_options=QUICK)
_rollback = jax.jit(rollback, compiler_options=QUICK)


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


def piece(text: Text, start_B: np.ndarray, stop_B: np.ndarray, places: Places) -> tuple[np.ndarray, np.ndarray]:
    """Tokens `start` to `stop` of each row amid padding: tokens and index [B, N + MORE]."""
    rows, width = len(text.tokens), text.length + MORE
    tokens, index = np.full((rows, width), 7 % text.spec.embed.vocab, np.int32), np.full((rows, width), PADDING)
    at_BX = np.broadcast_to(places(stop_B - start_B, width), (rows, width))
    for row in range(rows):
        at = at_BX[row, : stop_B[row] - start_B[row]]
        tokens[row, at] = text.tokens[row, start_B[row] : stop_B[row]]
        index[row, at] = np.arange(start_B[row], stop_B[row])
    return tokens, index


def read(
    text: Text,
    cache: Cache,
    start_B: np.ndarray,
    stop_B: np.ndarray,
    *,
    places: Places = at_the_front,
    source: dict[str, Any] | None = None,
) -> tuple[np.ndarray, Cache]:
    """Read a piece in one pass: what is said to each token, [B, N, V], NaN where none was read; and the cache."""
    tokens, index = piece(text, start_B, stop_B, places)
    logits, after = _read(text.spec, text.params, tokens, of_index(jnp.asarray(index)), cache, source or {})
    assert after is not None
    row, at = np.nonzero(index >= 0)
    return _laid_out(text, row, index[row, at], np.asarray(logits)[row, at]), after


def begin(text: Text, cache: Cache, stop_B: np.ndarray, places: Places = at_the_front) -> tuple[np.ndarray, Cache]:
    """Prefill of the first tokens of each row: what is said to the last of them, as of `read`, and the cache."""
    tokens, index = piece(text, np.zeros_like(stop_B), stop_B, places)
    coords = of_index(jnp.asarray(index))
    logits, cache = _prefill(text.spec, text.params, tokens, coords, cache, text.source)
    return _laid_out(text, np.arange(len(stop_B)), stop_B - 1, logits), cache


def go_on(text: Text, cache: Cache, at_B: np.ndarray, steps: int | None = None) -> tuple[float, Cache]:
    """Steps from token `at` of each row, a row that is done waits: (how far off they are, the cache)."""
    worst, rows, last = 0.0, np.arange(len(at_B)), text.length - 1
    for _ in range(text.length - at_B.min() if steps is None else steps):
        index_B1 = jnp.asarray(np.where(at_B <= last, at_B, PADDING)[:, None])
        token_B = text.tokens[rows, np.minimum(at_B, last)]
        logits, cache = _step(text.spec, text.params, token_B, cache, of_index(index_B1))
        going_B = at_B <= last
        said = _laid_out(text, rows[going_B], at_B[going_B], np.asarray(logits)[going_B])
        worst, at_B = max(worst, off(text, said)), at_B + 1
    return worst, cache


def _laid_out(text: Text, row: np.ndarray, at: np.ndarray, logits: Any) -> np.ndarray:
    """Logits [n, V] of tokens `at` of rows `row` as [B, N, V]; infinite where they are not numbers."""
    said = np.full_like(text.whole, np.nan)
    said[row, at] = np.where(np.isnan(logits), np.inf, logits)
    return said


def off(text: Text, said: np.ndarray) -> float:
    """The largest difference to one pass where something was said, relative to the largest logit."""
    gap = float(np.nanmax(np.abs(said - text.whole), initial=0) / np.abs(text.whole).max())
    return gap if np.isfinite(gap) else float("inf")


def every_split(spec: Transformer) -> Finding:
    """Prefill up to any token, then token by token. The two rows are cut at different places."""
    text = text_of(spec)
    worst = 0.0
    for cut in range(1, text.length):
        at_B = np.array([cut, text.length - cut])
        said, cache = begin(text, empty(text), at_B)
        worst = max(worst, off(text, said), go_on(text, cache, at_B)[0])
    return worst, ROUNDING


def chunks(spec: Transformer) -> Finding:
    """Read in chunks of any size."""
    text = text_of(spec)
    return max(off(text, _in_chunks(text, empty(text), [[size, size]])) for size in range(1, text.length)), ROUNDING


def ragged_rows(spec: Transformer) -> Finding:
    """Read in chunks that are as long as they like, none at all too, each row for itself."""
    text = text_of(spec)
    return max(off(text, _in_chunks(text, empty(text), sizes)) for sizes in (RAGGED, RAGGED[::-1])), ROUNDING


RAGGED = [[3, 1], [0, 2], [4, 0], [1, 5]]  # tokens of each row, chunk after chunk


def _in_chunks(text: Text, cache: Cache, sizes: list[list[int]]) -> np.ndarray:
    """What is said to a text that is read in chunks of these sizes, over and over: [B, N, V]."""
    said, i, start_B = np.full_like(text.whole, np.nan), 0, np.zeros(2, int)
    while start_B.min() < text.length:
        stop_B = np.minimum(start_B + sizes[i % len(sizes)], text.length)
        piece_said, cache = read(text, cache, start_B, stop_B, source={} if i else text.source)
        said = np.where(np.isnan(piece_said), said, piece_said)
        i, start_B = i + 1, stop_B
    return said


def padding_anywhere(spec: Transformer) -> Finding:
    """Prompts of two lengths with padding before, behind or inside, then token by token."""
    text, at_B = text_of(spec), np.array([3, 8])
    worst = 0.0
    for places in (at_the_end, at_the_front, with_a_hole):
        said, cache = begin(text, empty(text), at_B, places)
        worst = max(worst, off(text, said), go_on(text, cache, at_B)[0])
    return worst, ROUNDING


def around_a_window(spec: Transformer) -> Finding:
    """Prefill of a token less than a window, a window, one more, and three; then steps, and a chunk of the rest.

    No table of a window keeps more than it can see; the deviation is infinite where one does.
    """
    text = text_of(spec)
    reaches = {reach for block in spec.stack.blocks if (reach := block.attention.mask.reach) is not None}
    tables = jax.tree.leaves(empty(text).tables, is_leaf=lambda node: isinstance(node, Table))
    kept = [table.capacity for table in tables if isinstance(table, Table) and table.reach is not None]
    worst = 0.0 if set(kept) == reaches else float("inf")
    for window in reaches:
        for count in (window - 1, window, window + 1, WRAPS * window):
            at_B = np.array([count, max(1, count - 1)])
            said, cache = begin(text, empty(text), at_B)
            far, cache = go_on(text, cache, at_B, steps=1)
            rest, cache = read(text, cache, at_B + 1, np.full(2, text.length))
            worst = max(worst, off(text, said), far, off(text, rest))
    return worst, ROUNDING


def going_back(spec: Transformer) -> Finding:
    """Three tokens are read, of which two are wrong and taken back, until the end: as if they had never been there."""
    text, at_B = text_of(spec), np.array([5, 8])
    wrong = text._replace(tokens=(text.tokens + 1) % spec.embed.vocab)
    said, cache = read(text, empty(text, spare=2), np.zeros(2, int), at_B, source=text.source)
    worst, rows = off(text, said), np.arange(2)
    while at_B.max() + 3 <= text.length:
        tokens = wrong.tokens.copy()
        tokens[rows, at_B] = text.tokens[rows, at_B]
        said, cache = read(text._replace(tokens=tokens), cache, at_B, at_B + 3)
        said[np.arange(text.length) > at_B[:, None]] = np.nan
        at_B = at_B + 1
        cache = _rollback(cache, at_B)
        worst = max(worst, off(text, said))
    said, _ = read(text, cache, at_B, np.full(2, text.length))
    return max(worst, off(text, said)), ROUNDING


def reordered(spec: Transformer) -> Finding:
    """A row that takes over another's cache goes on as if it had read what that one has."""
    text, at = text_of(spec), 6
    _, cache = begin(text, empty(text), np.full(2, at))
    worst = 0.0
    for rows in ([1, 0], [1, 1]):
        tokens = np.concatenate([text.tokens[rows, :at], text.tokens[:, at:]], axis=1)
        source = {name: read[np.array(rows)] for name, read in text.source.items()}
        whole, _ = _read(spec, text.params, tokens, None, None, source)
        other = text._replace(tokens=tokens, source=source, whole=np.asarray(whole))
        worst = max(worst, go_on(other, _fork(cache, np.array(rows)), np.full(2, at))[0])
    return worst, ROUNDING


def memory_is_read_once(spec: Transformer) -> Finding:
    """What the encoder said is in the cache: steps are right without one, whose parameters are not numbers then.

    What it reads has padding before it.
    """
    text, at_B = text_of(spec), np.array([3, 8])
    width = text.length + MORE
    index = np.where(np.arange(width) < MORE, PADDING, np.arange(width) - MORE)[None]
    (tokens,) = text.source.values()
    wide = jnp.pad(tokens, ((0, 0), (MORE, 0)))
    source = {"encoder_tokens": wide, "encoder_coords": of_index(jnp.asarray(index))}
    said, cache = begin(text._replace(source=source), empty(text), at_B)
    lost = {**text.params, "encoder": jax.tree.map(lambda leaf: leaf * jnp.nan, text.params["encoder"])}
    return max(off(text, said), go_on(text._replace(params=lost), cache, at_B)[0]), ROUNDING


def layers_apart(spec: Transformer) -> Finding:
    """The model with each layer a group of its own, as loops run it, goes on as the other."""
    text, at_B = text_of(spec), np.array([3, 8])
    _, cache = begin(text, empty(text), at_B)
    params, cache = _unstacked(spec, text.params, cache)
    flat = text._replace(spec=unstacked_spec(spec), params=params)
    return go_on(flat, cache, at_B)[0], ROUNDING


def written_is_likeliest(spec: Transformer) -> Finding:
    """Each token that `generate` writes has the largest logit of a pass without a cache, for prompts of two lengths."""
    text, count_B = text_of(spec), np.array([3, 7])
    width = int(count_B.max())
    prompt, coords = _prompt(text, count_B)
    new_BN = np.asarray(_generate(spec, text.params, prompt, text.length - width, {"coords": coords, **text.source}))
    tokens, rows = text.tokens.copy(), np.arange(2)[:, None]
    after_BN = count_B[:, None] + np.arange(new_BN.shape[1])
    tokens[rows, after_BN] = new_BN
    whole = np.asarray(_read(spec, text.params, tokens, None, None, text.source)[0])
    likeliest = whole.max(axis=-1)[rows, after_BN - 1]
    return float(np.max(likeliest - whole[rows, after_BN - 1, new_BN]) / np.abs(whole).max()), ROUNDING


def neighbours_do_not_matter(spec: Transformer) -> Finding:
    """A row that is drawn with its own key is the same in another place, and beside another row.

    The deviation is the number of tokens that differ.
    """
    text, count_B = text_of(spec), np.array([3, 7])
    keys, other = jax.random.split(jax.random.key(4)), jax.random.key(5)

    def drawn(tokens: np.ndarray, rows: list[int], keys: Array) -> np.ndarray:
        prompt, coords = _prompt(text._replace(tokens=tokens[rows]), count_B[rows])
        source = {name: read[np.array(rows)] for name, read in text.source.items()}
        options = {"coords": coords, "key": keys, "temperature": 3.0, "top_p": 0.95, **source}
        return np.asarray(_generate(spec, text.params, prompt, 5, options))

    plain = drawn(text.tokens, [0, 1], keys)
    swapped = drawn(text.tokens, [1, 0], keys[::-1])
    beside = text.tokens.copy()
    beside[1] = (beside[1] + 1) % spec.embed.vocab
    first = drawn(beside, [0, 1], jnp.stack([keys[0], other]))[0]
    return float(np.sum(plain != swapped[::-1]) + np.sum(plain[0] != first)), 0.0


def _prompt(text: Text, count_B: np.ndarray) -> tuple[np.ndarray, Coords]:
    """The first tokens of each row, with padding before them."""
    width = int(count_B.max())
    at_BX = np.arange(width) - (width - count_B)[:, None]
    prompt = np.take_along_axis(text.tokens, np.maximum(at_BX, 0), axis=1)
    return prompt, of_index(jnp.asarray(np.maximum(at_BX, PADDING)))


def in_8_bits(spec: Transformer) -> Finding:
    """A cache of int8, read in ragged chunks. The deviation is the mean of all logits, not the largest:

    rounding may lead a router to another expert, or an indexer to another token, and what they choose jumps.
    """
    return _rounded(spec, jnp.int8), INT8_ROUNDING


def in_half_precision(spec: Transformer) -> Finding:
    """A cache of bfloat16, in the same way."""
    return _rounded(spec, jnp.bfloat16), BF16_ROUNDING


def _rounded(spec: Transformer, dtype: DTypeLike) -> float:
    text = text_of(spec)
    said = _in_chunks(text, empty(text, dtype=dtype), RAGGED)
    return float(np.mean(np.abs(said - text.whole)) / np.abs(text.whole).max())


def overflow_is_flagged(spec: Transformer) -> Finding:
    """Under `jit` a row with more tokens than fit is flagged, and its neighbour is right, unflagged, with all it holds.

    The deviation is infinite where a flag is wrong.
    """
    text = text_of(spec)
    tokens, index = piece(text, np.zeros(2, int), np.full(2, text.length), at_the_front)
    index[0] = np.arange(text.length + MORE)
    logits, cache = _read(spec, text.params, tokens, of_index(jnp.asarray(index)), empty(text), text.source)
    assert cache is not None
    row, at = np.divmod(np.arange(2 * text.length), text.length)
    said = _laid_out(text, row, at, np.asarray(logits)[row, at])
    return off(text, said) if cache.overflow_B.tolist() == [True, False] else float("inf"), ROUNDING


def _has_window(spec: Transformer) -> bool:
    return cacheable(spec) and any(block.attention.mask.reach is not None for block in spec.stack.blocks)


def _is_bounded(spec: Transformer) -> bool:
    return cacheable(spec) and any(block.attention.mask.reach is None for block in spec.stack.blocks)


def _reads(spec: Transformer) -> bool:
    return cacheable(spec) and reads(spec)


DECODE_LAWS = {
    "every split": Law(every_split, cacheable),
    "chunks": Law(chunks, cacheable),
    "ragged rows": Law(ragged_rows, cacheable),
    "padding": Law(padding_anywhere, cacheable),
    "around a window": Law(around_a_window, _has_window),
    "rollback": Law(going_back, cacheable),
    "beam reorder": Law(reordered, cacheable),
    "encoder read once": Law(memory_is_read_once, _reads),
    "unstacked = stacked": Law(layers_apart, cacheable),
    "generated = likeliest": Law(written_is_likeliest, cacheable),
    "neighbours do not matter": Law(neighbours_do_not_matter, cacheable),
    "int8 cache": Law(in_8_bits, cacheable),
    "bfloat16 cache": Law(in_half_precision, cacheable),
    "overflow is flagged": Law(overflow_is_flagged, _is_bounded),
}
