"""Grouped-query attention: MHA has a key head for each query head, MQA has one for all. Ainslie et al. 2023."""

from dataclasses import dataclass

import flax.linen as nn
import jax
from jax import Array

from fxformer.cache import Table, extend
from fxformer.layers.context import Context, Side
from fxformer.layers.norm import Norm, NormModule
from fxformer.layers.project import FanIn, Init, Project
from fxformer.ops.attend import Scores, attend, check_heads, logit_stats
from fxformer.ops.mask import Causal, Mask
from fxformer.ops.rotary import Rotary, rotate


@dataclass(frozen=True, slots=True, kw_only=True)
class GQA:
    """Queries in `heads` heads attend to keys and values in `kv_heads` heads of `key_width` channels.

    qk_norm: norm of each query and key head before rotation, its gain shared by the heads. Dehghani et al. 2023.
    softcap: bound on the logits, Gemma Team 2024. scale: None is 1 / sqrt(key_width).
    bias: on query, key and value; out_bias: on the output. init: of query and key.
    """

    heads: int
    kv_heads: int
    key_width: int
    mask: Mask = Causal()
    rotary: Rotary | None = None
    qk_norm: Norm | None = None
    softcap: float | None = None
    scale: float | None = None
    bias: bool = False
    out_bias: bool = False
    init: Init = FanIn()
    value_init: Init = FanIn()
    out_init: Init = FanIn()

    def __post_init__(self) -> None:
        check_heads(self.heads, self.kv_heads)
        if self.key_width < 1:
            raise ValueError(f"key_width={self.key_width} leaves no channel to compare; use 1 or more")
        if self.softcap is not None and self.softcap <= 0:
            raise ValueError(f"softcap={self.softcap} bounds nothing; use more than 0, or None for no bound")
        if self.rotary is not None and self.rotary.width * self.rotary.streams > self.key_width:
            raise ValueError(
                f"rotary rotates {self.rotary.width * self.rotary.streams} channels, "
                f"key_width={self.key_width}; use at most as many"
            )

    @property
    def records(self) -> dict[str, tuple[int, ...]]:
        """What one token leaves in the cache: name -> shape."""
        return {"key": (self.kv_heads, self.key_width), "value": (self.kv_heads, self.key_width)}


class GQAModule(nn.Module):
    """Parameters `query`, `key`, `value`, `out`, and `query_norm`, `key_norm` where the spec has a qk_norm."""

    spec: GQA

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, table: Table | None) -> tuple[Array, Side]:
        spec, coords = self.spec, context.coords
        query_sizes = {"h": spec.heads, "k": spec.key_width}
        key_sizes = {"g": spec.kv_heads, "k": spec.key_width}
        q_BTHK = Project("btd,dhk->bthk", query_sizes, spec.bias, spec.init, name="query")(x_BTD)
        k_BTGK = Project("btd,dgk->btgk", key_sizes, spec.bias, spec.init, name="key")(x_BTD)
        v_BTGK = Project("btd,dgk->btgk", key_sizes, spec.bias, spec.value_init, name="value")(x_BTD)
        if spec.qk_norm is not None:
            q_BTHK = NormModule(spec.qk_norm, axis="k", name="query_norm")(q_BTHK)
            k_BTGK = NormModule(spec.qk_norm, axis="k", name="key_norm")(k_BTGK)
        if spec.rotary is not None:
            q_BTHK = rotate(q_BTHK, coords.positions, spec.rotary)
            k_BTGK = rotate(k_BTGK, coords.positions, spec.rotary)

        seen = Table({"key": k_BTGK, "value": v_BTGK}, coords, spec.mask.reach)
        if table is not None:
            table, seen = extend(table, seen.records, coords)
        k_BSGK, v_BSGK = seen.records["key"], seen.records["value"]
        y_BTHK = attend(
            q_BTHK,
            k_BSGK,
            v_BSGK,
            mask=spec.mask,
            q=coords,
            k=seen.coords,
            bias=context.bias,
            scale=spec.scale,
            softcap=spec.softcap,
            kernel=context.execution.kernel,
        )
        scores = Scores(mask=spec.mask, scale=spec.scale, softcap=spec.softcap)
        stats = logit_stats(*jax.lax.stop_gradient((q_BTHK, k_BSGK, context.bias)), scores, coords, seen.coords)
        out_sizes = {"d": x_BTD.shape[-1]}
        y_BTD = Project("bthk,hkd->btd", out_sizes, spec.out_bias, spec.out_init, name="out")(y_BTHK)
        return y_BTD, Side(tables=table, stats=stats)
