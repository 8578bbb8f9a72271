"""One model tried: it learns, decodes, and obeys the laws of `fxformer.verify` that concern it.

Every law is measured on one padded shape, so that a model is compiled once for all of them: what varies is which tokens
stand where.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import fxformer as fx
from fxformer.cache import Cache
from fxformer.coords import PADDING, Coords, of_index, packed, padded, plain
from fxformer.model import Params
from fxformer.ops import cross_entropy, visible, weighted_mean
from fxformer.verify import GRADIENT_ROUNDING, LAWS, LENGTH, ROUNDING
from train.objectives import Batch
from train.objectives.objective import answer, token_loss

ROWS = 2
WIDE = LENGTH + 4  # places in a row
CHUNK = 3  # tokens read at a time into a cache
TEXT = 256  # tokens are bytes
SHARE = 0.01  # of its loss, that a step along the gradient would take off a model that were linear

QUICK = {  # to the compiler: each program runs a few times on a few tokens
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
compiled = partial(jax.jit, compiler_options=QUICK)


class Finding(NamedTuple):
    """What was looked at, how far it is from what it should be, and how far it may be."""

    name: str
    deviation: float
    allowed: float

    @property
    def kept(self) -> bool:
        return self.deviation <= self.allowed


class Trial(NamedTuple):
    """A compiled model; `tokens` and what its encoder would read, int32 [ROWS, LENGTH] each."""

    spec: fx.Transformer
    params: Params
    forward: Callable[..., Array]
    tokens: np.ndarray
    read: np.ndarray

    def say(self, tokens: np.ndarray, read: np.ndarray, coords: Coords, filler: int = 7) -> np.ndarray:
        """Logits [ROWS, WIDE, V]; tokens [ROWS, T] stand, in their order, where `coords` have no padding."""
        source = self.source(read, coords, filler)
        return np.asarray(self.forward(self.params, placed(tokens, coords, filler), coords, *source))

    def source(self, read: np.ndarray, coords: Coords, filler: int = 7) -> tuple[Array, Coords] | tuple[()]:
        """What an encoder reads, where there is one."""
        return () if self.spec.encoder is None else (placed(read, coords, filler), coords)

    def alone(self, start: int = 0, stop: int = LENGTH) -> np.ndarray:
        """Logits [ROWS, stop - start, V] of these tokens by themselves."""
        part, count = slice(start, stop), stop - start
        return self.say(self.tokens[:, part], self.read[:, part], first_places(count))[:, :count]


def trial_of(spec: fx.Transformer, params: Params) -> Trial:
    """A trial with parameters off their initial values by noise, so that no gate is shut and no bias zero."""
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), params)
    tokens, read = (rng.integers(0, TEXT, (ROWS, LENGTH), np.int32) for _ in range(2))

    def forward(params: Params, tokens: Array, coords: Coords, *source: Any) -> Array:
        return fx.apply(spec, params, tokens, coords=coords, **_named(source)).logits

    return Trial(spec, noisy, compiled(forward), tokens, read)


def _named(source: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(("encoder_tokens", "encoder_coords"), source, strict=False))


def first_places(count: int) -> Coords:
    """Coordinates [ROWS, WIDE] of `count` tokens, then padding."""
    return padded(jnp.broadcast_to(jnp.arange(WIDE) < count, (ROWS, WIDE)))


def placed(tokens: np.ndarray, coords: Coords, filler: int) -> Array:
    """Tokens [ROWS, T] in the places that are not padding, T in each row; `filler` in all others."""
    filled = np.full(coords.index.shape, filler, np.int32)
    filled[np.asarray(coords.index) >= 0] = tokens.reshape(-1)
    return jnp.asarray(filled)


def changed(tokens: np.ndarray, place: int) -> np.ndarray:
    """Another token there, in each row."""
    other = tokens.copy()
    other[:, place] = (other[:, place] + 1) % TEXT
    return other


def influences(trial: Trial) -> Iterator[Finding]:
    """One token after the other is changed; program and places stay, so where it is unseen nothing changes at all."""
    logits, here, seen_TS = trial.alone(), first_places(LENGTH), np.zeros((LENGTH, LENGTH), bool)
    for s in range(LENGTH):
        said = trial.say(changed(trial.tokens, s), trial.read, here)[:, :LENGTH]
        seen_TS[:, s] = np.any(said != logits, axis=(0, 2))
    coords, reached_TS = plain(LENGTH), np.eye(LENGTH, dtype=bool)
    for block in trial.spec.stack.blocks:
        reached_TS |= np.asarray(visible(block.attention.mask, coords, coords)[0]) @ reached_TS
    yield Finding("influence follows the mask", float(np.sum(seen_TS != reached_TS)), 0)
    yield Finding("the future is unseen", float(np.sum(np.triu(seen_TS, 1))), 0)
    yield Finding("the past is seen", float(not seen_TS[-1, -2]), 0)
    said = trial.say(trial.tokens, changed(trial.read, LENGTH - 1), here)[:, :LENGTH]
    yield Finding("the source is seen", float(not np.any(said[:, 0] != logits[:, 0])), 0)


def arrangements(trial: Trial) -> Iterator[Finding]:
    """The same tokens with other padding, on the left or inside, or as two documents in one row."""
    alone, worst = trial.alone(), 0.0
    for places in (np.arange(LENGTH) + 4, np.arange(LENGTH) + (np.arange(LENGTH) > 5) * 3):
        coords = padded(jnp.zeros((ROWS, WIDE), bool).at[:, places].set(True))
        worst = max(worst, gap(trial.say(trial.tokens, trial.read, coords, filler=9)[:, places], alone))
    yield Finding("padding is invisible", worst, ROUNDING)
    cut, place = 5, jnp.arange(WIDE)
    coords = packed(jnp.tile(jnp.where(place < LENGTH, place >= cut, PADDING), (ROWS, 1)))
    together = trial.say(trial.tokens, trial.read, coords)[:, :LENGTH]
    apart = np.concatenate([trial.alone(0, cut), trial.alone(cut, LENGTH)], axis=1)
    yield Finding("packed documents are apart", gap(together, apart), ROUNDING)


def decoding(trial: Trial) -> Iterator[Finding]:
    """Tokens are read CHUNK at a time into a cache; then rows that stopped at different places go on by one each."""

    @compiled
    def proceed(
        params: Params, cache: Cache, tokens: Array, coords: Coords, *source: Any
    ) -> tuple[Array, Cache | None]:
        out = fx.apply(trial.spec, params, tokens, coords=coords, cache=cache, **_named(source))
        return out.logits, out.cache

    def read(begin: int | np.ndarray, end: int | np.ndarray, cache: Any) -> tuple[np.ndarray, Any]:
        """The next CHUNK tokens of each row, those from `end` on left out."""
        index = np.broadcast_to(begin, ROWS)[:, None] + np.arange(CHUNK)
        coords = of_index(jnp.asarray(np.where(index < np.broadcast_to(end, ROWS)[:, None], index, PADDING), jnp.int32))
        chunk = np.take_along_axis(trial.tokens, index.clip(0, LENGTH - 1), axis=1)
        logits, cache = proceed(trial.params, cache, jnp.asarray(chunk), coords, *source)
        return np.asarray(logits), cache

    source, alone, said = trial.source(trial.read, first_places(LENGTH)), trial.alone(), []
    cache = fx.empty_cache(trial.spec, ROWS, WIDE)
    for begin in range(0, LENGTH, CHUNK):
        logits, cache = read(begin, LENGTH, cache)
        said.append(logits)
    yield Finding("cached = uncached", gap(np.concatenate(said, axis=1)[:, :LENGTH], alone), ROUNDING)
    cache, stops = fx.empty_cache(trial.spec, ROWS, WIDE), np.array([4, 9])
    for begin in range(0, max(stops), CHUNK):
        _, cache = read(begin, stops, cache)
    logits, _ = read(stops, stops + 1, cache)
    yield Finding("ragged rows are alone", gap(logits[:, 0], alone[np.arange(ROWS), stops]), ROUNDING)


def learning(spec: fx.Transformer, params: Params, batch: Batch) -> Iterator[Finding]:
    """A step along the gradient lowers the loss of the batch; how the gradient is computed changes nothing.

    Where a model amplifies rounding, that is: no more than one unit in the last place of its parameters changes.
    """

    def loss_of(params: Params, kernel: str, unroll: int = 1, remat: bool = False) -> Array:
        out = answer(spec, params, batch, kernel=kernel, unroll=unroll, remat=remat)
        loss = token_loss(out, batch)
        if batch.labels is not None and out.labels is not None:
            loss += jnp.mean(cross_entropy(out.labels, batch.labels))
        if batch.ahead is not None and out.ahead is not None:
            loss += weighted_mean(cross_entropy(out.ahead, batch.ahead[:, :-1, 0]), batch.weights[:, 1:])
        return loss

    @compiled
    def both_ways(params: Params) -> list[tuple[Array, Params]]:
        ways = partial(loss_of, kernel="naive"), partial(loss_of, kernel="blockwise", unroll=2, remat=True)
        return [jax.value_and_grad(way)(params) for way in ways]

    (loss, grads), other = both_ways(params)
    moved, _ = both_ways(jax.tree.map(lambda leaf: leaf * (1 + jnp.finfo(leaf.dtype).eps), params))
    allowed = max(GRADIENT_ROUNDING, gap(_flat(moved), _flat((loss, grads))))
    yield Finding("execution changes nothing", gap(_flat(other), _flat((loss, grads))), allowed)
    rate = SHARE * loss / sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads))
    (after, _), _ = both_ways(jax.tree.map(lambda leaf, grad: leaf - rate * grad, params, grads))
    yield Finding("a step lowers the loss", _finite(float(after / loss)), 1 - SHARE / 10)


Measure = Callable[[Trial], Iterator[Finding]]
MEASURES: dict[Measure, tuple[str, ...]] = {
    influences: ("influence follows the mask", "the future is unseen", "the past is seen", "the source is seen"),
    arrangements: ("padding is invisible", "packed documents are apart"),
    decoding: ("cached = uncached", "ragged rows are alone"),
}


def findings(spec: fx.Transformer, batch: Batch) -> Iterator[Finding]:
    """Whether a model can be initialised and learns from the batch, and of the laws those that concern it."""
    params = compiled(partial(fx.init, spec))(jax.random.key(0))
    yield from learning(spec, params, batch)
    trial = trial_of(spec, params)
    for measure, names in MEASURES.items():
        if any(LAWS[name].concerns(spec) for name in names):
            yield from (finding for finding in measure(trial) if LAWS[finding.name].concerns(spec))


def gap(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, relative to the largest entry; infinite where something is not a number."""
    return _finite(float(np.max(np.abs(a - b)) / max(float(np.max(np.abs(b))), 1e-30)))


def _finite(number: float) -> float:
    return number if np.isfinite(number) else float("inf")


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)])
