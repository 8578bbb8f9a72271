"""What an objective is: `(tokens, key) -> Batch`, a pure function that says what is read and what is predicted."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from functools import cache
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

import fxformer as fx
from fxformer.coords import Coords
from fxformer.ops.loss import cross_entropy, weighted_mean


class Batch(NamedTuple):
    """inputs, targets: integers [B, T]. weights: float32 [B, T], 0 where nothing is predicted. coords: of inputs.

    encoder_tokens [B, S], encoder_coords: what an encoder reads, where there is one.
    labels: int32 [B], the class of each pair of segments.
    mtp: integers [B, T, depth], the 1st, 2nd, … token after the target.
    """

    inputs: Array
    targets: Array
    weights: Array
    coords: Coords
    encoder_tokens: Array | None = None
    encoder_coords: Coords | None = None
    labels: Array | None = None
    mtp: Array | None = None


def answer(
    spec: fx.Transformer,
    params: Any,
    batch: Batch,
    *,
    key: Array | None = None,
    kernel: str | None = None,
    unroll: int = 1,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> fx.Output:
    """What a model says to a batch; the rest as in `fx.apply`."""
    return fx.apply(
        spec,
        params,
        batch.inputs,
        coords=batch.coords,
        encoder_tokens=batch.encoder_tokens,
        encoder_coords=batch.encoder_coords,
        key=key,
        kernel=kernel,
        unroll=unroll,
        remat=remat,
        dtype=dtype,
    )


def token_loss(out: fx.Output, batch: Batch) -> Array:
    """Cross entropy in nats, on average over what is predicted."""
    return weighted_mean(cross_entropy(out.logits, batch.targets), batch.weights)


def window_losses(out: fx.Output, batch: Batch) -> tuple[Array, Array]:
    """Of each row: its loss in nats on average over what is predicted, its label's included, and how much that is.

    float32 [B] each. Of a row in which nothing is predicted the loss is its label's, or 0.
    """
    weights_B = jnp.sum(batch.weights, axis=-1)
    sums_B = jnp.sum(cross_entropy(out.logits, batch.targets) * batch.weights, axis=-1)
    losses_B = sums_B / jnp.where(weights_B == 0, 1, weights_B)
    if batch.labels is not None:
        assert out.labels is not None
        losses_B += cross_entropy(out.labels, batch.labels)
    return losses_B, weights_B


@dataclass(frozen=True, slots=True, kw_only=True)
class Specials:
    """Ids of tokens that are not text; text is 0 to `text` - 1. Sentinel i of `sentinels` is `first_sentinel` - i.

    pad: fills rows, and starts a decoder (T5). sop, eop: start and end of a piece (GLM).
    """

    text: int = 256
    pad: int = 256
    eos: int = 257
    mask: int = 258
    cls: int = 259
    sep: int = 260
    sop: int = 261
    eop: int = 262
    smask: int = 263
    gmask: int = 264
    sentinels: int = 100
    first_sentinel: int = 364

    def __post_init__(self) -> None:
        if self.sentinels < 0 or self.text < 1:
            raise ValueError(f"text={self.text} and sentinels={self.sentinels} are no vocabulary; use 1 and 0 or more")
        ids = self.ids
        for name, number in ids.items():
            if number < self.text:
                raise ValueError(f"{name}={number} is the id of a token of text; use {self.text} or more")
        for name, number in ids.items():
            twin = next(other for other in ids if ids[other] == number)
            if twin != name:
                raise ValueError(f"{twin} and {name} are both {number}; give each special token its own id")

    def after(self, text: int) -> "Specials":
        """The same tokens, in their order, behind a text of so many."""
        moved = {
            name: number + text - self.text
            for name, number in asdict(self).items()
            if name not in ("text", "sentinels")
        }
        return Specials(**moved, text=text, sentinels=self.sentinels)

    @property
    def ids(self) -> dict[str, int]:
        """The id of each special token by name."""
        counts = ("text", "sentinels", "first_sentinel")
        single = {field.name: int(getattr(self, field.name)) for field in fields(self) if field.name not in counts}
        return single | {f"sentinel_{i}": self.first_sentinel - i for i in range(self.sentinels)}

    @property
    def vocab(self) -> int:
        """How many ids a model needs that knows all of them."""
        return 1 + max(self.ids.values())


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)  # jax.jit keeps weak references to functions
class Objective(ABC):
    """Calling it with tokens [B, T] or [T] and a key makes a batch whose shapes follow from B and T alone."""

    specials: Specials = Specials()
    hides: ClassVar[bool] = False  # what is predicted is not among what is read, so every token may see all others

    @abstractmethod
    def __call__(self, tokens: ArrayLike, key: Array) -> Batch:
        """What to read and what to predict; equal keys choose equally. Raises ValueError for too short rows."""

    @property
    @abstractmethod
    def least(self) -> int:
        """The fewest tokens a row of text may have."""

    @abstractmethod
    def input_length(self, raw: int) -> int:
        """The length of the inputs (an encoder's, where there is one) that rows of `raw` tokens give.

        Longer rows give no shorter inputs.
        """

    def raw_length(self, length: int) -> int:
        """The most tokens a row of text may have for inputs of at most `length` tokens."""
        if length < self.input_length(self.least):
            raise ValueError(
                f"length={length} is too short for the objective; use {self.input_length(self.least)} or more"
            )
        beyond = self.least
        while self.input_length(beyond) <= length:
            beyond *= 2
        return self.least - 1 + bisect_right(range(self.least, beyond), length, key=self.input_length)

    @property
    def vocab(self) -> int:
        """How many ids a model needs for this objective."""
        return self.specials.vocab


def rows(tokens: ArrayLike, least: int) -> Array:
    """int32 [B, T] of tokens [B, T] or [T]. Raises ValueError where they are not integers or T < least."""
    tokens = jnp.asarray(tokens)
    if tokens.ndim not in (1, 2) or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"tokens are {tokens.dtype} with {tokens.ndim} axes; give integers with 1 or 2 axes")
    if tokens.shape[-1] < least:
        raise ValueError(f"rows have {tokens.shape[-1]} tokens, the objective needs more; give {least} or more")
    return jnp.atleast_2d(tokens).astype(jnp.int32)


@cache
def exact(number: float) -> Fraction:
    """The decimal number that `number` is written as: 0.15 is 3/20, so that rates of lengths round without error."""
    return Fraction(str(number))


def check_share(name: str, rate: float) -> None:
    """Raise ValueError unless 0 < rate < 1."""
    if not 0 < rate < 1:
        raise ValueError(f"{name}={rate} is not a share of the tokens; use more than 0 and less than 1")


def check_probability(name: str, probability: float) -> None:
    """Raise ValueError unless 0 <= probability <= 1."""
    if not 0 <= probability <= 1:
        raise ValueError(f"{name}={probability} is not a probability; use 0 to 1")


def compact(values_T: Array, keep_T: Array, length: int, fill: int) -> Array:
    """The kept values in their order, then `fill`: [length]."""
    place_T = jnp.where(keep_T, jnp.cumsum(keep_T) - 1, length)
    return jnp.full(length, fill, values_T.dtype).at[place_T].set(values_T, mode="drop")


def previous(flags_T: Array, first: bool) -> Array:
    """The flag of the token before; `first` for the first token."""
    return jnp.concatenate([jnp.full(1, first), flags_T[:-1]])


def exclusive(lengths_C: Array) -> Array:
    """Sum of the lengths before each."""
    return jnp.cumsum(lengths_C) - lengths_C


def shuffled(key: Array, valid_C: Array) -> Array:
    """The indices of valid slots in random order, each order equally likely; then the others."""
    return jnp.argsort(jnp.where(valid_C, jax.random.permutation(key, valid_C.size), valid_C.size))
