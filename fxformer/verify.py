"""Laws that every decoder obeys, as functions of a spec: what the tests assert and `python -m fxformer verify` shows.

A law returns the largest deviation that it found and the largest that rounding explains. A new law is one function and
one line in LAWS.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fxformer.accounting import blocks
from fxformer.coords import of_index, packed, padded, plain
from fxformer.model import Params, Transformer, apply, empty_cache, init
from fxformer.ops.loss import cross_entropy
from fxformer.ops.mask import visible

LENGTH = 13  # tokens of the sequences that laws are tried on
ROUNDING = 2e-5  # relative to the largest logit, in float32
Finding = tuple[float, float]


def sample_of(spec: Transformer, batch: int = 2, length: int = LENGTH) -> tuple[Params, Array]:
    """Parameters at twice their usual size, so that every path matters, and tokens [batch, length]."""
    params = jax.tree.map(lambda leaf: 2 * leaf, init(spec, jax.random.key(1)))
    return params, jax.random.randint(jax.random.key(2), (batch, length), 0, spec.embed.vocab)


def cached_is_uncached(spec: Transformer) -> Finding:
    """Reading in two chunks, and token by token, gives what one pass gives."""
    params, tokens = sample_of(spec)
    whole = apply(spec, params, tokens).logits
    worst = 0.0
    for cut in (1, LENGTH // 2):
        cache = empty_cache(spec, tokens.shape[0], LENGTH)
        first = apply(spec, params, tokens[:, :cut], cache=cache)
        second = apply(spec, params, tokens[:, cut:], cache=first.cache)
        worst = max(worst, _gap(jnp.concatenate([first.logits, second.logits], axis=1), whole))
    out, steps = apply(spec, params, tokens[:, :1], cache=empty_cache(spec, tokens.shape[0], LENGTH)), []
    for t in range(1, LENGTH + 1):
        steps.append(out.logits)
        if t < LENGTH:
            out = apply(spec, params, tokens[:, t : t + 1], cache=out.cache)
    return max(worst, _gap(jnp.concatenate(steps, axis=1), whole)), ROUNDING


def the_future_is_unseen(spec: Transformer) -> Finding:
    """Other tokens after a place change nothing before it: not by rounding, not at all."""
    params, tokens = sample_of(spec)
    logits = apply(spec, params, tokens).logits
    worst = 0.0
    for t in range(1, LENGTH):
        other = tokens.at[:, t:].set((tokens[:, t:] + 1) % spec.embed.vocab)
        worst = max(worst, float(jnp.max(jnp.abs(apply(spec, params, other).logits - logits)[:, :t])))
    return worst, 0.0


def the_past_is_seen(spec: Transformer) -> Finding:
    """Another last-but-one token does change the last logits; the deviation is 1 where it does not."""
    params, tokens = sample_of(spec)
    other = tokens.at[:, -2].set((tokens[:, -2] + 1) % spec.embed.vocab)
    change = jnp.abs(apply(spec, params, other).logits - apply(spec, params, tokens).logits)[:, -1]
    return float(jnp.max(change) == 0), 0.0


def influence_follows_the_mask(spec: Transformer) -> Finding:
    """A token has a gradient to another's output exactly where masks, block after block, let it through.

    The deviation is the number of pairs of which this is not so.
    """
    params, _ = sample_of(spec)
    coords, tokens = plain(LENGTH), jnp.arange(LENGTH)[None]  # each token once: its row of the table is its own
    reached_TS = np.eye(LENGTH, dtype=bool)
    for block in blocks(spec):
        reached_TS |= np.asarray(visible(block.attention.mask, coords, coords)[0]) @ reached_TS

    def read(table_VD: Array) -> Array:
        own = {**params, "embed": {**params["embed"], "table": table_VD}}
        return jnp.sum(jnp.sin(apply(spec, own, tokens).hidden[0]), axis=-1)

    influence_TVD = jax.jit(jax.jacrev(read))(params["embed"]["table"])
    influence_TS = np.any(influence_TVD[:, :LENGTH] != 0, axis=-1)
    return float(np.sum(influence_TS != reached_TS)), 0.0


def padding_is_invisible(spec: Transformer) -> Finding:
    """A sequence padded on either side, or inside, says what it says alone."""
    params, tokens = sample_of(spec)
    alone = apply(spec, params, tokens).logits
    worst = 0.0
    for places in (np.arange(LENGTH), np.arange(LENGTH) + 4, np.arange(LENGTH) + (np.arange(LENGTH) > 5) * 3):
        valid = jnp.zeros((tokens.shape[0], LENGTH + 4), bool).at[:, places].set(True)
        filled = jnp.full(valid.shape, 7).at[:, places].set(tokens)
        out = apply(spec, params, filled, coords=padded(valid))
        worst = max(worst, _gap(out.logits[:, places], alone))
    return worst, ROUNDING


def packed_documents_are_apart(spec: Transformer) -> Finding:
    """Two documents in one row say what each says alone."""
    params, tokens = sample_of(spec)
    cut = 5
    segment = jnp.where(jnp.arange(LENGTH) < cut, 0, 1)[None]
    together = apply(spec, params, tokens, coords=packed(segment)).logits
    first, second = apply(spec, params, tokens[:, :cut]).logits, apply(spec, params, tokens[:, cut:]).logits
    return _gap(together, jnp.concatenate([first, second], axis=1)), ROUNDING


def ragged_rows_are_alone(spec: Transformer) -> Finding:
    """Rows that stand at different places of one cache go on as each would alone."""
    params, tokens = sample_of(spec)
    cut = np.array([4, 9])
    valid = jnp.arange(LENGTH)[None] < cut[:, None]
    cache = apply(spec, params, tokens, coords=padded(valid), cache=empty_cache(spec, 2, LENGTH)).cache
    next_tokens = tokens[np.arange(2), cut][:, None]
    out = apply(spec, params, next_tokens, coords=of_index(jnp.asarray(cut)[:, None]), cache=cache)
    alone = apply(spec, params, tokens).logits[np.arange(2), cut][:, None]
    return _gap(out.logits, alone), ROUNDING


def execution_changes_nothing(spec: Transformer) -> Finding:
    """Kernel, unrolling and recomputation change neither loss nor gradients."""
    params, tokens = sample_of(spec)

    def loss_and_grad(kernel: str | None = None, unroll: int = 1, remat: bool = False) -> tuple[Array, Params]:
        def loss(params: Params) -> Array:
            logits = apply(spec, params, tokens[:, :-1], kernel=kernel, unroll=unroll, remat=remat).logits
            return jnp.mean(cross_entropy(logits, tokens[:, 1:]))

        return jax.jit(jax.value_and_grad(loss))(params)

    plain = loss_and_grad(kernel="naive")
    others = (loss_and_grad(kernel="blockwise"), loss_and_grad(unroll=3, remat=True))
    return max(_gap(_flat(other), _flat(plain)) for other in others), ROUNDING


Law = Callable[[Transformer], Finding]
LAWS: dict[str, Law] = {
    "cached = uncached": cached_is_uncached,
    "the future is unseen": the_future_is_unseen,
    "the past is seen": the_past_is_seen,
    "influence follows the mask": influence_follows_the_mask,
    "padding is invisible": padding_is_invisible,
    "packed documents are apart": packed_documents_are_apart,
    "ragged rows are alone": ragged_rows_are_alone,
    "execution changes nothing": execution_changes_nothing,
}


def verify(spec: Transformer) -> Iterator[tuple[str, str, str]]:
    """(law, "ok" or "FAILED", largest deviation) for every law."""
    for name, law in LAWS.items():
        deviation, allowed = law(spec)
        yield name, "ok" if deviation <= allowed else "FAILED", f"{deviation:.1e}"


def _flat(tree: object) -> Array:
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])


def _gap(a: Array, b: Array) -> float:
    """The largest difference, relative to the largest entry; infinite where something is not a number."""
    gap = float(jnp.max(jnp.abs(a - b)) / jnp.maximum(jnp.max(jnp.abs(b)), 1e-30))
    return gap if np.isfinite(gap) else float("inf")
