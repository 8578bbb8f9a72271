"""Logit biases that a stack shares: one spec and one line in BIASES each."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from fxformer.axes import logical
from fxformer.fields import Number, Size, check_fields
from fxformer.layers.project import boxed
from fxformer.ops.bias import BucketBias, DistanceBias, LogitBias, alibi_slopes, check_buckets


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """T5's learned bias by bucketed distance: one table for all layers of a stack. Raffel et al. 2020."""

    heads: Size
    count: Size = 32
    max_distance: Size = 128
    bidirectional: bool = False
    deviation: Number = 0.02

    def __post_init__(self) -> None:
        check_fields(self)
        check_buckets(self.count // 2 if self.bidirectional else self.count, self.max_distance)


@dataclass(frozen=True, slots=True, kw_only=True)
class ALiBi:
    """A fixed linear penalty on distance, one slope a head. Press et al. 2022."""

    heads: Size

    def __post_init__(self) -> None:
        check_fields(self)


class BucketsModule(nn.Module):
    """Owns the table [buckets, heads] of `Buckets`."""

    spec: Buckets

    @nn.compact
    def __call__(self) -> LogitBias:
        spec = self.spec
        init = jax.nn.initializers.normal(spec.deviation, jnp.float32)
        table_XH = boxed(self, "table", init, (None, *logical("h")), (spec.count, spec.heads))
        return BucketBias(table_XH, max_distance=spec.max_distance, bidirectional=spec.bidirectional)


class ALiBiModule(nn.Module):
    """Has no parameters."""

    spec: ALiBi

    @nn.compact
    def __call__(self) -> LogitBias:
        return DistanceBias(jnp.asarray(alibi_slopes(self.spec.heads), jnp.float32))


BIASES = {Buckets: BucketsModule, ALiBi: ALiBiModule}
