"""How the loops of decoding are compiled: they multiply a few rows at a time."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial, wraps
from typing import Any, TypeVar

import jax

from fxformer.jit import promoting, traced

R = TypeVar("R")

# XLA leaves the matrix products of a CPU to YNNPACK, which takes up to twice as long as XLA itself for 4 to 32 rows,
# and no less for fewer (jaxlib 0.10.2, benchmarks/products.py). An empty list leaves it nothing.
OWN_PRODUCTS = {"xla_cpu_experimental_ynn_fusion_type": ""}


def for_few_rows(
    function: Callable[..., R], *, static_argnames: Sequence[str], donate_argnames: Sequence[str] = ()
) -> Callable[..., R]:
    """`jax.jit`, with products that are quick for a few rows; within the caller's `jit` a part of that."""
    compiled = partial(jax.jit, promoting()(function), static_argnames=static_argnames, donate_argnames=donate_argnames)
    part = compiled()
    alone = lru_cache(maxsize=1)(lambda: compiled(compiler_options=_options()))

    @wraps(function)
    def call(*arguments: Any) -> R:
        return (part if traced(arguments) else alone())(*arguments)

    return call


@lru_cache(maxsize=1)
def _options() -> dict[str, str]:
    """What the compiler is asked for; nothing where it is not a CPU's, or does not know what it is asked."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=OWN_PRODUCTS)()
    except jax.errors.JaxRuntimeError:
        return {}
    return OWN_PRODUCTS
