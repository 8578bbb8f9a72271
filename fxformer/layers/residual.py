"""Norm placement is decided here: how a sublayer f joins the residual stream x.

    pre        x <- skip * x + f(norm(x))              and one norm after the last block
    post       x <- norm(skip * x + f(x))
    sandwich   x <- skip * x + norm(f(norm(x)))        and one norm after the last block

A placement is two functions, `join` for each sublayer and `leave` after the last block, and one line in PLACEMENTS.
`norm("before")` applies the norm of that name. DeepNorm is `post` with a number: skip = (2L)^(1/4).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fxformer.axes import logical
from fxformer.layers.context import Side, check_rate, dropout
from fxformer.layers.norm import Norm, NormModule
from fxformer.names import nearest

Sublayer = Callable[[Array], tuple[Array, Side]]
Norms = Callable[[str], Callable[[Array], Array]]


def pre(x: Array, f: Sublayer, norm: Norms, skip: float) -> tuple[Array, Side]:
    """skip * x + f(norm(x)). GPT-2; Xiong et al. 2020."""
    branch, side = f(norm("before")(x))
    return skip * x + branch, side


def post(x: Array, f: Sublayer, norm: Norms, skip: float) -> tuple[Array, Side]:
    """norm(skip * x + f(x)). Vaswani et al. 2017; with skip > 1 DeepNorm, Wang et al. 2022."""
    branch, side = f(x)
    return norm("after")(skip * x + branch), side


def sandwich(x: Array, f: Sublayer, norm: Norms, skip: float) -> tuple[Array, Side]:
    """skip * x + norm(f(norm(x))). CogView, Ding et al. 2021; Peri-LN, Kim et al. 2025."""
    branch, side = f(norm("before")(x))
    return skip * x + norm("after")(branch), side


def normed(x: Array, norm: Norms) -> Array:
    """The stream grew unnormalised: norm it once, at the end."""
    return norm("final")(x)


def as_is(x: Array, norm: Norms) -> Array:
    """The last join normalised the stream already."""
    return x


class Placement(NamedTuple):
    """How sublayers join the stream, and how the stream leaves the stack."""

    join: Callable[[Array, Sublayer, Norms, float], tuple[Array, Side]]
    leave: Callable[[Array, Norms], Array]


PLACEMENTS = {
    "pre": Placement(pre, leave=normed),
    "post": Placement(post, leave=as_is),
    "sandwich": Placement(sandwich, leave=normed),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """Where the norms stand and how the stream is weighted: placement, norm, skip and dropout on the branch."""

    placement: str
    norm: Norm
    skip: float = 1.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        nearest(PLACEMENTS, self.placement, "placement")
        check_rate(self.dropout)


class ResidualModule(nn.Module):
    """Join a sublayer to the stream; adds the ratio branch RMS / stream RMS to its statistics."""

    spec: Residual

    @nn.compact
    def __call__(self, x_BTD: Array, sublayer: Sublayer) -> tuple[Array, Side]:
        spec = self.spec

        def f(h_BTD: Array) -> tuple[Array, Side]:
            y_BTD, side = sublayer(h_BTD)
            ratio = root_mean_square(y_BTD) / root_mean_square(x_BTD)
            return dropout(self, y_BTD, spec.dropout), side._replace(stats={**side.stats, "branch_ratio": ratio})

        def norm(name: str) -> NormModule:
            return NormModule(spec.norm, name=name)

        x_BTD, side = PLACEMENTS[spec.placement].join(x_BTD, f, norm, spec.skip)
        return nn.with_logical_constraint(x_BTD, logical("btd")), side


def root_mean_square(x: Array) -> Array:
    """sqrt(mean(x^2)) over everything, one float32 number."""
    return jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32))))
