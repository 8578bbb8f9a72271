"""What holds for every model, whatever it computes: a function for each law, and the table of them."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fxformer.coords import PADDING, packed, plain
from fxformer.given import check_cacheable
from fxformer.layers.attention.indexer import Indexer
from fxformer.layers.context import Execution
from fxformer.layers.norm import Norm
from fxformer.model import Params, Transformer, apply
from fxformer.ops.dispatch import Capacity, Dropless
from fxformer.ops.loss import cross_entropy
from fxformer.ops.mask import visible
from fxformer.ops.norm import ACROSS_TOKENS
from fxformer.verify.reading import (
    ROWS,
    Text,
    at_once,
    at_the_end,
    empty,
    in_chunks,
    off,
    quick,
    read,
    source_of,
    with_a_hole,
)
from fxformer.walk import parts, replaced

ROUNDING = 2e-5  # relative to the largest logit, in float32
GRADIENT_ROUNDING = 5e-5  # relative to the largest gradient: sums over all tokens
OTHERWISE, PLAINLY = Execution(kernel="blockwise", remat=True), Execution(kernel="naive", unroll=3)
Finding = tuple[float, float]  # how far a model is from keeping a law, and how far it may be


def cached_is_uncached(text: Text) -> Finding:
    """Reading in chunks of 6, and token by token, gives what one pass gives."""
    return max(off(text, in_chunks(text, empty(text), [[size, size]])) for size in (6, 1)), ROUNDING


def the_future_is_unseen(text: Text) -> Finding:
    """Another token changes nothing before it: not by rounding, not at all. The deviation counts pairs of tokens."""
    return float(np.sum(np.triu(influence(text), 1))), 0.0


def the_past_is_seen(text: Text) -> Finding:
    """Another last-but-one token does change the last logits; the deviation is 1 where it does not."""
    return float(not influence(text)[-1, -2]), 0.0


def the_source_is_seen(text: Text) -> Finding:
    """Another last token for the encoder changes the first logits; the deviation is 1 where it does not."""
    assert text.encoder_tokens is not None
    other = text.of(text.tokens, _changed(text, text.encoder_tokens, -1))
    return float(not np.any(other.whole[:, 0] != text.whole[:, 0])), 0.0


def influence_follows_the_mask(text: Text) -> Finding:
    """A token changes what is said to another exactly where masks, block after block, let it through.

    Where an indexer chooses among what masks let through, nowhere else. The deviation is the number of pairs of which
    this is not so.
    """
    coords, seen_TS = plain(text.length), influence(text)
    reached_TS = np.eye(text.length, dtype=bool)
    for block in text.spec.stack.blocks:
        reached_TS |= np.asarray(visible(block.attention.mask, coords, coords)[0]) @ reached_TS
    chosen = any(True for _ in parts(text.spec.stack, Indexer))
    return float(np.sum(seen_TS & ~reached_TS if chosen else seen_TS != reached_TS)), 0.0


def influence(text: Text) -> np.ndarray:
    """bool [T, S]: does another token S change what is said to token T?"""
    seen_TS = np.zeros((text.length, text.length), bool)
    for s in range(text.length):
        other = text.of(_changed(text, text.tokens, s), text.encoder_tokens)
        seen_TS[:, s] = np.any(other.whole != text.whole, axis=(0, 2))
    return seen_TS


def _changed(text: Text, tokens: np.ndarray, place: int) -> np.ndarray:
    other = tokens.copy()
    other[:, place] = (other[:, place] + 1) % text.spec.embed.vocab
    return other


def padding_is_invisible(text: Text) -> Finding:
    """With other padding, on the left or inside, a text says the same; so does one that an encoder reads."""
    return max(off(text, at_once(text, places, filler=9)) for places in (at_the_end, with_a_hole)), ROUNDING


def packed_documents_are_apart(text: Text) -> Finding:
    """Two documents in one row say what each says alone."""
    cut, place = 5, jnp.arange(text.width)
    documents = jnp.where(place < text.length, (place >= cut).astype(jnp.int32), PADDING)
    together = at_once(text, coords=packed(jnp.tile(documents, (ROWS, 1))))
    apart = [text.only(0, cut).whole, text.only(cut, text.length).whole]
    return off(text._replace(whole=np.concatenate(apart, axis=1)), together), ROUNDING


def ragged_rows_are_alone(text: Text) -> Finding:
    """Rows that stand at different places of one cache go on as each would alone."""
    stop_B = np.array([4, 9])
    _, cache = read(text, empty(text), np.zeros_like(stop_B), stop_B, source=source_of(text))
    said, _ = read(text, cache, stop_B, stop_B + 1)
    return off(text, said), ROUNDING


def execution_changes_nothing(text: Text) -> Finding:
    """Kernel, unrolling and recomputation change neither loss nor gradients."""
    given = text.spec, text.params, text.tokens, text.encoder_tokens
    return gap(*(loss_and_gradient(*given, way) for way in (OTHERWISE, PLAINLY))), GRADIENT_ROUNDING


@partial(quick, static_argnums=(0, 4))
def loss_and_gradient(
    spec: Transformer, params: Params, tokens: Array, read: Array | None, way: Execution
) -> tuple[Array, Params]:
    """Mean loss of each next token [B, T], and its gradient. read: what an encoder reads."""

    def loss(params: Params) -> Array:
        out = apply(spec, params, tokens, encoder_tokens=read, **asdict(way))
        return jnp.mean(cross_entropy(out.logits[:, :-1], tokens[:, 1:] % out.logits.shape[-1]))

    return jax.value_and_grad(loss)(params)


def always(spec: Transformer) -> bool:
    """Whatever the model."""
    return True


def _apart(spec: Transformer) -> bool:
    return not any(norm.kind in ACROSS_TOKENS for norm in parts(spec, Norm))


def _unshared(spec: Transformer) -> bool:
    """Nor do the documents of a row share memory tokens that read all of it."""
    stacks = [stack for stack in (spec.stack, spec.encoder) if stack is not None and stack.memory_tokens]
    return _apart(spec) and not any(block.attention.mask.bidirectional for stack in stacks for block in stack.blocks)


def cacheable(spec: Transformer) -> bool:
    """Whether the model can be read piece by piece."""
    return uncacheable(spec) is None


def uncacheable(spec: Transformer) -> str | None:
    """Why the model cannot be read piece by piece, in a sentence, or None where it can."""
    try:
        check_cacheable(spec)
    except ValueError as error:
        return str(error)
    return None


def reads(spec: Transformer) -> bool:
    """Whether it has an encoder."""
    return spec.encoder is not None


class Law(NamedTuple):
    """What came of trying it; and which models can have it."""

    check: Callable[[Text], Finding]
    concerns: Callable[[Transformer], bool]


LAWS = {
    "cached = uncached": Law(cached_is_uncached, cacheable),
    "the future is unseen": Law(the_future_is_unseen, cacheable),
    "the past is seen": Law(the_past_is_seen, always),
    "the source is seen": Law(the_source_is_seen, reads),
    "influence follows the mask": Law(influence_follows_the_mask, _unshared),
    "padding is invisible": Law(padding_is_invisible, _apart),
    "packed documents are apart": Law(packed_documents_are_apart, _unshared),
    "ragged rows are alone": Law(ragged_rows_are_alone, cacheable),
    "execution changes nothing": Law(execution_changes_nothing, always),
}


def lawful(spec: Transformer) -> Transformer:
    """The model whose experts take all that comes: with a capacity, tokens of a batch stand in each other's way."""
    return replaced(spec, Capacity, Dropless())


def gap(a: object, b: object) -> float:
    """The largest difference of two trees, relative to the largest entry; infinite where one is not a number."""
    a_x, b_x = _flat(a), _flat(b)
    gap = float(np.max(np.abs(a_x - b_x)) / max(np.max(np.abs(b_x)), 1e-30))
    return gap if np.isfinite(gap) else float("inf")


def _flat(tree: object) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)])
