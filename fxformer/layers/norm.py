"""The affine frame around a normalisation formula."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fxformer.fields import Least, Number, check_fields
from fxformer.layers.project import Initializer, parameter, zeros
from fxformer.lookup import nearest
from fxformer.ops.norm import NORMS, normalise


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """A normalisation: a name in NORMS, its epsilon, and whether a learned gain and bias follow it.

    offset: the gain is offset + its parameter, which starts at 1 - offset (Gemma: 1.0).
    alpha: initial value of a learned factor on the input (DyT: 0.5); None is no factor.
    """

    kind: str
    eps: Least = 1e-6
    scale: bool = True
    bias: bool = False
    offset: float = 0.0
    alpha: Number | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        nearest(NORMS, self.kind, "norm kind")
        if self.offset and not self.scale:
            raise ValueError(f"offset={self.offset} has no gain to move; use offset=0.0, or scale=True")


class NormModule(nn.Module):
    """Normalise over the last axes jointly, whose letters are `axes`; reduced in float32."""

    spec: Norm
    axes: str = "d"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        spec = self.spec
        sizes = dict(zip(self.axes, x.shape[-len(self.axes) :], strict=True))
        scale = spec.offset + parameter(self, "scale", full(1 - spec.offset), self.axes, sizes) if spec.scale else None
        bias = parameter(self, "bias", zeros, self.axes, sizes) if spec.bias else None
        alpha = None if spec.alpha is None else parameter(self, "alpha", full(spec.alpha), "", {})
        return normalise(x, scale, bias, kind=spec.kind, eps=spec.eps, alpha=alpha, joint=len(self.axes))


def full(value: float) -> Initializer:
    """The initialiser that fills a parameter with `value`."""
    return lambda key, shape: jnp.full(shape, value, jnp.float32)
