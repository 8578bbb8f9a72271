"""`jax.jit` for functions of the library, and what may be known beside it.

The library is written by JAX's own rules of promotion. Whoever holds a program to stricter ones, to find faults of
theirs, finds none in here: what computes is `promoting`.

Checks on the host look at what is `known`, whatever is being traced around them, and compute with NumPy: an operation
of JAX within somebody's `jit` is written down for later, even on numbers that are there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def promoting() -> Iterator[None]:
    """Within it, or in a function that it decorates, ranks and dtypes are promoted as JAX does without being told."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def compiled(*, static: Sequence[str] = ()) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """`jax.jit` as a decorator that keeps the function's types. static: names of what decides the program."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        return cast(Callable[P, R], jax.jit(promoting()(function), static_argnames=static))

    return decorate


def traced(tree: Any) -> bool:
    """Whether a part of it stands for values that are not known yet, as in `jit`."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def as_array(values: Any) -> Array | np.ndarray:
    """The values as an array; on the host where they are known, so that nothing is staged and no number cut off."""
    return jnp.asarray(values) if traced(values) else np.asarray(values)


def known(values: Any) -> np.ndarray | None:
    """The values on the host, or None where they are traced. Nothing is staged."""
    return None if traced(values) else np.asarray(values)


def numpy_of(array: Any) -> Any:
    """NumPy for what is known, where a new shape is no new program; jax.numpy for what is traced, or on other hosts."""
    return jnp if traced(array) or (isinstance(array, Array) and not array.is_fully_addressable) else np
