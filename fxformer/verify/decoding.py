"""What holds for decoding, whatever the model: reading piece by piece says what one pass over the whole text says.

Each model is compiled a few times for all laws: pieces are padded to one width, or are one token a row.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from fxformer.cache import Cache, Table, fork, rollback
from fxformer.coords import PADDING, Coords, of_index
from fxformer.decode import generate, prefill, step, unstacked
from fxformer.decode.steps import unstacked_spec
from fxformer.layers.head import OVER_TOKENS
from fxformer.model import Params, Transformer
from fxformer.verify.laws import ROUNDING, Finding, Law, cacheable, reads
from fxformer.verify.reading import (
    ROWS,
    WRAPS,
    Places,
    Source,
    Text,
    at_the_end,
    at_the_front,
    by_index,
    empty,
    in_chunks,
    index_of,
    laid_out,
    of_spec,
    off,
    passed,
    placed,
    quick,
    read,
    source_of,
    with_a_hole,
)

INT8_ROUNDING = 0.03  # mean, relative to the largest logit: 7 bits of each key and value; 0.01 is the worst of the zoo
BF16_ROUNDING = 0.015  # the same with 8 bits of mantissa; 0.006 is the worst


@of_spec
def _prefill(
    spec: Transformer, params: Params, tokens: Array, coords: Coords, cache: Cache, source: Source
) -> tuple[Array, Cache]:
    return prefill(spec, params, tokens, cache, coords=coords, **source)


@of_spec
def _step(spec: Transformer, params: Params, token_B: Array, cache: Cache, coords: Coords) -> tuple[Array, Cache]:
    return step(spec, params, token_B, cache, coords=coords)


@of_spec
def _unstacked(spec: Transformer, params: Params, cache: Cache) -> tuple[Params, Cache]:
    return unstacked(spec, params, cache)[1:]


@partial(quick, static_argnums=(0, 3))
def _generate(spec: Transformer, params: Params, prompt: Array, count: int, options: dict[str, Any]) -> Array:
    return generate(spec, params, prompt, count, **options)[:, prompt.shape[1] :]


_fork = quick(fork)
_rollback = quick(rollback)


def begin(
    text: Text, cache: Cache, stop_B: np.ndarray, places: Places = at_the_front, source: Source | None = None
) -> tuple[np.ndarray, Cache]:
    """Prefill of the first tokens of each row: what is said to the last of them, as of `read`, and the cache."""
    index = index_of(text, np.zeros_like(stop_B), stop_B, places)
    tokens, coords = placed(text, text.tokens, index), of_index(jnp.asarray(index))
    logits, cache = _prefill(text.spec, text.params, tokens, coords, cache, source or source_of(text))
    return laid_out(text, np.arange(len(stop_B)), stop_B - 1, logits), cache


def go_on(text: Text, cache: Cache, at_B: np.ndarray, steps: int | None = None) -> tuple[float, Cache]:
    """Steps from token `at` of each row, a row that is done waits: (how far off they are, the cache)."""
    worst, rows, last = 0.0, np.arange(len(at_B)), text.length - 1
    for _ in range(text.length - at_B.min() if steps is None else steps):
        index_B1 = jnp.asarray(np.where(at_B <= last, at_B, PADDING)[:, None])
        token_B = text.tokens[rows, np.minimum(at_B, last)]
        logits, cache = _step(text.spec, text.params, token_B, cache, of_index(index_B1))
        going_B = at_B <= last
        said = laid_out(text, rows[going_B], at_B[going_B], np.asarray(logits)[going_B])
        worst, at_B = max(worst, off(text, said)), at_B + 1
    return worst, cache


def every_split(text: Text) -> Finding:
    """Prefill up to any token, then token by token. The two rows are cut at different places."""
    worst = 0.0
    for cut in range(1, text.length):
        at_B = np.array([cut, text.length - cut])
        said, cache = begin(text, empty(text), at_B)
        worst = max(worst, off(text, said), go_on(text, cache, at_B)[0])
    return worst, ROUNDING


def chunks(text: Text) -> Finding:
    """Read in chunks of any size."""
    return max(off(text, in_chunks(text, empty(text), [[size, size]])) for size in range(1, text.length)), ROUNDING


def ragged_rows(text: Text) -> Finding:
    """Read in chunks that are as long as they like, none at all too, each row for itself."""
    return max(off(text, in_chunks(text, empty(text), sizes)) for sizes in (RAGGED, RAGGED[::-1])), ROUNDING


RAGGED = [[3, 1], [0, 2], [4, 0], [1, 5]]  # tokens of each row, chunk after chunk


def padding_anywhere(text: Text) -> Finding:
    """Prompts of two lengths with padding before, behind or inside, then token by token."""
    at_B = np.array([3, 8])
    worst = 0.0
    for places in (at_the_end, at_the_front, with_a_hole):
        said, cache = begin(text, empty(text), at_B, places)
        worst = max(worst, off(text, said), go_on(text, cache, at_B)[0])
    return worst, ROUNDING


def around_a_window(text: Text) -> Finding:
    """Prefill of a token less than a window, a window, one more, and three; then steps, and a chunk of the rest.

    No table of a window keeps more than it can see; the deviation is infinite where one does.
    """
    reaches = {reach for block in text.spec.stack.blocks if (reach := block.attention.mask.reach) is not None}
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


def going_back(text: Text) -> Finding:
    """Three tokens are read, of which two are wrong and taken back, until the end: as if they had never been there."""
    at_B = np.array([5, 8])
    said, cache = read(text, empty(text, spare=2), np.zeros(2, int), at_B, source=source_of(text))
    worst, rows = off(text, said), np.arange(2)
    while at_B.max() + 3 <= text.length:
        tokens = (text.tokens + 1) % text.spec.embed.vocab
        tokens[rows, at_B] = text.tokens[rows, at_B]
        said, cache = read(text._replace(tokens=tokens), cache, at_B, at_B + 3)
        said[np.arange(text.length) > at_B[:, None]] = np.nan
        at_B = at_B + 1
        cache = _rollback(cache, at_B)
        worst = max(worst, off(text, said))
    said, _ = read(text, cache, at_B, np.full(2, text.length))
    return max(worst, off(text, said)), ROUNDING


def reordered(text: Text) -> Finding:
    """A row that takes over another's cache goes on as if it had read what that one has."""
    at = 6
    _, cache = begin(text, empty(text), np.full(2, at))
    worst = 0.0
    for rows in ([1, 0], [1, 1]):
        tokens = np.concatenate([text.tokens[rows, :at], text.tokens[:, at:]], axis=1)
        other = text.of(tokens, text.rows(rows).encoder_tokens)
        worst = max(worst, go_on(other, _fork(cache, np.array(rows)), np.full(2, at))[0])
    return worst, ROUNDING


def memory_is_read_once(text: Text) -> Finding:
    """What the encoder said is in the cache: steps are right without one, whose parameters are not numbers then.

    What it reads has padding before it.
    """
    at_B = np.array([3, 8])
    said, cache = begin(text, empty(text), at_B, source=source_of(text, at_the_end))
    lost = {**text.params, "encoder": jax.tree.map(lambda leaf: leaf * jnp.nan, text.params["encoder"])}
    return max(off(text, said), go_on(text._replace(params=lost), cache, at_B)[0]), ROUNDING


def layers_apart(text: Text) -> Finding:
    """The model with each layer a group of its own, as loops run it, goes on as the other."""
    at_B = np.array([3, 8])
    _, cache = begin(text, empty(text), at_B)
    params, cache = _unstacked(text.spec, text.params, cache)
    flat = text._replace(spec=unstacked_spec(text.spec), params=params)
    return go_on(flat, cache, at_B)[0], ROUNDING


def written_is_likeliest(text: Text) -> Finding:
    """Each token that `generate` draws from the likeliest one has the largest logit of a pass without a cache.

    Prompts have two lengths.
    """
    count_B = np.array([3, 7])
    new_BN = _drawn(text, count_B, jax.random.split(jax.random.key(3)), top_k=1)
    tokens, rows = text.tokens.copy(), np.arange(2)[:, None]
    after_BN = count_B[:, None] + np.arange(new_BN.shape[1])
    tokens[rows, after_BN] = new_BN
    whole = text.of(tokens, text.encoder_tokens).whole
    likeliest = whole.max(axis=-1)[rows, after_BN - 1]
    return float(np.max(likeliest - whole[rows, after_BN - 1, new_BN]) / np.abs(whole).max()), ROUNDING


def neighbours_do_not_matter(text: Text) -> Finding:
    """A row that is drawn with its own key is the same in another place, and beside another row.

    The deviation is the number of tokens that differ.
    """
    count_B = np.array([3, 7])
    keys, other = jax.random.split(jax.random.key(4)), jax.random.key(5)
    plain = _drawn(text, count_B, keys)
    swapped = _drawn(text.rows([1, 0]), count_B[::-1], keys[::-1])
    beside = text.tokens.copy()
    beside[1] = (beside[1] + 1) % text.spec.embed.vocab
    first = _drawn(text._replace(tokens=beside), count_B, jnp.stack([keys[0], other]))[0]
    return float(np.sum(plain != swapped[::-1]) + np.sum(plain[0] != first)), 0.0


def _drawn(text: Text, count_B: np.ndarray, keys: Array, top_k: int = 100) -> np.ndarray:
    """What follows on the first tokens of each row, which have padding before them, up to the length of the text."""
    width = int(count_B.max())
    at_BX = np.arange(width) - (width - count_B)[:, None]
    prompt = np.take_along_axis(text.tokens, np.maximum(at_BX, 0), axis=1)
    coords = of_index(jnp.asarray(np.maximum(at_BX, PADDING)))
    options = {"coords": coords, "key": keys, "temperature": 3.0, "top_k": top_k, "top_p": 0.95, **source_of(text)}
    return np.asarray(_generate(text.spec, text.params, prompt, text.length - width, options))


def in_8_bits(text: Text) -> Finding:
    """A cache of int8, read in ragged chunks. The deviation is the mean of all logits, not the largest:

    rounding may lead a router to another expert, or an indexer to another token, and what they choose jumps.
    """
    return _rounded(text, jnp.int8), INT8_ROUNDING


def in_half_precision(text: Text) -> Finding:
    """A cache of bfloat16, in the same way."""
    return _rounded(text, jnp.bfloat16), BF16_ROUNDING


def _rounded(text: Text, dtype: DTypeLike) -> float:
    said = in_chunks(text, empty(text, dtype=dtype), RAGGED)
    return float(np.mean(np.abs(said - text.whole)) / np.abs(text.whole).max())


def overflow_is_flagged(text: Text) -> Finding:
    """Under `jit` a row with more tokens than fit is flagged, and its neighbour is right, unflagged, with all it holds.

    The deviation is infinite where a flag is wrong.
    """
    index = np.tile(np.arange(text.width), (ROWS, 1))
    index[1, text.length :] = PADDING
    tokens, coords = placed(text, text.tokens, index), of_index(jnp.asarray(index))
    logits, cache = passed(text.spec, text.params, tokens, coords, empty(text), source_of(text))
    assert cache is not None
    said = by_index(text, index, logits)
    return off(text, said) if cache.overflow_B.tolist() == [True, False] else float("inf"), ROUNDING


def _has_window(spec: Transformer) -> bool:
    return cacheable(spec) and any(block.attention.mask.reach is not None for block in spec.stack.blocks)


def _is_bounded(spec: Transformer) -> bool:
    return cacheable(spec) and any(block.attention.mask.reach is None for block in spec.stack.blocks)


def _reads(spec: Transformer) -> bool:
    return cacheable(spec) and reads(spec)


def _writes(spec: Transformer) -> bool:
    return cacheable(spec) and type(spec.head) in OVER_TOKENS


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
    "generated = likeliest": Law(written_is_likeliest, _writes),
    "neighbours do not matter": Law(neighbours_do_not_matter, _writes),
    "int8 cache": Law(in_8_bits, cacheable),
    "bfloat16 cache": Law(in_half_precision, cacheable),
    "overflow is flagged": Law(overflow_is_flagged, _is_bounded),
}
