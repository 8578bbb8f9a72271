"""Tokens in, logits out: the embedding with its absolute positions, and the head, tied to it or free."""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from fxformer.axes import logical
from fxformer.coords import Coords
from fxformer.layers.context import check_rate, dropout
from fxformer.layers.norm import Norm, NormModule
from fxformer.layers.project import FanIn, Init, Normal, Project, boxed
from fxformer.ops.position import sinusoids


@dataclass(frozen=True, slots=True, kw_only=True)
class Sinusoidal:
    """Fixed sines and cosines added to the embedding. Vaswani et al. 2017, section 3.5."""

    base: float = 10_000.0
    limit: ClassVar[None] = None  # any position has its sines


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A learned vector for each of `limit` positions, added to the embedding (GPT, BERT)."""

    limit: int
    init: Init = Normal()


class SinusoidalModule(nn.Module):
    """Has no parameters."""

    spec: Sinusoidal

    @nn.compact
    def __call__(self, coords: Coords, width: int) -> Array:
        return sinusoids(coords.positions, width, base=self.spec.base)


class LearnedModule(nn.Module):
    """Owns the table [limit, width]."""

    spec: Learned

    @nn.compact
    def __call__(self, coords: Coords, width: int) -> Array:
        limit = self.spec.limit
        table_XD = table(self, limit, width, self.spec.init, rows=None)
        return table_XD.at[coords.positions].get(mode="fill", fill_value=jnp.nan)


POSITIONS = {Sinusoidal: SinusoidalModule, Learned: LearnedModule}


@dataclass(frozen=True, slots=True, kw_only=True)
class Embed:
    """Token vectors, times `scale` (the original Transformer: sqrt(width)), plus positions, normed, dropped out."""

    vocab: int
    width: int
    position: Sinusoidal | Learned | None = None
    scale: float = 1.0
    norm: Norm | None = None
    dropout: float = 0.0
    init: Init = Normal()

    def __post_init__(self) -> None:
        if self.vocab < 1 or self.width < 1:
            raise ValueError(f"embedding of vocab={self.vocab}, width={self.width} is empty; use 1 or more of each")
        check_rate(self.dropout)


class EmbedModule(nn.Module):
    """Owns the table [vocab, width]; returns the embedded tokens in `dtype`, and the table for a tied head."""

    spec: Embed

    @nn.compact
    def __call__(self, tokens_BT: Array, coords: Coords, dtype: jnp.dtype) -> tuple[Array, Array]:
        spec = self.spec
        table_VD = table(self, spec.vocab, spec.width, spec.init, rows="v")
        x_BTD = table_VD[tokens_BT] * spec.scale
        if spec.position is not None:
            position = POSITIONS[type(spec.position)](spec.position, name="position")
            x_BTD = x_BTD + position(coords, spec.width)
        if spec.norm is not None:
            x_BTD = NormModule(spec.norm, name="norm")(x_BTD)
        x_BTD = dropout(self, x_BTD.astype(dtype), spec.dropout)
        return nn.with_logical_constraint(x_BTD, logical("btd")), table_VD


@dataclass(frozen=True, slots=True, kw_only=True)
class Tied:
    """Logits are scale * x E^T with the embedding's own table. Press & Wolf 2017."""

    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """Logits are x W with a matrix of their own."""

    bias: bool = False
    init: Init = FanIn()


class TiedModule(nn.Module):
    """Has no parameters."""

    spec: Tied

    @nn.compact
    def __call__(self, x_BTD: Array, table_VD: Array) -> Array:
        flat_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        logits_NV = self.spec.scale * (flat_ND @ table_VD.astype(x_BTD.dtype).T)
        return nn.with_logical_constraint(logits_NV.reshape(*x_BTD.shape[:2], -1), logical("btv"))


class FreeModule(nn.Module):
    """Parameter `out`."""

    spec: Free

    @nn.compact
    def __call__(self, x_BTD: Array, table_VD: Array) -> Array:
        sizes = {"v": table_VD.shape[0]}
        return Project("btd,dv->btv", sizes, self.spec.bias, self.spec.init, name="out")(x_BTD)


HEADS = {Tied: TiedModule, Free: FreeModule}


def table(module: nn.Module, count: int, width: int, init: Init, *, rows: str | None) -> Array:
    """Create the embedding table [count, width] of `module`; `rows` is the letter of its first axis."""

    def normal(key: Array, shape: tuple[int, ...]) -> Array:
        return init.std(width, count) * jax.random.normal(key, shape)

    axes = (None if rows is None else logical(rows)[0], *logical("d"))
    return boxed(module, "table", normal, axes, (count, width))
