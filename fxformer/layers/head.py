"""The stream out: heads that give logits, one spec, one module and one line in HEADS each, and the pooler."""

from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fxformer.axes import logical
from fxformer.coords import Coords
from fxformer.fields import Count, Number, Positive, Size, check_fields
from fxformer.layers.norm import Norm, NormModule
from fxformer.layers.number import like
from fxformer.layers.project import FanIn, Init, Normal, Project, parameter, zeros
from fxformer.lookup import nearest, renamed
from fxformer.ops.activation import ACTIVATIONS
from fxformer.ops.product import product

LOGITS = jnp.float32  # what they are summed in: bfloat16 would round those of size 32 to quarters


@dataclass(frozen=True, slots=True, kw_only=True)
class Tied:
    """Logits are scale * x E^T with the embedding's own table. Press & Wolf 2017.

    softcap: cap * tanh(logits / cap) (Gemma 2).
    """

    scale: Number = 1.0
    softcap: Positive | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Untied:
    """Logits are (scale * x) W with a matrix of their own, plus b where there is a bias.

    softcap: cap * tanh(logits / cap).
    """

    bias: bool = False
    scale: Number = 1.0
    softcap: Positive | None = None
    init: Init = FanIn()

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformed:
    """Logits are readout(norm(activation(x W + b))) + c, by the embedding's own table. BERT, Devlin et al. 2019."""

    activation: str
    norm: Norm
    readout: Tied | Untied = Tied()
    init: Init = Normal()

    def __post_init__(self) -> None:
        check_fields(self)
        nearest(ACTIVATIONS, self.activation, "activation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bare:
    """No readout: what stands in the place of logits is the stream itself, [B, T, D]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Logits are x W + b of `labels` classes for each token, [B, T, labels]; a decoder's last speaks for a text."""

    labels: Size
    bias: bool = True
    init: Init = Normal()

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Logits are x W + b, [B, T, 2]: that an answer starts at a token, and that it ends there, a softmax over T each.

    Devlin et al. 2019, section 4.2.
    """

    init: Init = Normal()

    def __post_init__(self) -> None:
        check_fields(self)


class TiedModule(nn.Module):
    """Has no parameters."""

    spec: Tied

    @nn.compact
    def __call__(self, x_BTD: Array, table_VD: Array) -> Array:
        width, factor = x_BTD.shape[-1], table_VD.shape[-1]
        if width != factor:
            raise ValueError(f"a tied head compares a stream of width={width} with tables of factor={factor}; untie it")
        return _capped(self.spec.scale * _compare(x_BTD, table_VD), self.spec.softcap)


class UntiedModule(nn.Module):
    """Parameter `out`."""

    spec: Untied

    @nn.compact
    def __call__(self, x_BTD: Array, table_VD: Array) -> Array:
        sizes = {"v": table_VD.shape[0]}
        project = Project("btd,dv->btv", sizes, self.spec.bias, self.spec.init, LOGITS, name="out")
        logits_BTV = project(like(self.spec.scale, x_BTD) * x_BTD)
        return _capped(logits_BTV, self.spec.softcap)


class TransformedModule(nn.Module):
    """Parameters `transform`, `norm` and `bias`, and `readout` where it has some."""

    spec: Transformed

    @nn.compact
    def __call__(self, x_BTD: Array, table_VD: Array) -> Array:
        spec, (vocab, width) = self.spec, table_VD.shape
        h_BTW = Project("btd,dw->btw", {"w": width}, bias=True, weights=spec.init, name="transform")(x_BTD)
        h_BTW = NormModule(spec.norm, axes="w", name="norm")(ACTIVATIONS[spec.activation](h_BTW))
        logits_BTV = READOUTS[type(spec.readout)](spec.readout, name="readout")(h_BTW, table_VD)
        return logits_BTV + parameter(self, "bias", zeros, "v", {"v": vocab}).astype(logits_BTV.dtype)


class LabelsModule(nn.Module):
    """Parameter `out`."""

    spec: Labels

    @nn.compact
    def __call__(self, x_BTD: Array, table_VD: Array) -> Array:
        spec = self.spec
        return Project("btd,dy->bty", {"y": spec.labels}, spec.bias, spec.init, LOGITS, name="out")(x_BTD)


class SpanModule(nn.Module):
    """Parameter `out`."""

    spec: Span

    @nn.compact
    def __call__(self, x_BTD: Array, table_VD: Array) -> Array:
        return Project("btd,dy->bty", {"y": 2}, True, self.spec.init, LOGITS, name="out")(x_BTD)


class BareModule(nn.Module):
    """Has no parameters."""

    spec: Bare

    @nn.compact
    def __call__(self, x_BTD: Array, table_VD: Array) -> Array:
        return x_BTD


def __getattr__(name: str) -> type:
    """The old name of Untied."""
    if name != "Free":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    renamed({"Free": "Untied"}, name, "head")
    return Untied


READOUTS = {Tied: TiedModule, Untied: UntiedModule}
OVER_TOKENS = {**READOUTS, Transformed: TransformedModule}
HEADS = {**OVER_TOKENS, Bare: BareModule, Labels: LabelsModule, Span: SpanModule}
HeadSpec = Tied | Untied | Transformed | Bare | Labels | Span


def check_over_tokens(head: HeadSpec) -> None:
    """Raise ValueError for a head whose logits are not of tokens, so that they choose none."""
    if type(head) not in OVER_TOKENS:
        raise ValueError(
            f"the model has no head that says which token stands where, but {type(head).__name__}; take one that has, "
            "like a -mlm of BERT, or a decoder with its lm_head"
        )


def _compare(x_BTD: Array, table_VD: Array) -> Array:
    """x E^T on flat tokens."""
    flat_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
    logits_NV = product(flat_ND, table_VD.astype(x_BTD.dtype).T, LOGITS)
    return nn.with_logical_constraint(logits_NV.reshape(*x_BTD.shape[:2], -1), logical("btv"))


def _capped(logits_BTV: Array, softcap: float | None) -> Array:
    return logits_BTV if softcap is None else softcap * jnp.tanh(logits_BTV / softcap)


def first(x_BTD: Array, valid_BT1: Array) -> Array:
    """The first token that is not padding: [CLS]."""
    return jnp.take_along_axis(x_BTD, jnp.argmax(valid_BT1, axis=1, keepdims=True), axis=1)[:, 0]


def mean(x_BTD: Array, valid_BT1: Array) -> Array:
    """The mean over tokens that are not padding."""
    return jnp.sum(jnp.where(valid_BT1, x_BTD, 0), axis=1) / jnp.maximum(jnp.sum(valid_BT1, axis=1), 1)


def largest(x_BTD: Array, valid_BT1: Array) -> Array:
    """The maximum over tokens that are not padding, channel by channel."""
    return jnp.max(jnp.where(valid_BT1, x_BTD, -jnp.inf), axis=1)


POOLINGS: dict[str, Callable[[Array, Array], Array]] = {"first": first, "mean": mean, "max": largest}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooler:
    """One vector for a sequence, tanh(pool(x) W + b), and `labels` logits from it: NSP, SOP, any classification.

    pooling: a name in POOLINGS. labels: 0 gives the vector only.
    """

    pooling: str = "first"
    labels: Count = 0
    init: Init = Normal()

    def __post_init__(self) -> None:
        check_fields(self)
        nearest(POOLINGS, self.pooling, "pooling")


class PoolerModule(nn.Module):
    """Parameters `pool` and, with labels, `out`; returns [B, D] and [B, labels] or None."""

    spec: Pooler

    @nn.compact
    def __call__(self, x_BTD: Array, coords: Coords) -> tuple[Array, Array | None]:
        spec = self.spec
        valid_BT1 = jnp.broadcast_to(coords.index >= 0, x_BTD.shape[:2])[..., None]
        pooled_BD = POOLINGS[spec.pooling](x_BTD, valid_BT1)
        sizes = {"f": x_BTD.shape[-1]}
        pooled_BF = jnp.tanh(Project("bd,df->bf", sizes, bias=True, weights=spec.init, name="pool")(pooled_BD))
        if not spec.labels:
            return pooled_BF, None
        project = Project("bf,fy->by", {"y": spec.labels}, bias=True, weights=spec.init, dtype=LOGITS, name="out")
        return pooled_BF, project(pooled_BF).astype(jnp.float32)
