"""Left to right: causal and prefix language models, and multi-token prediction."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from fxformer.coords import plain
from train.objectives.objective import Batch, Objective, rows


class TextOnly(Objective):
    """Needs no special tokens, so a model for it knows text alone."""

    __slots__ = ()

    @property
    def vocab(self) -> int:
        return self.specials.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Causal(TextOnly):
    """Predict each token from those before it: T + 1 tokens give T predictions."""

    def __call__(self, tokens: ArrayLike, key: Array) -> Batch:
        return _next(rows(tokens, self.least))

    @property
    def least(self) -> int:
        return 2

    def input_length(self, raw: int) -> int:
        return raw - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixLM(TextOnly):
    """Tokens before the cut P see each other; the others are predicted: weight 1 where the target's index >= P.

    cut: P in 1 to T of T + 1 tokens; None draws it uniformly for each row. Raffel et al. 2020, section 3.2.1.
    """

    cut: int | None = None

    def __post_init__(self) -> None:
        if self.cut is not None and self.cut < 1:
            raise ValueError(f"cut={self.cut} leaves no prefix; use 1 or more")

    def __call__(self, tokens: ArrayLike, key: Array) -> Batch:
        tokens_BT = rows(tokens, self.least)
        batch = _next(tokens_BT)
        count, length = batch.inputs.shape
        drawn_B = jax.random.randint(key, (count,), 1, length + 1) if self.cut is None else jnp.full(count, self.cut)
        coords = plain(length, start=jnp.zeros_like(drawn_B))
        prefix_BT = jnp.arange(length) < drawn_B[:, None]
        weights_BT = (jnp.arange(1, length + 1) >= drawn_B[:, None]).astype(jnp.float32)
        return batch._replace(weights=weights_BT, coords=replace(coords, prefix=prefix_BT))

    @property
    def least(self) -> int:
        return 2 if self.cut is None else self.cut + 1

    def input_length(self, raw: int) -> int:
        return raw - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiToken(TextOnly):
    """Causal, and `depth` further tokens: mtp[:, t, k] is token t + 2 + k. DeepSeek-V3 2024, section 2.2."""

    depth: int = 1

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth={self.depth} looks no further than causal; use 1 or more")

    def __call__(self, tokens: ArrayLike, key: Array) -> Batch:
        tokens_BT = rows(tokens, self.least)
        length = tokens_BT.shape[1] - self.depth
        further = [tokens_BT[:, shift + 1 : shift + length] for shift in range(1, self.depth + 1)]
        return _next(tokens_BT[:, :length])._replace(mtp=jnp.stack(further, axis=-1))

    @property
    def least(self) -> int:
        return self.depth + 2

    def input_length(self, raw: int) -> int:
        return raw - 1 - self.depth


def _next(tokens_BT: Array) -> Batch:
    inputs_BT, targets_BT = tokens_BT[:, :-1], tokens_BT[:, 1:]
    return Batch(inputs_BT, targets_BT, jnp.ones(targets_BT.shape), plain(inputs_BT.shape[1]))
