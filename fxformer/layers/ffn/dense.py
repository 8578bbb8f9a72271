"""Dense feed-forward layers: the two-matrix MLP and the gated linear unit."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fxformer.fields import Number, Positive, Rate, Size, check_fields
from fxformer.layers.context import Context, Side, dropout
from fxformer.layers.norm import Norm, NormModule
from fxformer.layers.number import like
from fxformer.layers.project import FanIn, Init, Project
from fxformer.lookup import nearest
from fxformer.ops.activation import ACTIVATIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class MLP:
    """activation(x W_up) W_down. Vaswani et al. 2017, eq. 2.

    inner: width between. bias: on both matrices. inner_norm: before W_down (Sub-LN, NormFormer). dropout: likewise.
    """

    inner: Size
    activation: str
    bias: bool = False
    inner_norm: Norm | None = None
    dropout: Rate = 0.0
    up_init: Init = FanIn()
    down_init: Init = FanIn()

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class GLU:
    """(activation(x W_gate) * x W_up) W_down. Shazeer 2020; with silu SwiGLU, with gelu GeGLU.

    inner: width between. bias: on all matrices. inner_norm: before W_down (Sub-LN, NormFormer). dropout: likewise.
    limit: x W_gate is cut off above it, x W_up beyond both signs of it. up_offset: added to x W_up then (gpt-oss).
    """

    inner: Size
    activation: str
    bias: bool = False
    limit: Positive | None = None
    up_offset: Number = 0.0
    inner_norm: Norm | None = None
    dropout: Rate = 0.0
    up_init: Init = FanIn()
    down_init: Init = FanIn()

    def __post_init__(self) -> None:
        _check(self)


def _check(spec: MLP | GLU) -> None:
    check_fields(spec)
    nearest(ACTIVATIONS, spec.activation, "activation")


class MLPModule(nn.Module):
    """Parameters `up` and `down`."""

    spec: MLP

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context) -> tuple[Array, Side]:
        spec = self.spec
        up_BTF = Project("btd,df->btf", {"f": spec.inner}, spec.bias, spec.up_init, name="up")(x_BTD)
        h_BTF = ACTIVATIONS[spec.activation](up_BTF)
        return _down(self, h_BTF, x_BTD.shape[-1]), Side()


class GLUModule(nn.Module):
    """Parameters `gate`, `up` and `down`."""

    spec: GLU

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context) -> tuple[Array, Side]:
        spec = self.spec
        gate_BTF = Project("btd,df->btf", {"f": spec.inner}, spec.bias, spec.up_init, name="gate")(x_BTD)
        up_BTF = Project("btd,df->btf", {"f": spec.inner}, spec.bias, spec.up_init, name="up")(x_BTD)
        if spec.limit is not None:
            limit = like(spec.limit, up_BTF)
            gate_BTF, up_BTF = jnp.minimum(gate_BTF, limit), jnp.clip(up_BTF, -limit, limit)
        h_BTF = ACTIVATIONS[spec.activation](gate_BTF) * (up_BTF + like(spec.up_offset, up_BTF))
        return _down(self, h_BTF, x_BTD.shape[-1]), Side()


DENSE = {MLP: MLPModule, GLU: GLUModule}


def _down(module: MLPModule | GLUModule, h_BTF: Array, width: int) -> Array:
    """The last matrix of `module`, and what stands before it."""
    spec = module.spec
    if spec.inner_norm is not None:
        h_BTF = NormModule(spec.inner_norm, axes="f", name="inner_norm")(h_BTF)
    h_BTF = dropout(module, h_BTF, spec.dropout)
    return Project("btf,fd->btd", {"d": width}, spec.bias, spec.down_init, name="down")(h_BTF)
