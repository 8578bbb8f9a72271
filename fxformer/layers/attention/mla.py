"""Multi-head latent attention: keys and values of all heads are made of one latent. DeepSeek-AI 2024 (V2), 2.1.

What is remembered of a token is its latent and one rotated key that all heads share. With an indexer it is DeepSeek
sparse attention (V3.2): each query looks at the keys that score best.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from fxformer.cache import Seen, Sizes, Table, extend
from fxformer.coords import Coords
from fxformer.fields import Size, check_fields
from fxformer.layers.attention.indexer import Indexer, IndexerModule, Selection
from fxformer.layers.context import Context, Side, cut, maps_of
from fxformer.layers.norm import Norm, NormModule
from fxformer.layers.project import FanIn, Init, Project, Weight
from fxformer.lookup import nearest
from fxformer.ops.attend import attend
from fxformer.ops.latent import absorbed_is_cheaper, fold, unfold
from fxformer.ops.mask import Causal, Mask
from fxformer.ops.rotary import Rotary, rotate
from fxformer.ops.scores import Scores, Terms, logit_stats
from fxformer.ops.select import mean_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class MLA:
    """softmax(scale (q . W_UK c + q_r . k_r)) W_UV c in each head: all share the latent c = norm(x W) and the key k_r.

    `heads` heads compare `nope_width` channels made of latents and `rotary.width` rotated ones.
    latent: channels of the latent that keys and values are made of, each value `value_width` wide.
    query_latent: channels of the latent that queries are made of, None makes them of the stream (V2-Lite).
    norm: of both latents. scale: None is 1 / sqrt(nope_width + rotated channels).
    bias: on what is made of the stream (the latents and the rotated key), and on the output; not on `query`.
    init: of everything but `value_up` and `out`. index: which keys are looked at, None is all of them.
    """

    heads: Size
    nope_width: Size
    value_width: Size
    latent: Size
    rotary: Rotary
    query_latent: Size | None = None
    norm: Norm = Norm(kind="rms")
    mask: Mask = Causal()
    scale: float | None = None
    bias: bool = False
    index: Indexer | None = None
    init: Init = FanIn()
    value_init: Init = FanIn()
    out_init: Init = FanIn()

    def __post_init__(self) -> None:
        check_fields(self)
        if self.index is not None and self.query_latent is None:
            raise ValueError(f"index of heads={self.index.heads} reads a query latent, query_latent=None; give it one")

    @property
    def rope_width(self) -> int:
        """Channels of the key that is rotated and shared by the heads."""
        return self.rotary.width * self.rotary.streams

    @property
    def logit_scale(self) -> float:
        """What logits are multiplied by."""
        return (self.nope_width + self.rope_width) ** -0.5 if self.scale is None else self.scale

    @property
    def records(self) -> Sizes:
        """What one token leaves in the cache."""
        indexed = {} if self.index is None else {"index": {"j": self.index.width}}
        return {"latent": {"r": self.latent}, "rope": {"p": self.rope_width}, **indexed}

    @property
    def placed(self) -> bool:
        """Whether it reads where in the stack it stands."""
        return False

    @property
    def records_of_first(self) -> Sizes:
        """It takes nothing of the first block."""
        return {}


class Heads(NamedTuple):
    """What `attend` is given, queries and keys of the same channels X, and how its answer is read as values."""

    q_BTHX: Array
    k_BSGX: Array
    v_BSGU: Array
    read: Callable[[Array], Array]


def expanded(spec: MLA, q_BTHK: Array, q_BTHP: Array, latent_BSR: Array, rope_BSP: Array) -> Heads:
    """Keys [W_UK c, rope] and values W_UV c of every head, made of latents c: multi-head attention."""
    key_sizes, value_sizes = _up_sizes(spec)
    k_BSHK = Project("bsr,rhk->bshk", key_sizes, weights=spec.init, name="key_up")(latent_BSR)
    v_BSHU = Project("bsr,rhu->bshu", value_sizes, weights=spec.value_init, name="value_up")(latent_BSR)
    k_BSHP = jnp.broadcast_to(rope_BSP[:, :, None], (*k_BSHK.shape[:3], spec.rope_width))
    return Heads(_join(q_BTHK, q_BTHP), _join(k_BSHK, k_BSHP), v_BSHU, lambda y_BTHU: y_BTHU)


def absorbed(spec: MLA, q_BTHK: Array, q_BTHP: Array, latent_BSR: Array, rope_BSP: Array) -> Heads:
    """One key [c, rope] and value c for all heads, W_UK on the queries, W_UV on the answer: multi-query attention."""
    key_sizes, value_sizes = _up_sizes(spec)
    key_up_RHK = Weight("bsr,rhk->bshk", key_sizes, spec.init, name="key_up")()
    value_up_RHU = Weight("bsr,rhu->bshu", value_sizes, spec.value_init, name="value_up")()
    k_BS1X, v_BS1R = _join(latent_BSR, rope_BSP)[:, :, None], latent_BSR[:, :, None]
    return Heads(_join(fold(q_BTHK, key_up_RHK), q_BTHP), k_BS1X, v_BS1R, lambda y_BTHR: unfold(y_BTHR, value_up_RHU))


FORMS = {"expanded": expanded, "absorbed": absorbed}


class MLAModule(nn.Module):
    """Parameters `query_down`, `query_norm`, `query`, `query_rope`, `latent`, `latent_norm`, `rope`, `key_up`,
    `value_up`, `out`, and `index` where the spec has one.

    form: how to compute, a name in FORMS; None is the one with fewer multiplications.
    """

    spec: MLA
    form: str | None = None

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, table: Table | None) -> tuple[Array, Side]:
        spec, coords = self.spec, context.coords
        source, q_BTHK, q_BTHP = _queries(spec, x_BTD)
        latent_BTR = Project("btd,dr->btr", {"r": spec.latent}, spec.bias, spec.init, name="latent")(x_BTD)
        latent_BTR = NormModule(spec.norm, axes="r", name="latent_norm")(latent_BTR)
        rope_BTP = Project("btd,dp->btp", {"p": spec.rope_width}, spec.bias, spec.init, name="rope")(x_BTD)
        pos = coords.streams(spec.rotary.streams)
        q_BTHP = rotate(q_BTHP, pos, spec.rotary)
        rope_BTP = rotate(rope_BTP[:, :, None], pos, spec.rotary)[:, :, 0]

        records, question = {"latent": latent_BTR, "rope": rope_BTP}, None
        if spec.index is not None:
            question, records["index"] = IndexerModule(spec.index, name="index")(x_BTD, source, coords)
        seen = Seen(records, coords)
        if table is not None:
            table, seen = extend(table, records, coords, context.memory_tokens)
        selection = None
        if question is not None:
            selection = question.answer(seen, spec.mask, coords)
            if coords.length * question.keep < seen.coords.length:
                asking = Asking(q_BTHK, q_BTHP, coords, seen, selection)
                q_BTHK, q_BTHP, coords, seen, selection = _apart(asking, question.keep)

        form = nearest(FORMS, self.form or _cheaper(spec, coords.length, seen.coords.length), "form")
        heads = form(spec, q_BTHK, q_BTHP, seen.records["latent"], seen.records["rope"])
        selected_BTS = None if selection is None else selection.selected_BTS
        read = partial(
            attend,
            heads.q_BTHX,
            heads.k_BSGX,
            mask=spec.mask,
            q=coords,
            k=seen.coords,
            bias=context.bias,
            scale=spec.logit_scale,
            selected_BTS=selected_BTS,
            kernel=context.execution.kernel_for(table),
            cut=cut(),
        )
        y_BTHU = heads.read(read(heads.v_BSGU)).reshape(*x_BTD.shape[:2], spec.heads, spec.value_width)
        y_BTD = Project("bthu,hud->btd", {"d": x_BTD.shape[-1]}, spec.bias, spec.out_init, name="out")(y_BTHU)

        scores = Scores(mask=spec.mask, scale=spec.logit_scale)
        terms = Terms(q=coords, k=seen.coords, bias=context.bias, selected_BTS=selected_BTS)
        q_BTHX, k_BSGX, terms = jax.lax.stop_gradient((heads.q_BTHX, heads.k_BSGX, terms))
        losses = {} if selection is None else {"index_kl": selection.loss(mean_weights(q_BTHX, k_BSGX, scores, terms))}
        stats = {**logit_stats(q_BTHX, k_BSGX, scores, terms), **maps_of(context, read, heads.v_BSGU)}
        return y_BTD, Side(table, losses, stats)


class Asking(NamedTuple):
    """Queries of all heads and where they stand; what they look at, and which of it is selected for each."""

    q_BTHK: Array
    q_BTHP: Array
    coords: Coords
    seen: Seen
    selection: Selection


def _apart(asking: Asking, keep: int) -> Asking:
    """Each query in a row of its own, with the `keep` keys that are selected for it and no others.

    Nothing else of a long cache is read. Where fewer are selected the rest of the `keep` stay unselected.
    """
    selected_BTS = asking.selection.selected_BTS
    batch, tokens, _ = selected_BTS.shape
    _, at_BTN = jax.lax.top_k(selected_BTS.astype(jnp.int32), keep)

    def of_queries(x_BTx: Array) -> Array:
        return jnp.broadcast_to(x_BTx, (batch, *x_BTx.shape[1:])).reshape(batch * tokens, 1, *x_BTx.shape[2:])

    def of_keys(x_BSx: Array) -> Array:
        rows_B11 = jnp.arange(batch)[:, None, None] if x_BSx.shape[0] == batch else 0
        return x_BSx[rows_B11, at_BTN].reshape(batch * tokens, keep, *x_BSx.shape[2:])

    def of_pairs(x_BTS: Array) -> Array:
        return jnp.take_along_axis(x_BTS, at_BTN, axis=-1).reshape(batch * tokens, 1, keep)

    return Asking(
        of_queries(asking.q_BTHK),
        of_queries(asking.q_BTHP),
        jax.tree.map(of_queries, asking.coords),
        jax.tree.map(of_keys, asking.seen),
        jax.tree.map(of_pairs, asking.selection),
    )


def _queries(spec: MLA, x_BTD: Array) -> tuple[Array, Array, Array]:
    """What queries are made of (the latent, or the stream without one), and their parts without and with position."""
    sizes = {"h": spec.heads, "k": spec.nope_width, "p": spec.rope_width}
    if spec.query_latent is None:
        q_BTHK = Project("btd,dhk->bthk", sizes, weights=spec.init, name="query")(x_BTD)
        return x_BTD, q_BTHK, Project("btd,dhp->bthp", sizes, weights=spec.init, name="query_rope")(x_BTD)
    latent_BTA = Project("btd,da->bta", {"a": spec.query_latent}, spec.bias, spec.init, name="query_down")(x_BTD)
    latent_BTA = NormModule(spec.norm, axes="a", name="query_norm")(latent_BTA)
    q_BTHK = Project("bta,ahk->bthk", sizes, weights=spec.init, name="query")(latent_BTA)
    return latent_BTA, q_BTHK, Project("bta,ahp->bthp", sizes, weights=spec.init, name="query_rope")(latent_BTA)


def _up_sizes(spec: MLA) -> tuple[dict[str, int], dict[str, int]]:
    sizes = {"r": spec.latent, "h": spec.heads}
    return {**sizes, "k": spec.nope_width}, {**sizes, "u": spec.value_width}


def _cheaper(spec: MLA, tokens: int, seen: int) -> str:
    """The name of the form with fewer multiplications for `tokens` queries and `seen` latents."""
    widths = (spec.latent, spec.rope_width, spec.nope_width, spec.value_width)
    return "absorbed" if absorbed_is_cheaper(tokens, seen, *widths) else "expanded"


def _join(nope: Array, rope: Array) -> Array:
    return jnp.concatenate([nope, rope], axis=-1)
