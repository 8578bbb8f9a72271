"""Matrix products of half-precision factors whose result keeps the bits that were summed."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike


def product(x_ND: Array, matrix_DF: Array, dtype: DTypeLike | None = None) -> Array:
    """x W, summed and returned in `dtype` where that is wider than the factors; None is the dtype of the factors.

    The factors are not widened, forward or backward: cotangents are rounded to their dtype as those of any product are,
    except where that has a smaller range than `dtype` (float16): what one token of many says would be rounded to 0.
    """
    if dtype is None or jnp.promote_types(x_ND.dtype, dtype) == x_ND.dtype:
        return x_ND @ matrix_DF
    return _widened(x_ND, matrix_DF, jnp.dtype(dtype))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _widened(x_ND: Array, matrix_DF: Array, dtype: jnp.dtype) -> Array:
    return jnp.matmul(x_ND, matrix_DF, preferred_element_type=dtype)


def _derivative(dtype: jnp.dtype, factors: tuple[Array, Array], tangents: tuple) -> tuple[Array, Array]:
    (x_ND, matrix_DF), (dx_ND, dmatrix_DF) = factors, tangents
    same_range = jnp.finfo(x_ND.dtype).maxexp == jnp.finfo(dtype).maxexp
    multiply = partial(jnp.matmul, preferred_element_type=x_ND.dtype if same_range else dtype)
    terms = [
        multiply(left, right)
        for left, right in ((dx_ND, matrix_DF), (x_ND, dmatrix_DF))
        if SymbolicZero not in (type(left), type(right))
    ]
    return _widened(x_ND, matrix_DF, dtype), reduce(jnp.add, terms).astype(dtype)


_widened.defjvp(_derivative, symbolic_zeros=True)
