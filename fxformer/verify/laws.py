"""What holds for every model, whatever it computes: a function for each law, and the table of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fxformer.coords import of_index, packed, padded, plain
from fxformer.layers.attention.indexer import Indexer
from fxformer.layers.norm import Norm
from fxformer.model import Params, Transformer, apply, check_cacheable, empty_cache, init
from fxformer.ops.dispatch import Capacity, Dropless
from fxformer.ops.loss import cross_entropy
from fxformer.ops.mask import visible
from fxformer.ops.norm import ACROSS_TOKENS
from fxformer.specs import parts, replaced

LENGTH = 13  # tokens of the sequences that laws are tried on
ROUNDING = 2e-5  # relative to the largest logit, in float32
GRADIENT_ROUNDING = 5e-5  # relative to the largest gradient: sums over all tokens
Finding = tuple[float, float]


class Sample(NamedTuple):
    """Parameters at twice their usual size, so that every path matters, tokens [B, T], and what an encoder reads."""

    params: Params
    tokens: Array
    source: dict[str, Any]


def sample_of(spec: Transformer, batch: int = 2, length: int = LENGTH) -> Sample:
    """A random sample for a model."""
    params = jax.tree.map(lambda leaf: 2 * leaf, init(spec, jax.random.key(1)))
    tokens, read = (jax.random.randint(jax.random.key(i), (batch, length), 0, spec.embed.vocab) for i in (2, 3))
    return Sample(params, tokens, {} if spec.encoder is None else {"encoder_tokens": read})


def cached_is_uncached(spec: Transformer) -> Finding:
    """Reading in chunks of 1, 6 and 6, and token by token, gives what one pass gives."""
    params, tokens, source = sample_of(spec)
    whole = apply(spec, params, tokens, **source).logits
    worst = 0.0
    for size in (6, 1):
        out = apply(spec, params, tokens[:, :1], cache=empty_cache(spec, tokens.shape[0], LENGTH), **source)
        said = [out.logits]
        for start in range(1, LENGTH, size):
            out = apply(spec, params, tokens[:, start : start + size], cache=out.cache)
            said.append(out.logits)
        worst = max(worst, gap(jnp.concatenate(said, axis=1), whole))
    return worst, ROUNDING


def the_future_is_unseen(spec: Transformer) -> Finding:
    """Other tokens after a place change nothing before it: not by rounding, not at all."""
    params, tokens, source = sample_of(spec)
    logits = apply(spec, params, tokens, **source).logits
    worst = 0.0
    for t in range(1, LENGTH):
        other = tokens.at[:, t:].set((tokens[:, t:] + 1) % spec.embed.vocab)
        change = apply(spec, params, other, **source).logits - logits
        worst = max(worst, float(jnp.max(jnp.abs(change)[:, :t])))
    return worst, 0.0


def the_past_is_seen(spec: Transformer) -> Finding:
    """Another last-but-one token does change the last logits; the deviation is 1 where it does not."""
    params, tokens, source = sample_of(spec)
    other = tokens.at[:, -2].set((tokens[:, -2] + 1) % spec.embed.vocab)
    change = apply(spec, params, other, **source).logits - apply(spec, params, tokens, **source).logits
    return float(jnp.max(jnp.abs(change)[:, -1]) == 0), 0.0


def the_source_is_seen(spec: Transformer) -> Finding:
    """Another last token for the encoder changes the first logits; the deviation is 1 where it does not."""
    params, tokens, source = sample_of(spec)
    other = source["encoder_tokens"].at[:, -1].set((source["encoder_tokens"][:, -1] + 1) % spec.embed.vocab)
    change = apply(spec, params, tokens, encoder_tokens=other).logits - apply(spec, params, tokens, **source).logits
    return float(jnp.max(jnp.abs(change)[:, 0]) == 0), 0.0


def influence_follows_the_mask(spec: Transformer) -> Finding:
    """A token has a gradient to another's output exactly where masks, block after block, let it through.

    Where an indexer chooses among what masks let through, nowhere else. The deviation is the number of pairs of which
    this is not so.
    """
    params, _, source = sample_of(spec)
    coords, tokens = plain(LENGTH), jnp.arange(LENGTH)[None]  # each token once: its row of the table is its own
    source = {name: tokens + LENGTH for name in source}
    reached_TS = np.eye(LENGTH, dtype=bool)
    for block in spec.stack.blocks:
        reached_TS |= np.asarray(visible(block.attention.mask, coords, coords)[0]) @ reached_TS

    def read(table_VD: Array) -> Array:
        own = {**params, "embed": {**params["embed"], "table": table_VD}}
        return jnp.sum(jnp.sin(apply(spec, own, tokens, **source).hidden[0]), axis=-1)

    influence_TVD = jax.jit(jax.jacrev(read))(params["embed"]["table"])
    influence_TS = np.any(influence_TVD[:, :LENGTH] != 0, axis=-1)
    chosen = any(True for _ in parts(spec.stack, Indexer))
    wrong_TS = influence_TS & ~reached_TS if chosen else influence_TS != reached_TS
    return float(np.sum(wrong_TS)), 0.0


def padding_is_invisible(spec: Transformer) -> Finding:
    """A sequence padded on either side, or inside, says what it says alone; so does one that an encoder reads."""
    params, tokens, source = sample_of(spec)
    alone = apply(spec, params, tokens, **source).logits
    worst = 0.0
    for places in (np.arange(LENGTH), np.arange(LENGTH) + 4, np.arange(LENGTH) + (np.arange(LENGTH) > 5) * 3):
        valid = jnp.zeros((tokens.shape[0], LENGTH + 4), bool).at[:, places].set(True)
        coords = padded(valid)
        wide: dict[str, Any] = {name: jnp.full(valid.shape, 9).at[:, places].set(read) for name, read in source.items()}
        filled = jnp.full(valid.shape, 7).at[:, places].set(tokens)
        out = apply(spec, params, filled, coords=coords, encoder_coords=coords if wide else None, **wide)
        worst = max(worst, gap(out.logits[:, places], alone))
    return worst, ROUNDING


def packed_documents_are_apart(spec: Transformer) -> Finding:
    """Two documents in one row say what each says alone."""
    params, tokens, source = sample_of(spec)
    cut = 5
    coords = packed(jnp.where(jnp.arange(LENGTH) < cut, 0, 1)[None])
    together = apply(spec, params, tokens, coords=coords, encoder_coords=coords if source else None, **source).logits
    alone = [
        apply(spec, params, tokens[:, part], **{name: read[:, part] for name, read in source.items()}).logits
        for part in (slice(0, cut), slice(cut, None))
    ]
    return gap(together, jnp.concatenate(alone, axis=1)), ROUNDING


def ragged_rows_are_alone(spec: Transformer) -> Finding:
    """Rows that stand at different places of one cache go on as each would alone."""
    params, tokens, source = sample_of(spec)
    cut = np.array([4, 9])
    valid = jnp.arange(LENGTH)[None] < cut[:, None]
    cache = apply(spec, params, tokens, coords=padded(valid), cache=empty_cache(spec, 2, LENGTH), **source).cache
    next_tokens = tokens[np.arange(2), cut][:, None]
    out = apply(spec, params, next_tokens, coords=of_index(jnp.asarray(cut)[:, None]), cache=cache)
    alone = apply(spec, params, tokens, **source).logits[np.arange(2), cut][:, None]
    return gap(out.logits, alone), ROUNDING


def execution_changes_nothing(spec: Transformer) -> Finding:
    """Kernel, unrolling and recomputation change neither loss nor gradients."""
    params, tokens, source = sample_of(spec)

    def loss_and_grad(kernel: str | None = None, unroll: int = 1, remat: bool = False) -> tuple[Array, Params]:
        def loss(params: Params) -> Array:
            out = apply(spec, params, tokens, kernel=kernel, unroll=unroll, remat=remat, **source)
            return jnp.mean(cross_entropy(out.logits[:, :-1], tokens[:, 1:] % out.logits.shape[-1]))

        return jax.jit(jax.value_and_grad(loss))(params)

    other = loss_and_grad(kernel="blockwise", unroll=3, remat=True)
    return gap(_flat(other), _flat(loss_and_grad(kernel="naive"))), GRADIENT_ROUNDING


def always(spec: Transformer) -> bool:
    """Whatever the model."""
    return True


def _apart(spec: Transformer) -> bool:
    return not any(norm.kind in ACROSS_TOKENS for norm in parts(spec, Norm))


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
    """How far a model is from keeping it and how far it may be; and which models can have it."""

    check: Callable[[Transformer], Finding]
    concerns: Callable[[Transformer], bool]


LAWS = {
    "cached = uncached": Law(cached_is_uncached, cacheable),
    "the future is unseen": Law(the_future_is_unseen, cacheable),
    "the past is seen": Law(the_past_is_seen, always),
    "the source is seen": Law(the_source_is_seen, reads),
    "influence follows the mask": Law(influence_follows_the_mask, _apart),
    "padding is invisible": Law(padding_is_invisible, _apart),
    "packed documents are apart": Law(packed_documents_are_apart, _apart),
    "ragged rows are alone": Law(ragged_rows_are_alone, cacheable),
    "execution changes nothing": Law(execution_changes_nothing, always),
}


def lawful(spec: Transformer) -> Transformer:
    """The model whose experts take all that comes: with a capacity, tokens of a batch stand in each other's way."""
    return replaced(spec, Capacity, Dropless())


def _flat(tree: object) -> Array:
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])


def gap(a: Array, b: Array) -> float:
    """The largest difference, relative to the largest entry; infinite where something is not a number."""
    gap = float(jnp.max(jnp.abs(a - b)) / jnp.maximum(jnp.max(jnp.abs(b)), 1e-30))
    return gap if np.isfinite(gap) else float("inf")
