"""Norm placement is decided here: how a sublayer f joins the residual stream x.

    pre         x <- skip x + branch f(norm x)                     and one norm after the last block
    post        x <- norm(skip x + branch f(x))
    sandwich    x <- skip x + branch norm f(norm x)                and one norm after the last block
    output      x <- skip x + branch norm f(x)                     and one norm after the last block
    shifted     h = norm x,  x <- skip h + branch f(h)             and one norm after the last block
    hybrid      attention joins bare, x <- skip x + branch f(x), and feed-forward shifted
    normformer  attention joins sandwich, and feed-forward pre
    dual        x <- norm(skip x + branch f(x)),  d <- d + branch f(x)  and x + norm d after the last block
    rezero      x <- skip x + branch a f(x), a learned from 0
    parallel    x <- skip x + branch f(norm x) + branch g(norm x)  and one norm after the last block; g: feed-forward

A placement is a join for attention, one for feed-forward, and the way into and out of the stream: one line in
PLACEMENTS. `own.norm("before")` is the norm of that name, `own.number("gate", 0.0)` a learned scalar. DeepNorm is
`post` with a number: skip = (2L)^(1/4); GLM-130B's form of it is `shifted`. CompleteP is `pre` with a branch of c / L.
LayerScale is a branch that is learned for each channel, in any placement.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from fxformer.axes import logical
from fxformer.fields import Number, Positive, Rate, check_fields
from fxformer.layers.context import Layer, Side, dropout
from fxformer.layers.norm import Norm, NormModule, full
from fxformer.layers.number import like, weighted
from fxformer.layers.project import parameter
from fxformer.lookup import nearest
from fxformer.ops.statistic import Root

Sublayer = Callable[[Array], tuple[Array, Side]]


class Own(Protocol):
    """What a join may learn: norms and numbers, by name."""

    def norm(self, name: str) -> Callable[[Array], Array]: ...

    def number(self, name: str, start: float) -> Array: ...


def pre(x: Array, f: Sublayer, own: Own, skip: Array, branch: Number | Array) -> tuple[Array, Side]:
    """skip * x + branch * f(norm(x)). GPT-2; Xiong et al. 2020."""
    y, side = f(own.norm("before")(x))
    return skip * x + weighted(branch, y), side


def post(x: Array, f: Sublayer, own: Own, skip: Array, branch: Number | Array) -> tuple[Array, Side]:
    """norm(skip * x + branch * f(x)). Vaswani et al. 2017; with skip > 1 DeepNorm, Wang et al. 2022."""
    y, side = f(x)
    return own.norm("after")(skip * x + weighted(branch, y)), side


def sandwich(x: Array, f: Sublayer, own: Own, skip: Array, branch: Number | Array) -> tuple[Array, Side]:
    """skip * x + branch * norm(f(norm(x))). CogView, Ding et al. 2021; Peri-LN, Kim et al. 2025."""
    y, side = f(own.norm("before")(x))
    return skip * x + weighted(branch, own.norm("after")(y)), side


def output(x: Array, f: Sublayer, own: Own, skip: Array, branch: Number | Array) -> tuple[Array, Side]:
    """skip * x + branch * norm(f(x)). OLMo 2, 2024."""
    y, side = f(x)
    return skip * x + weighted(branch, own.norm("after")(y)), side


def shifted(x: Array, f: Sublayer, own: Own, skip: Array, branch: Number | Array) -> tuple[Array, Side]:
    """skip * h + branch * f(h) with h = norm(x): post-norm moved by one sublayer. GLM-130B, Zeng et al. 2022."""
    h = own.norm("before")(x)
    y, side = f(h)
    return skip * h + weighted(branch, y), side


def bare(x: Array, f: Sublayer, own: Own, skip: Array, branch: Number | Array) -> tuple[Array, Side]:
    """skip * x + branch * f(x): the sublayer norms inside. HybridNorm's attention, Zhuo et al. 2025."""
    y, side = f(x)
    return skip * x + weighted(branch, y), side


def dual(
    streams: tuple[Array, Array], f: Sublayer, own: Own, skip: Array, branch: Number | Array
) -> tuple[tuple[Array, Array], Side]:
    """Two streams, (norm(skip * x + branch * f(x)), d + branch * f(x)). ResiDual, Xie et al. 2023."""
    x, d = streams
    y, side = f(x)
    y = weighted(branch, y)
    return (own.norm("after")(skip * x + y), d + y), side


def rezero(x: Array, f: Sublayer, own: Own, skip: Array, branch: Number | Array) -> tuple[Array, Side]:
    """skip * x + branch * a f(x), a learned from 0: the identity at initialisation. Bachlechner et al. 2020."""
    y, side = f(x)
    return skip * x + own.number("gate", 0.0).astype(x.dtype) * weighted(branch, y), side


def beside(
    streams: tuple[Array, Array], f: Sublayer, own: Own, skip: Array, branch: Number | Array
) -> tuple[tuple[Array, Array], Side]:
    """(x, added + branch * f(norm(x))): what the next sublayer reads is still x. See `together`."""
    x, added = streams
    y, side = f(own.norm("before")(x))
    return (x, added + weighted(branch, y)), side


def together(
    streams: tuple[Array, Array], f: Sublayer, own: Own, skip: Array, branch: Number | Array
) -> tuple[tuple[Array, Array], Side]:
    """skip * x + added + branch * f(norm(x)): with `beside`, attention and feed-forward in parallel.

    Wang & Komatsuzaki 2021 (GPT-J) and Chowdhery et al. 2022 (PaLM), section 2, whose sublayers share one norm; each
    with its own: Black et al. 2022 (GPT-NeoX-20B), section 2.1.
    """
    x, added = streams
    y, side = f(own.norm("before")(x))
    x = skip * x + added + weighted(branch, y)
    return (x, jnp.zeros_like(x)), side


def as_is(x: Array, own: Own | None = None) -> Array:
    """The stream is the embedding, and what the last join leaves of it."""
    return x


def normed(x: Array, own: Own) -> Array:
    """The stream grew unnormalised: norm it once, at the end."""
    return own.norm("final")(x)


def doubled(x: Array) -> tuple[Array, Array]:
    """Both streams of ResiDual begin with the embedding."""
    return x, x


def summed(streams: tuple[Array, Array], own: Own) -> Array:
    """x + norm(d)."""
    x, d = streams
    return x + own.norm("final")(d)


def beside_nothing(x: Array) -> tuple[Array, Array]:
    """The stream, and what the sublayers of a block have added to it so far."""
    return x, jnp.zeros_like(x)


def first_normed(streams: tuple[Array, Array], own: Own) -> Array:
    """norm(x)."""
    return own.norm("final")(streams[0])


class Placement(NamedTuple):
    """How sublayers join the stream, how the stream leaves the stack, and how it enters."""

    attention: Callable[..., tuple[Any, Side]]
    ffn: Callable[..., tuple[Any, Side]]
    leave: Callable[..., Array] = normed
    enter: Callable[[Array], Any] = as_is


PLACEMENTS = {
    "pre": Placement(pre, pre),
    "post": Placement(post, post, leave=as_is),
    "sandwich": Placement(sandwich, sandwich),
    "output": Placement(output, output),
    "shifted": Placement(shifted, shifted),
    "hybrid": Placement(bare, shifted),
    "normformer": Placement(sandwich, pre),
    "dual": Placement(dual, dual, leave=summed, enter=doubled),
    "rezero": Placement(rezero, rezero, leave=as_is),
    "parallel": Placement(beside, together, leave=first_normed, enter=beside_nothing),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """Where the norms stand, what stream and branch are multiplied by, and dropout on the branch.

    branch: CompleteP's base depth / depth (Dey et al. 2025), Granite's residual_multiplier.
    layer_scale: where a learned factor on each channel of the branch starts, None has none. LayerScale, Touvron et al.
    2021 (CaiT), section 2: 0.1 up to 18 layers, 1e-5 up to 24, 1e-6 beyond.
    stochastic_depth: with a dropout key, how often the last block of the stack passes a row by, each sublayer for
    itself; block l of L does so l / L as often, and where it does not, its branch is scaled up as by dropout. Huang et
    al. 2016, eq. 4.
    """

    placement: str
    norm: Norm
    skip: Number = 1.0
    branch: Number = 1.0
    layer_scale: Positive | None = None
    dropout: Rate = 0.0
    stochastic_depth: Rate = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        nearest(PLACEMENTS, self.placement, "placement")


class ResidualModule(nn.Module):
    """Join a sublayer, "attention" or "ffn", to the stream; adds f's RMS / stream RMS to its statistics."""

    spec: Residual
    role: str

    @nn.compact
    def __call__(self, stream: Any, sublayer: Sublayer, layer: Layer) -> tuple[Any, Side]:
        spec = self.spec

        def f(h_BTD: Array) -> tuple[Array, Side]:
            y_BTD, side = sublayer(h_BTD)
            ratio = Root(mean_square(y_BTD), mean_square(main(stream)))
            return dropout(self, y_BTD, spec.dropout), side._replace(stats={**side.stats, "branch_ratio": ratio})

        join = getattr(PLACEMENTS[spec.placement], self.role)
        skip, branch = like(spec.skip, main(stream)), self._branch(main(stream), layer)
        stream, side = join(stream, f, OwnParameters(self, spec.norm), skip, branch)
        return jax.tree.map(lambda x_BTD: nn.with_logical_constraint(x_BTD, logical("btd")), stream), side

    def _branch(self, x_BTD: Array, layer: Layer) -> Number | Array:
        """What the branch is multiplied by: one number, or some for each channel and row."""
        spec, (batch, _, width) = self.spec, x_BTD.shape
        branch: Number | Array = spec.branch
        if spec.layer_scale is not None:
            branch = branch * parameter(self, "layer_scale", full(spec.layer_scale), "d", {"d": width})
        if spec.stochastic_depth and self.has_rng("dropout"):
            stays = 1 - spec.stochastic_depth * (layer.number + 1) / layer.of
            branch = branch * jax.random.bernoulli(self.make_rng("dropout"), stays, (batch, 1, 1)) / stays
        return branch


class OwnParameters(NamedTuple):
    """`Own` whose parameters belong to `module`; `suffix` ends the names of its norms."""

    module: nn.Module
    spec: Norm
    suffix: str = ""

    def norm(self, name: str) -> NormModule:
        return NormModule(self.spec, name=f"{name}{self.suffix}")

    def number(self, name: str, start: float) -> Array:
        return parameter(self.module, name, full(start), "", {})


def main(stream: Any) -> Array:
    """The stream that sublayers read, [B, T, D]: the first, where a placement has two."""
    return jax.tree.leaves(stream)[0]


def mean_square(x: Array) -> Array:
    """mean(x^2) over everything, one float32 number."""
    return jnp.mean(jnp.square(x.astype(jnp.float32)))
