"""The affine frame around a normalisation formula."""

from dataclasses import dataclass

import flax.linen as nn
from jax import Array

from fxformer.layers.project import ones, parameter, zeros
from fxformer.names import nearest
from fxformer.ops.norm import NORMS, normalise


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """A normalisation: a name in NORMS, its epsilon, and whether a learned gain and bias follow it."""

    kind: str
    eps: float = 1e-6
    scale: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        nearest(NORMS, self.kind, "norm kind")


class NormModule(nn.Module):
    """Normalise over the last axis, whose letter is `axis`; reduced in float32."""

    spec: Norm
    axis: str = "d"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        sizes = {self.axis: x.shape[-1]}
        scale = parameter(self, "scale", ones, self.axis, sizes) if self.spec.scale else None
        bias = parameter(self, "bias", zeros, self.axis, sizes) if self.spec.bias else None
        return normalise(x, scale, bias, kind=self.spec.kind, eps=self.spec.eps)
