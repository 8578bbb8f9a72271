"""Low-rank adapters: W + (alpha / rank) A B for chosen matrices, made and merged outside the model. Hu et al. 2021.

x (W + (alpha / rank) A B), with A [fan in, rank] and B [rank, fan out]: the paper's A and B are these transposed. B
starts at zero, so a fresh adapter changes nothing. Only adapters have gradients and optimizer state; the forward pass
costs slightly more than the model's, the backward pass skips the gradients of W.
"""

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fxformer.axes import sides
from fxformer.jit import promoting
from fxformer.lookup import nearest
from fxformer.model import Params, Transformer, abstract_params

Adapters = dict[str, dict[str, Array]]  # dotted path of a matrix -> {"a", "b"}


@dataclass(frozen=True, slots=True)
class Matrix:
    """A parameter read as matrices fan_in x fan_out, one for each index of its `stack` of layers and experts."""

    stack: tuple[int, ...]
    fan_in: int
    fan_out: int


@promoting()
def init(
    spec: Transformer,
    key: Array,
    *,
    rank: int,
    targets: tuple[str, ...] = ("*.query.weight", "*.value.weight"),
) -> Adapters:
    """Adapters for every matrix whose dotted path matches one of `targets`: A normal of 1 / sqrt(fan in), B zero.

    targets: glob patterns; by default the two matrices that the paper adapts (section 4.2). Stacked layers and experts
    get adapters of their own. The key of each adapter depends on its path only. Raises ValueError where a pattern
    matches no matrix, or the rank is not positive.
    """
    if not isinstance(rank, int | np.integer) or rank < 1:
        raise ValueError(f"rank={rank} adapts nothing; use 1 or more")
    chosen = _chosen(matrices(spec), targets)
    return {path: _fresh(key, path, matrix, rank) for path, matrix in chosen.items()}


@promoting()
def merge(params: Params, adapters: Adapters, alpha: Array | float) -> Params:
    """Parameters whose adapted matrices are W + (alpha / rank) A B; gradients reach the adapters and nothing else.

    Raises ValueError where an adapter belongs to no parameter, or to one of another shape.
    """
    known = {_dotted(path): None for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    for path in adapters:
        nearest(known, path, "adapter")

    def add(path: Any, weight: Array) -> Array:
        adapter = adapters.get(_dotted(path))
        return weight if adapter is None else weight + _update(_dotted(path), adapter, weight, alpha)

    return jax.tree_util.tree_map_with_path(add, jax.lax.stop_gradient(params))


def count(adapters: Adapters) -> int:
    """Number of trained parameters: rank x (fan in + fan out) for each matrix; shapes suffice."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(adapters))


def matrices(spec: Transformer) -> dict[str, Matrix]:
    """Every weight and table of the model by its dotted path; gains, biases and single numbers are none."""
    boxes = jax.tree_util.tree_leaves_with_path(abstract_params(spec), is_leaf=lambda node: not isinstance(node, dict))
    found = {}
    for path, box in boxes:
        shape = box.value.shape
        stack, inputs, outputs = (tuple(shape[axis] for axis in side) for side in sides(box.names))
        if outputs:
            found[_dotted(path)] = Matrix(stack, math.prod(inputs), math.prod(outputs))
    return found


def _chosen(known: dict[str, Matrix], targets: tuple[str, ...]) -> dict[str, Matrix]:
    if isinstance(targets, str):
        raise ValueError(f"targets={targets!r} is one string; give a tuple of patterns, ({targets!r},)")
    if not targets:
        raise ValueError("targets name no matrix; give at least one pattern")
    for pattern in targets:
        if not any(fnmatchcase(path, pattern) for path in known):
            nearest({_ending(path): None for path in known}, pattern, "target matrix")
    return {path: matrix for path, matrix in known.items() if any(fnmatchcase(path, p) for p in targets)}


def _fresh(key: Array, path: str, matrix: Matrix, rank: int) -> dict[str, Array]:
    own = jax.random.fold_in(key, crc32(path.encode()))
    a = jax.random.normal(own, (*matrix.stack, matrix.fan_in, rank), jnp.float32) / math.sqrt(matrix.fan_in)
    return {"a": a, "b": jnp.zeros((*matrix.stack, rank, matrix.fan_out), jnp.float32)}


def _update(path: str, adapter: dict[str, Array], weight: Array, alpha: Array | float) -> Array:
    a, b = adapter["a"], adapter["b"]
    stack, rest, rank = weight.shape[: a.ndim - 2], weight.shape[a.ndim - 2 :], a.shape[-1]
    fans = [(math.prod(rest[:i]), math.prod(rest[i:])) for i in range(1, len(rest))]
    if (a.shape, b.shape) not in [((*stack, fan_in, rank), (*stack, rank, fan_out)) for fan_in, fan_out in fans]:
        raise ValueError(
            f"adapter {path} of {list(a.shape)} and {list(b.shape)} does not fit a weight {list(weight.shape)}; "
            f"make it with this model's spec"
        )
    return (alpha / rank * (a @ b)).reshape(weight.shape).astype(weight.dtype)


def _dotted(path: Any) -> str:
    return ".".join(part.key for part in path)


def _ending(path: str) -> str:
    """The pattern of all paths that end in the last two names of this one."""
    names = path.split(".")
    return path if len(names) < 3 else "*." + ".".join(names[-2:])
