"""The one linear primitive: no other file creates a matmul weight."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from fxformer.axes import logical
from fxformer.fields import Number, check_fields
from fxformer.ops.product import product


@dataclass(frozen=True, slots=True)
class FanIn:
    """Normal weights of standard deviation gain / sqrt(fan in). The gain may be a traced number."""

    gain: Number = 1.0

    def __post_init__(self) -> None:
        check_fields(self)

    def std(self, fan_in: int, fan_out: int) -> float:
        return self.gain / math.sqrt(fan_in)


@dataclass(frozen=True, slots=True)
class Xavier:
    """Normal weights of standard deviation gain * sqrt(2 / (fan in + fan out)). Glorot & Bengio 2010, eq. 12."""

    gain: Number = 1.0

    def __post_init__(self) -> None:
        check_fields(self)

    def std(self, fan_in: int, fan_out: int) -> float:
        return self.gain * math.sqrt(2 / (fan_in + fan_out))


@dataclass(frozen=True, slots=True)
class Normal:
    """Normal weights of a fixed standard deviation (GPT-2: 0.02)."""

    deviation: Number = 0.02

    def __post_init__(self) -> None:
        check_fields(self)

    def std(self, fan_in: int, fan_out: int) -> float:
        return self.deviation


@dataclass(frozen=True, slots=True)
class Truncated:
    """Normal weights of a fixed standard deviation, drawn anew where they are beyond two of it (BERT: 0.02)."""

    deviation: Number = 0.02

    def __post_init__(self) -> None:
        check_fields(self)

    def std(self, fan_in: int, fan_out: int) -> float:
        return self.deviation


Init = FanIn | Xavier | Normal | Truncated


def within_two(key: Array, shape: tuple[int, ...]) -> Array:
    """Normal numbers cut at 2, of standard deviation 0.8796."""
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)


def normal(key: Array, shape: tuple[int, ...]) -> Array:
    """Normal numbers of standard deviation 1."""
    return jax.random.normal(key, shape, jnp.float32)


DRAWS: dict[type, Callable[[Array, tuple[int, ...]], Array]] = {
    FanIn: normal,
    Xavier: normal,
    Normal: normal,
    Truncated: within_two,
}


def draw(init: Init, key: Array, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Array:
    """Random weights of an initialiser, float32: its standard deviation times numbers from its table."""
    return (init.std(fan_in, fan_out) * DRAWS[type(init)](key, shape)).astype(jnp.float32)


class Project(nn.Module):
    """A linear map named by its einsum: `Project("btd,dhk->bthk", sizes={"h": 8, "k": 64}, name="query")`.

    The string gives the weight's shape, the fans of its initialiser, its logical axes and the constraint on the
    output; axes of the input need no size. The product runs on flat tokens: (b, t) is one axis of a plain matrix
    product, which XLA compiles to far fewer transposing copies than three-dimensional operands.
    dtype: of sums and result where it is wider than that of the input, see `ops.product`.
    """

    einsum: str
    sizes: dict[str, int]
    bias: bool = False
    weights: Init = FanIn()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inputs, weight, output = _letters(self.einsum)
        sizes = {**dict(zip(inputs, x.shape, strict=True)), **self.sizes}
        rows = [axis for axis in inputs if axis in output]
        produced = [axis for axis in weight if axis in output]
        fan_out = math.prod(sizes[axis] for axis in produced)
        matrix = _matrix(self, sizes).astype(x.dtype).reshape(-1, fan_out)
        y = product(x.reshape(-1, matrix.shape[0]), matrix, self.dtype)
        y = y.reshape([sizes[axis] for axis in (*rows, *produced)])
        if self.bias:
            y = y + parameter(self, "bias", zeros, "".join(produced), sizes).astype(y.dtype)
        return nn.with_logical_constraint(y, logical(output))


def cut_along(x: Array, axis: str) -> Array:
    """The array with its first axis cut as the rules cut the logical axis of that letter, and no word on the others."""
    (over,) = nn.logical_to_mesh_axes(logical(axis)) or (None,)
    if over is None:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(over, *[PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)))


class Weight(nn.Module):
    """The weight of the `Project` of the same einsum and name, for who multiplies with it in another order.

    Every axis of the weight needs its size.
    """

    einsum: str
    sizes: dict[str, int]
    weights: Init = FanIn()

    @nn.compact
    def __call__(self) -> Array:
        return _matrix(self, self.sizes)


def _letters(einsum: str) -> tuple[str, str, str]:
    """The axes of what goes in, of the weight and of what comes out: "btd,dhk->bthk"."""
    inputs, weight, output = einsum.replace("->", ",").split(",")
    return inputs, weight, output


def _matrix(module: Project | Weight, sizes: dict[str, int]) -> Array:
    """Create the weight of an einsum, drawn by its fans."""
    inputs, weight, output = _letters(module.einsum)
    fan_in = math.prod(sizes[axis] for axis in weight if axis in inputs)
    fan_out = math.prod(sizes[axis] for axis in weight if axis in output)

    def start(key: Array, shape: tuple[int, ...]) -> Array:
        return draw(module.weights, key, shape, fan_in, fan_out)

    return parameter(module, "weight", start, weight, sizes)


Initializer = Callable[[Array, tuple[int, ...]], Array]


def parameter(module: nn.Module, name: str, init: Initializer, letters: str, sizes: dict[str, int]) -> Array:
    """Create a float32 parameter of `module` whose axes are `letters`, with their logical names for sharding."""
    shape = tuple(sizes[letter] for letter in letters)
    return boxed(module, name, init, logical(letters), shape)


def boxed(
    module: nn.Module, name: str, init: Initializer, axes: tuple[str | None, ...], shape: tuple[int, ...]
) -> Array:
    """Create a parameter whose axes have logical names; None is an axis that is never sharded.

    One that is there is read without `param`, which would trace its initialiser each time for the shape alone.
    """
    if not module.has_variable("params", name):
        return cast(Array, module.param(name, nn.with_logical_partitioning(init, axes), shape))
    value = cast(Array, nn.meta.unbox(module.get_variable("params", name)))
    if value.shape != shape:
        path = ".".join((*module.path, name))
        raise ValueError(f"parameter {path} is {list(value.shape)}, the model needs {list(shape)}")
    return value


def zeros(key: Array, shape: tuple[int, ...]) -> Array:
    return jnp.zeros(shape, jnp.float32)


def ones(key: Array, shape: tuple[int, ...]) -> Array:
    return jnp.ones(shape, jnp.float32)


def identity(key: Array, shape: tuple[int, ...]) -> Array:
    """The map that changes nothing."""
    return jnp.eye(shape[0], shape[1], dtype=jnp.float32)
