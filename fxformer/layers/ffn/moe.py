"""Mixture of experts: many feed-forward layers, of which each token passes a few."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from fxformer.axes import logical
from fxformer.fields import Rate, Size, check_fields
from fxformer.layers.context import Context, Side
from fxformer.layers.ffn.dense import DENSE, GLU, MLP
from fxformer.layers.project import FanIn, Init, Project, cut_along, parameter, zeros
from fxformer.ops.dispatch import Dispatch, Dropless, Experts, Own, dispatch
from fxformer.ops.route import Router, Routing, check_router, route
from fxformer.ops.statistic import Mean, Statistic, Whole


@dataclass(frozen=True, slots=True, kw_only=True)
class MoE:
    """shared(x) + sum of weight_i * expert_i(x) over the experts that the router chooses. Shazeer et al. 2017, eq. 1.

    expert: what each of the `experts` is. shared: a layer that every token passes (DeepSeek-V2, section 2.2).
    dispatch: whether experts have a capacity. router_bias: added to the router's logits.
    selection_bias: added to the scores that choose, not to the weights; it gets no gradient, see `ops.route.balance`.
    per_row: the tokens of a row, not of the whole batch, queue and are balanced together (GShard's groups, the
    sequence-wise loss of DeepSeek-V3). jitter: with a dropout key the router sees x * U(1 - jitter, 1 + jitter), Fedus
    et al. 2021, section 2.4.
    """

    experts: Size
    expert: MLP | GLU
    router: Router
    dispatch: Dispatch = Dropless()
    shared: MLP | GLU | None = None
    router_bias: bool = False
    selection_bias: bool = False
    per_row: bool = False
    jitter: Rate = 0.0
    router_init: Init = FanIn()

    def __post_init__(self) -> None:
        check_fields(self)
        check_router(self.router, self.experts)


class MoEModule(nn.Module):
    """Parameters `router`, `experts`, and `selection_bias` and `shared` where the spec has them.

    Losses `balance` and `router_z`, as far as the router has them. Statistics: `load` [E], the share of all choices
    that fell on each expert; `load_max`, the largest share times E (1 when even); `load_entropy` in nats; `dropped`,
    the share of choices that found no place.
    """

    spec: MoE

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context) -> tuple[Array, Side]:
        spec, (batch, tokens, width) = self.spec, x_BTD.shape
        valid_BT = jnp.broadcast_to(context.coords.there, (batch, tokens))
        rows = batch if spec.per_row else 1
        routing = self._route(x_BTD, valid_BT, rows)
        experts = self._experts(width, context)
        y_BTD, kept_BTM = dispatch(spec.dispatch, x_BTD.reshape(rows, -1, width), routing, experts)
        y_BTD = y_BTD.reshape(x_BTD.shape)
        if spec.shared is not None:
            y_BTD = y_BTD + DENSE[type(spec.shared)](spec.shared, name="shared")(x_BTD, context)[0]
        return y_BTD, Side(losses=routing.losses, stats=_stats(routing, kept_BTM))

    def _experts(self, width: int, context: Context) -> Experts:
        """The dense layer mapped over groups of slots, its parameters stacked on a leading expert axis."""
        spec = self.spec
        layer = DENSE[type(spec.expert)](spec.expert, parent=None)

        def init(key: Array) -> Any:
            keys_E, nothing_BTD = jax.random.split(key, spec.experts), jnp.zeros((1, 1, width), jnp.float32)
            params = jax.vmap(lambda key: layer.init(key, nothing_BTD, context)["params"])(keys_E)
            return nn.meta.add_axis(params, 0, {nn.PARTITION_NAME: logical("e")[0]})

        params = self.param("experts", init)
        key = self.make_rng("dropout") if self.has_rng("dropout") else None

        def compute(x_XCD: Array, own: Own) -> Array:
            x_XCD = cut_along(x_XCD, "e")
            rngs_X = {} if key is None else {"dropout": jax.random.split(key, x_XCD.shape[0])}
            with nn.logical_axis_rules(()):  # slots are not a batch
                y_XCD = jax.vmap(one)(own(params), x_XCD, rngs_X)
            return cut_along(y_XCD, "e")

        def one(params: Any, x_CD: Array, rngs: dict[str, Array]) -> Array:
            y_BTD, _ = layer.apply({"params": params}, x_CD[None], context, rngs=rngs)
            return y_BTD[0]

        return compute

    def _route(self, x_BTD: Array, valid_BT: Array, rows: int) -> Routing:
        """Float32 throughout, also where products of float32 are otherwise rounded; all tokens in `rows` rows."""
        spec, sizes = self.spec, {"e": self.spec.experts}
        x_BTD = x_BTD.astype(jnp.float32)
        if spec.jitter and self.has_rng("dropout"):
            low, high = 1 - spec.jitter, 1 + spec.jitter
            x_BTD = x_BTD * jax.random.uniform(self.make_rng("dropout"), x_BTD.shape, jnp.float32, low, high)
        project = Project("btd,de->bte", sizes, spec.router_bias, spec.router_init, name="router")
        with jax.default_matmul_precision("highest"):
            logits_BTE = project(x_BTD).reshape(rows, -1, spec.experts)
        bias_E = (
            parameter(self, "selection_bias", zeros, "e", sizes)
            if spec.selection_bias
            else jnp.zeros(spec.experts, jnp.float32)
        )
        key = self.make_rng("dropout") if self.has_rng("dropout") else None
        return route(spec.router, logits_BTE, valid_BT.reshape(rows, -1), bias_E=bias_E, key=key)


def _stats(routing: Routing, kept_BTM: Array) -> dict[str, Statistic]:
    load_E = routing.load_E
    made = jnp.sum(routing.expert_BTM < load_E.size)
    return {
        "load": Whole(load_E),
        "load_max": Whole(load_E.size * jnp.max(load_E)),
        "load_entropy": Whole(jnp.sum(jax.scipy.special.entr(load_E))),
        "dropped": Mean((made - jnp.sum(kept_BTM)).astype(jnp.float32), made),
    }
