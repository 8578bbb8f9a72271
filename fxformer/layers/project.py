"""The one linear primitive: no other file creates a matmul weight."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from fxformer.axes import logical


@dataclass(frozen=True, slots=True)
class FanIn:
    """Normal weights of standard deviation gain / sqrt(fan in). The gain may be a traced number."""

    gain: float = 1.0

    def std(self, fan_in: int, fan_out: int) -> float:
        return self.gain / math.sqrt(fan_in)


@dataclass(frozen=True, slots=True)
class Xavier:
    """Normal weights of standard deviation gain * sqrt(2 / (fan in + fan out)). Glorot & Bengio 2010, eq. 12."""

    gain: float = 1.0

    def std(self, fan_in: int, fan_out: int) -> float:
        return self.gain * math.sqrt(2 / (fan_in + fan_out))


@dataclass(frozen=True, slots=True)
class Normal:
    """Normal weights of a fixed standard deviation (GPT-2: 0.02)."""

    deviation: float = 0.02

    def std(self, fan_in: int, fan_out: int) -> float:
        return self.deviation


Init = FanIn | Xavier | Normal


class Project(nn.Module):
    """A linear map named by its einsum: `Project("btd,dhk->bthk", sizes={"h": 8, "k": 64}, name="query")`.

    The string gives the weight's shape, the fans of its initialiser, its logical axes and the constraint on the
    output; axes of the input need no size. The product runs on flat tokens: (b, t) is one axis of a plain matrix
    product, which XLA compiles to far fewer transposing copies than three-dimensional operands.
    """

    einsum: str
    sizes: dict[str, int]
    bias: bool = False
    weights: Init = FanIn()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inputs, weight, output = self.einsum.replace("->", ",").split(",")
        sizes = {**dict(zip(inputs, x.shape, strict=True)), **self.sizes}
        rows = [axis for axis in inputs if axis in output]
        contracted = [axis for axis in weight if axis in inputs]
        produced = [axis for axis in weight if axis in output]
        fan_in = math.prod(sizes[axis] for axis in contracted)
        fan_out = math.prod(sizes[axis] for axis in produced)

        def normal(key: Array, shape: tuple[int, ...]) -> Array:
            return self.weights.std(fan_in, fan_out) * jax.random.normal(key, shape)

        matrix = parameter(self, "weight", normal, weight, sizes).astype(x.dtype)
        y = x.reshape(-1, fan_in) @ matrix.reshape(fan_in, fan_out)
        y = y.reshape([sizes[axis] for axis in (*rows, *produced)])
        if self.bias:
            y = y + parameter(self, "bias", zeros, "".join(produced), sizes).astype(x.dtype)
        return nn.with_logical_constraint(y, logical(output))


Initializer = Callable[[Array, tuple[int, ...]], Array]


def parameter(module: nn.Module, name: str, init: Initializer, letters: str, sizes: dict[str, int]) -> Array:
    """Create a float32 parameter of `module` whose axes are `letters`, with their logical names for sharding."""
    shape = tuple(sizes[letter] for letter in letters)
    return boxed(module, name, init, logical(letters), shape)


def boxed(
    module: nn.Module, name: str, init: Initializer, axes: tuple[str | None, ...], shape: tuple[int, ...]
) -> Array:
    """Create a parameter whose axes have logical names; None is an axis that is never sharded."""
    return cast(Array, module.param(name, nn.with_logical_partitioning(init, axes), shape))


def zeros(key: Array, shape: tuple[int, ...]) -> Array:
    return jnp.zeros(shape)


def ones(key: Array, shape: tuple[int, ...]) -> Array:
    return jnp.ones(shape)
