"""Grouped-query attention: MHA has a key head for each query head, MQA has one for all. Ainslie et al. 2023.

`CrossModule` is the same attention with keys and values of an encoder's tokens.
"""

from dataclasses import dataclass, replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from fxformer.cache import CrossTable, Records, Seen, Sizes, Table, extend, fill, look
from fxformer.coords import Coords
from fxformer.fields import Positive, Rate, Share, Size, check_fields
from fxformer.layers.bias import Buckets, BucketsModule
from fxformer.layers.context import Context, Layer, Side, cut, maps_of
from fxformer.layers.norm import Norm, NormModule, full
from fxformer.layers.project import FanIn, Init, Project, identity, ones, parameter, zeros
from fxformer.lookup import nearest
from fxformer.ops.attend import attend, check_heads
from fxformer.ops.mask import Causal, Mask
from fxformer.ops.rotary import Rotary, rotate
from fxformer.ops.scores import Scores, Terms, logit_stats
from fxformer.ops.statistic import Statistic

GATES = {"head": "btd,dh->bth", "channel": "btd,dhk->bthk"}  # what has a gate of its own, and how it is made


@dataclass(frozen=True, slots=True, kw_only=True)
class GQA:
    """Queries in `heads` heads attend to keys and values in `kv_heads` heads of `key_width` channels.

    qk_norm: norm of queries and keys before rotation, one gain for all heads. Dehghani et al. 2023.
    joint_norm: it spans all heads of a token, with a gain for each channel (OLMo 2).
    value_norm: norm of each value head (HybridNorm). out_norm: of all heads, before the output matrix (Sub-LN).
    value_residual: v <- a v_1 + b v, v_1 of the first block, a and b learned; a starts there, b at 1 less. Value
    residual, Zhou et al. 2024 (ResFormer), where both start at 0.5.
    softcap: bound on the logits, Gemma Team 2024. scale: None is 1 / sqrt(key_width).
    sinks: a learned logit for each head that takes weight and gives nothing (gpt-oss).
    mix_logits, mix_weights: a learned map from all heads to all heads, before and after the softmax; it starts as no
    map at all. Talking heads, Shazeer et al. 2020.
    relative: a learned logit bias of this layer alone; one that layers share is the stack's (GLaM).
    head_gains: a learned factor on each head's output (NormFormer, Shleifer et al. 2021).
    gate: a name in GATES: y <- y sigmoid(x W), for each head or each of its channels (Qiu et al. 2025, G1).
    bias: on query, key and value; out_bias: on the output. dropout: of attention weights. init: of query and key.
    """

    heads: Size
    kv_heads: Size
    key_width: Size
    mask: Mask = Causal()
    rotary: Rotary | None = None
    qk_norm: Norm | None = None
    joint_norm: bool = False
    value_norm: Norm | None = None
    value_residual: Share | None = None
    out_norm: Norm | None = None
    softcap: Positive | None = None
    scale: float | None = None
    sinks: bool = False
    mix_logits: bool = False
    mix_weights: bool = False
    relative: Buckets | None = None
    head_gains: bool = False
    gate: str | None = None
    bias: bool = False
    out_bias: bool = False
    dropout: Rate = 0.0
    init: Init = FanIn()
    key_init: Init | None = None
    value_init: Init = FanIn()
    out_init: Init = FanIn()

    def __post_init__(self) -> None:
        check_fields(self)
        check_heads(self.heads, self.kv_heads)
        if self.sinks and self.mix_weights:
            raise ValueError(
                "sinks=True takes weight from each head, which mix_weights=True has mixed by then; use one"
            )
        if self.gate is not None:
            nearest(GATES, self.gate, "gate")
        if self.joint_norm and self.qk_norm is None:
            raise ValueError("joint_norm=True spans the heads with a qk_norm that is None; give a qk_norm")
        if self.relative is not None and self.relative.heads != self.heads:
            raise ValueError(
                f"relative has heads={self.relative.heads}, attention has heads={self.heads}; give as many"
            )
        if self.rotary is not None and self.rotary.width * self.rotary.streams > self.key_width:
            raise ValueError(
                f"rotary rotates {self.rotary.width * self.rotary.streams} channels, "
                f"key_width={self.key_width}; use at most as many"
            )

    @property
    def records(self) -> Sizes:
        """What one token leaves in the cache."""
        return {name: {"g": self.kv_heads, "k": self.key_width} for name in ("key", "value")}

    @property
    def placed(self) -> bool:
        """Whether it reads where in the stack it stands."""
        return self.value_residual is not None

    @property
    def records_of_first(self) -> Sizes:
        """What the first block of the stack hands to all of them."""
        return {} if self.value_residual is None else {"value": self.records["value"]}


class GQAModule(nn.Module):
    """Parameters `query`, `key`, `value`, `out`, and norms, sinks, gains and gates where the spec has them."""

    spec: GQA

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, table: Table | None) -> tuple[Array, Side]:
        q_BTHK = queries(self.spec, x_BTD, context.coords)
        records, first = _with_first(self, _records(self.spec, x_BTD, context.coords), context.place)
        seen = Seen(records, context.coords)
        if table is not None:
            table, seen = extend(table, records, context.coords, context.memory_tokens)
        y_BTD, stats = _look(self, x_BTD, q_BTHK, seen, context, context.execution.kernel_for(table))
        return y_BTD, Side(tables=table, stats=stats, first=first)


class CrossModule(nn.Module):
    """The parameters of `GQAModule`; keys and values are those of the memory, or of the table where it was filled."""

    spec: GQA

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, table: CrossTable | None) -> tuple[Array, Side]:
        memory = context.memory
        q_BTHK = queries(self.spec, x_BTD, context.coords)
        if memory is None:
            assert table is not None, "cross-attention has neither a memory nor a cache"
            seen = look(table, x_BTD.dtype)
        else:
            hidden_BSD = memory.hidden.astype(x_BTD.dtype)
            seen = Seen(_records(self.spec, hidden_BSD, memory.coords), memory.coords)
            table = None if table is None else fill(table, seen.records, seen.coords)
        context = replace(context, bias=None)
        y_BTD, stats = _look(self, x_BTD, q_BTHK, seen, context, context.execution.kernel)
        return y_BTD, Side(tables=table, stats=stats)


def queries(spec: GQA, x_BTD: Array, coords: Coords) -> Array:
    """The queries [B, T, H, K] of the module this is called in, normed and rotated."""
    sizes = {"h": spec.heads, "k": spec.key_width}
    q_BTHK = Project("btd,dhk->bthk", sizes, spec.bias, spec.init, name="query")(x_BTD)
    if spec.qk_norm is not None:
        q_BTHK = NormModule(spec.qk_norm, axes="hk" if spec.joint_norm else "k", name="query_norm")(q_BTHK)
    return q_BTHK if spec.rotary is None else rotate(q_BTHK, coords.streams(spec.rotary.streams), spec.rotary)


def keys(spec: GQA, x_BSD: Array, coords: Coords) -> Array:
    """The keys [B, S, G, K], likewise."""
    sizes = {"g": spec.kv_heads, "k": spec.key_width}
    key_init = spec.init if spec.key_init is None else spec.key_init
    k_BSGK = Project("btd,dgk->btgk", sizes, spec.bias, key_init, name="key")(x_BSD)
    if spec.qk_norm is not None:
        k_BSGK = NormModule(spec.qk_norm, axes="gk" if spec.joint_norm else "k", name="key_norm")(k_BSGK)
    return k_BSGK if spec.rotary is None else rotate(k_BSGK, coords.streams(spec.rotary.streams), spec.rotary)


def _records(spec: GQA, x_BSD: Array, coords: Coords) -> Records:
    sizes = {"g": spec.kv_heads, "k": spec.key_width}
    k_BSGK = keys(spec, x_BSD, coords)
    v_BSGK = Project("btd,dgk->btgk", sizes, spec.bias, spec.value_init, name="value")(x_BSD)
    if spec.value_norm is not None:
        v_BSGK = NormModule(spec.value_norm, axes="k", name="value_norm")(v_BSGK)
    return {"key": k_BSGK, "value": v_BSGK}


def _with_first(module: GQAModule, records: Records, layer: Layer) -> tuple[Records, Records]:
    """The records with the values of the first block in them, and what of them all blocks are handed."""
    start = module.spec.value_residual
    if start is None:
        return records, {}
    v_BTGK = records["value"]
    weight_first, weight_own = (
        parameter(module, name, full(value), "", {}).astype(v_BTGK.dtype)
        for name, value in (("value_first", start), ("value_own", 1 - start))
    )
    is_first = layer.number == 0
    first_BTGK = jnp.where(is_first, v_BTGK, layer.first.get("value", v_BTGK))
    v_BTGK = jnp.where(is_first, v_BTGK, weight_first * first_BTGK + weight_own * v_BTGK)
    return {**records, "value": v_BTGK}, {"value": first_BTGK}


def _look(
    module: nn.Module, x_BTD: Array, q_BTHK: Array, seen: Seen, context: Context, kernel: str | None
) -> tuple[Array, dict[str, Statistic]]:
    """What the queries made of x read in `seen`, back in the width of the stream, and statistics of the logits."""
    spec: GQA = module.spec
    k_BSGK, v_BSGK = seen.records["key"], seen.records["value"]
    sizes = {"h": spec.heads, "o": spec.heads, "k": spec.key_width}
    mix_logits_HO = parameter(module, "mix_logits", identity, "ho", sizes) if spec.mix_logits else None
    mix_weights_OH = parameter(module, "mix_weights", identity, "oh", sizes) if spec.mix_weights else None
    bias = context.bias if spec.relative is None else BucketsModule(spec.relative, name="relative")()
    read = partial(
        attend,
        q_BTHK,
        k_BSGK,
        mask=spec.mask,
        q=context.coords,
        k=seen.coords,
        bias=bias,
        scale=spec.scale,
        softcap=spec.softcap,
        sink_H=parameter(module, "sinks", zeros, "h", sizes) if spec.sinks else None,
        mix_logits_HO=mix_logits_HO,
        mix_weights_OH=mix_weights_OH,
        dropout=spec.dropout,
        key=module.make_rng("dropout") if spec.dropout and module.has_rng("dropout") else None,
        kernel=kernel,
        cut=cut(),
    )
    y_BTHK = read(v_BSGK)
    if spec.gate is not None:
        gate = Project(GATES[spec.gate], sizes, weights=spec.init, name="gate")(x_BTD)
        y_BTHK = y_BTHK * jax.nn.sigmoid(gate).reshape(*y_BTHK.shape[:3], -1)
    if spec.head_gains:
        y_BTHK = y_BTHK * parameter(module, "head_gains", ones, "h", sizes)[:, None].astype(y_BTHK.dtype)
    if spec.out_norm is not None:
        y_BTHK = NormModule(spec.out_norm, axes="hk", name="out_norm")(y_BTHK)
    y_BTD = Project("bthk,hkd->btd", {"d": x_BTD.shape[-1]}, spec.out_bias, spec.out_init, name="out")(y_BTHK)
    scores = Scores(mask=spec.mask, scale=spec.scale, softcap=spec.softcap)
    terms = Terms(q=context.coords, k=seen.coords, bias=bias, mix_logits_HO=mix_logits_HO)
    stats = logit_stats(*jax.lax.stop_gradient((q_BTHK, k_BSGK)), scores, jax.lax.stop_gradient(terms))
    return y_BTD, {**stats, **maps_of(context, read, v_BSGK)}
