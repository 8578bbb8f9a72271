"""What every block of a stack shares, and what a sublayer hands back beside its output."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax import Array

from fxformer.coords import Coords
from fxformer.fields import Size, check_fields
from fxformer.layers.number import like
from fxformer.ops.bias import LogitBias


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How to compute, never what: no choice here changes parameters, cache or results.

    kernel: attention kernel, a name in KERNELS; None goes by platform, arrays and cache.
    unroll: blocks of a `Repeat` written out in each step of its loop.
    remat: compute the activations of a block again in the backward pass instead of keeping them.
    """

    kernel: str | None = None
    unroll: Size = 1
    remat: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

    def kernel_for(self, table: Any) -> str | None:
        """The kernel for a layer that reads this cache table, or none; skipping its empty end pays on a CPU."""
        skips = table is not None and jax.default_backend() == "cpu"
        return "blockwise" if self.kernel is None and skips else self.kernel


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class Memory:
    """What an encoder says about its tokens. hidden: [B, S, D]. coords: of those tokens."""

    hidden: Array
    coords: Coords


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The coordinates of the tokens, how to compute, the stack's shared logit bias, and what an encoder said."""

    coords: Coords
    execution: Execution = field(metadata={"static": True}, default=Execution())
    bias: LogitBias | None = None
    memory: Memory | None = None


class Side(NamedTuple):
    """Beside the output: the new cache table(s), unweighted losses and statistics by name."""

    tables: Any = None
    losses: dict[str, Array] = {}  # noqa: RUF012 (a NamedTuple default is never mutated)
    stats: dict[str, Array] = {}  # noqa: RUF012


def dropout(module: nn.Module, x: Array, rate: float) -> Array:
    """Zero a share `rate` of `x` and scale up the rest, exactly when a dropout key was passed to `apply`."""
    if rate == 0 or not module.has_rng("dropout"):
        return x
    keep = jax.random.bernoulli(module.make_rng("dropout"), 1 - rate, x.shape)
    return jax.numpy.where(keep, x / like(1 - rate, x), 0)
