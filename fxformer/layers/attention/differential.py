"""Differential attention: two maps of weights are subtracted, so that what both see as noise is gone. Ye et al. 2024.

Queries and keys are those of grouped-query attention of twice the heads, two for each head here, one after the other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from fxformer.cache import Seen, Sizes, Table, extend
from fxformer.coords import Coords
from fxformer.fields import Least, Positive, Rate, Size, check_fields
from fxformer.layers.attention.gqa import GQA, keys, queries
from fxformer.layers.context import Context, Side, cut, maps_of
from fxformer.layers.norm import Norm, NormModule
from fxformer.layers.project import FanIn, Init, Normal, Project, draw, parameter
from fxformer.ops.attend import attend, check_heads
from fxformer.ops.mask import Causal, Mask
from fxformer.ops.rotary import Rotary
from fxformer.ops.scores import Scores, Terms, logit_stats


@dataclass(frozen=True, slots=True, kw_only=True)
class Differential:
    """(softmax(q1 k1) - lambda softmax(q2 k2)) v in each head, normed, times 1 - s. Ye et al. 2024, eq. 1 to 3.

    lambda = exp(a1 . b1) - exp(a2 . b2) + s with learned vectors; s = last - (last - first) exp(-pace l) in block
    l = 0, 1, … Keys of `kv_heads` heads have `key_width` channels in each map, values twice as many: where GQA has 2 H
    heads, this has H. norm: of each head. qk_norm, softcap, scale, dropout, init: as in GQA. vector_init: of a and b.
    """

    heads: Size
    kv_heads: Size
    key_width: Size
    mask: Mask = Causal()
    rotary: Rotary | None = None
    qk_norm: Norm | None = None
    softcap: Positive | None = None
    scale: float | None = None
    norm: Norm = Norm(kind="rms", eps=1e-5)
    first: float = 0.2
    last: float = 0.8
    pace: Least = 0.3
    dropout: Rate = 0.0
    init: Init = FanIn()
    value_init: Init = FanIn()
    out_init: Init = FanIn()
    vector_init: Init = Normal(0.1)

    def __post_init__(self) -> None:
        check_fields(self)
        check_heads(self.heads, self.kv_heads)
        _ = self.pairs  # which refuses a rotation that is wider than a key

    @property
    def pairs(self) -> GQA:
        """The attention whose queries and keys these are: two heads for each."""
        return GQA(
            heads=2 * self.heads,
            kv_heads=2 * self.kv_heads,
            key_width=self.key_width,
            rotary=self.rotary,
            qk_norm=self.qk_norm,
            init=self.init,
        )

    @property
    def value_width(self) -> int:
        """Channels of a value: as many as both keys of its head have."""
        return 2 * self.key_width

    @property
    def records(self) -> Sizes:
        """What one token leaves in the cache."""
        return {
            "key": {"g": 2 * self.kv_heads, "k": self.key_width},
            "value": {"g": self.kv_heads, "u": self.value_width},
        }

    @property
    def placed(self) -> bool:
        """Whether it reads where in the stack it stands: s does."""
        return True

    @property
    def records_of_first(self) -> Sizes:
        """It takes nothing of the first block."""
        return {}

    def start(self, number: Array | int) -> Array:
        """s of block `number`, counted from 0."""
        return self.last - (self.last - self.first) * jnp.exp(-self.pace * jnp.asarray(number, jnp.float32))


class DifferentialModule(nn.Module):
    """Parameters `query`, `key`, `value`, `out`, `norm`, and the vectors `lambda_query_1`, `lambda_key_1`, … _2."""

    spec: Differential

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, table: Table | None) -> tuple[Array, Side]:
        spec, coords = self.spec, context.coords
        q_BTHK = queries(spec.pairs, x_BTD, coords)
        sizes = {"g": spec.kv_heads, "u": spec.value_width}
        v_BTGU = Project("btd,dgu->btgu", sizes, weights=spec.value_init, name="value")(x_BTD)
        seen = Seen({"key": keys(spec.pairs, x_BTD, coords), "value": v_BTGU}, coords)
        if table is not None:
            table, seen = extend(table, seen.records, coords, context.memory_tokens)

        start = spec.start(context.place.number)
        weight = (self._lambda() + start).astype(x_BTD.dtype)
        maps = [(q_BTHK[:, :, i::2], seen.records["key"][:, :, i::2]) for i in (0, 1)]
        looks = [self._look(*one, seen.coords, context, context.execution.kernel_for(table)) for one in maps]

        def read(v_BSGU: Array) -> Array:
            return looks[0](v_BSGU) - weight * looks[1](v_BSGU)

        y_BTHU = NormModule(spec.norm, axes="u", name="norm")(read(seen.records["value"]))
        y_BTHU = y_BTHU * (1 - start).astype(x_BTD.dtype)
        y_BTD = Project("bthu,hud->btd", {"d": x_BTD.shape[-1]}, weights=spec.out_init, name="out")(y_BTHU)

        scores = Scores(mask=spec.mask, scale=spec.scale, softcap=spec.softcap)
        maps, terms = jax.lax.stop_gradient((maps, Terms(q=coords, k=seen.coords, bias=context.bias)))
        first, second = (logit_stats(*one, scores, terms) for one in maps)
        stats = {name: jax.tree.map(lambda *two: jnp.stack(two), first[name], second[name]).pooled() for name in first}
        return y_BTD, Side(tables=table, stats={**stats, **maps_of(context, read, seen.records["value"])})

    def _look(
        self, q_BTHK: Array, k_BSGK: Array, seen: Coords, context: Context, kernel: str | None
    ) -> Callable[[Array], Array]:
        """What one map of weights reads in values [B, S, G, U], [B, T, H, U]."""
        spec = self.spec
        return partial(
            attend,
            q_BTHK,
            k_BSGK,
            mask=spec.mask,
            q=context.coords,
            k=seen,
            bias=context.bias,
            scale=spec.scale,
            softcap=spec.softcap,
            dropout=spec.dropout,
            key=self.make_rng("dropout") if spec.dropout and self.has_rng("dropout") else None,
            kernel=kernel,
            cut=cut(),
        )

    def _lambda(self) -> Array:
        """exp(a1 . b1) - exp(a2 . b2), float32: 0 on average at initialisation."""

        def vector(name: str) -> Array:
            return parameter(
                self,
                f"lambda_{name}",
                lambda key, shape: draw(self.spec.vector_init, key, shape, 1, 1),
                "k",
                {"k": self.spec.key_width},
            )

        first, second = (jnp.exp(jnp.sum(vector(f"query_{i}") * vector(f"key_{i}"))) for i in (1, 2))
        return first - second
