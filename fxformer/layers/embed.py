"""Tokens in: the embedding with its absolute positions. A new position is a spec, a module, a line in POSITIONS."""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from fxformer.axes import logical
from fxformer.coords import Coords
from fxformer.fields import Count, Number, Positive, Rate, Size, check_fields
from fxformer.layers.context import dropout
from fxformer.layers.norm import Norm, NormModule
from fxformer.layers.project import Init, Normal, Project, boxed, draw
from fxformer.ops.position import sinusoids


@dataclass(frozen=True, slots=True, kw_only=True)
class Sinusoidal:
    """Fixed sines and cosines added to the embedding. Vaswani et al. 2017, section 3.5."""

    base: Positive = 10_000.0
    limit: ClassVar[None] = None  # any position has its sines
    streams: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A learned vector for each of `limit` positions, added to the embedding (GPT, BERT)."""

    limit: Size
    init: Init = Normal()
    streams: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedPair:
    """Two learned vectors, one for each stream of positions: place in the text, place in the span (GLM)."""

    limit: Size
    init: Init = Normal()
    streams: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_fields(self)


class SinusoidalModule(nn.Module):
    """Has no parameters."""

    spec: Sinusoidal

    @nn.compact
    def __call__(self, coords: Coords, width: int) -> Array:
        return sinusoids(coords.streams(self.spec.streams)[..., 0], width, base=self.spec.base)


class LearnedModule(nn.Module):
    """Owns the table [limit, width]."""

    spec: Learned

    @nn.compact
    def __call__(self, coords: Coords, width: int) -> Array:
        return _look_up(self, "table", self.spec, coords, 0, width)


class LearnedPairModule(nn.Module):
    """Owns the tables `text` and `span` [limit, width]."""

    spec: LearnedPair

    @nn.compact
    def __call__(self, coords: Coords, width: int) -> Array:
        text_BTD = _look_up(self, "text", self.spec, coords, 0, width)
        return text_BTD + _look_up(self, "span", self.spec, coords, 1, width)


def _look_up(
    module: nn.Module, name: str, spec: Learned | LearnedPair, coords: Coords, stream: int, width: int
) -> Array:
    """The vectors of one stream of positions, from the table `name`."""
    table_XD = table(module, spec.limit, width, spec.init, name=name, axes=(None, *logical("d")))
    return rows_of(table_XD, coords.streams(spec.streams)[..., stream], coords)


def rows_of(table_XD: Array, at_BT: Array, coords: Coords) -> Array:
    """Rows of a table: not a number for one that it does not have; for padding, where anything stands, the nearest."""
    at_BT = at_BT.astype(jnp.promote_types(at_BT.dtype, jnp.int32))
    last = len(table_XD) - 1
    at_BT = jnp.where(coords.index >= 0, jnp.where(at_BT >= 0, at_BT, last + 1), at_BT.clip(0, last))
    return jnp.asarray(table_XD).at[at_BT].get(mode="fill", fill_value=jnp.nan)


POSITIONS = {Sinusoidal: SinusoidalModule, Learned: LearnedModule, LearnedPair: LearnedPairModule}


@dataclass(frozen=True, slots=True, kw_only=True)
class Embed:
    """Token vectors, times `scale` (the original Transformer: sqrt(width)), plus positions, normed, dropped out.

    types: learned vectors for that many token types (BERT). factor: width of all tables where it is not that of the
    stream (ALBERT). shrink: what the gradient of the tables is multiplied by (GLM-130B: 0.1).
    """

    vocab: Size
    width: Size
    position: Sinusoidal | Learned | LearnedPair | None = None
    types: Count = 0
    factor: Size | None = None
    scale: Number = 1.0
    norm: Norm | None = None
    dropout: Rate = 0.0
    shrink: float = 1.0
    init: Init = Normal()

    def __post_init__(self) -> None:
        check_fields(self)


class EmbedModule(nn.Module):
    """Owns the table [vocab, width]; returns the embedded tokens in `dtype`, and the table for a tied head."""

    spec: Embed

    @nn.compact
    def __call__(self, tokens_BT: Array, coords: Coords, dtype: jnp.dtype) -> tuple[Array, Array]:
        spec = self.spec
        width, letter = (spec.width, "d") if spec.factor is None else (spec.factor, "w")
        table_VD = table(self, spec.vocab, width, spec.init, axes=logical(f"v{letter}"))
        x_BTD = rows_of(table_VD, tokens_BT, coords) * spec.scale
        if spec.types:
            types_XD = table(self, spec.types, width, spec.init, name="types", axes=(None, *logical(letter)))
            x_BTD = x_BTD + (types_XD[0] if coords.type is None else rows_of(types_XD, coords.type, coords))
        if spec.position is not None:
            x_BTD = x_BTD + POSITIONS[type(spec.position)](spec.position, name="position")(coords, width)
        if spec.norm is not None:
            x_BTD = NormModule(spec.norm, axes=letter, name="norm")(x_BTD)
        if spec.shrink != 1:
            x_BTD = spec.shrink * x_BTD + (1 - spec.shrink) * jax.lax.stop_gradient(x_BTD)
        x_BTD = dropout(self, x_BTD.astype(dtype), spec.dropout)
        if spec.factor is not None:
            x_BTD = Project("btw,wd->btd", {"d": spec.width}, bias=True, weights=spec.init, name="widen")(x_BTD)
        return nn.with_logical_constraint(x_BTD, logical("btd")), table_VD


def table(
    module: nn.Module, count: int, width: int, init: Init, *, axes: tuple[str | None, ...], name: str = "table"
) -> Array:
    """Create an embedding table [count, width] of `module`, with the logical names of its two axes."""

    def start(key: Array, shape: tuple[int, ...]) -> Array:
        return draw(init, key, shape, width, count)

    return boxed(module, name, start, axes, (count, width))
