"""Dense feed-forward layers: the two-matrix MLP and the gated linear unit."""

from dataclasses import dataclass

import flax.linen as nn
from jax import Array

from fxformer.layers.context import Side
from fxformer.layers.project import FanIn, Init, Project
from fxformer.names import nearest
from fxformer.ops.activation import ACTIVATIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class MLP:
    """activation(x W_up) W_down. Vaswani et al. 2017, eq. 2. `inner` is the width between; `bias` is on both."""

    inner: int
    activation: str
    bias: bool = False
    up_init: Init = FanIn()
    down_init: Init = FanIn()

    def __post_init__(self) -> None:
        _check(self.inner, self.activation)


@dataclass(frozen=True, slots=True, kw_only=True)
class GLU:
    """(activation(x W_gate) * x W_up) W_down. Shazeer 2020; with silu SwiGLU, with gelu GeGLU."""

    inner: int
    activation: str
    bias: bool = False
    up_init: Init = FanIn()
    down_init: Init = FanIn()

    def __post_init__(self) -> None:
        _check(self.inner, self.activation)


def _check(inner: int, activation: str) -> None:
    if inner < 1:
        raise ValueError(f"ffn inner={inner} leaves no channel; use 1 or more")
    nearest(ACTIVATIONS, activation, "activation")


class MLPModule(nn.Module):
    """Parameters `up` and `down`."""

    spec: MLP

    @nn.compact
    def __call__(self, x_BTD: Array) -> tuple[Array, Side]:
        spec = self.spec
        up_BTF = Project("btd,df->btf", {"f": spec.inner}, spec.bias, spec.up_init, name="up")(x_BTD)
        h_BTF = ACTIVATIONS[spec.activation](up_BTF)
        return _down(spec, x_BTD.shape[-1])(h_BTF), Side()


class GLUModule(nn.Module):
    """Parameters `gate`, `up` and `down`."""

    spec: GLU

    @nn.compact
    def __call__(self, x_BTD: Array) -> tuple[Array, Side]:
        spec = self.spec
        gate_BTF = Project("btd,df->btf", {"f": spec.inner}, spec.bias, spec.up_init, name="gate")(x_BTD)
        up_BTF = Project("btd,df->btf", {"f": spec.inner}, spec.bias, spec.up_init, name="up")(x_BTD)
        h_BTF = ACTIVATIONS[spec.activation](gate_BTF) * up_BTF
        return _down(spec, x_BTD.shape[-1])(h_BTF), Side()


def _down(spec: MLP | GLU, width: int) -> Project:
    return Project("btf,fd->btd", {"d": width}, spec.bias, spec.down_init, name="down")
