"""From logits to tokens: what each row asks for, and keys that make a row's draw its own."""

from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from fxformer.given import check_keys
from fxformer.jit import known, numpy_of
from fxformer.ops.sample import choose, keep_min_p, keep_top_k, keep_top_p, penalise, precise, temper


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen, in the order in which it acts; None is off, a number for all rows, [B] one for each.

    logit_bias: added to the logits, [V] or [B, V]. repetition_penalty: weakens tokens that a row has seen, prompt
    included. temperature, top_k, top_p, min_p: they shape a draw.
    """

    logit_bias: ArrayLike | None = None
    repetition_penalty: ArrayLike | None = None
    temperature: ArrayLike | None = None
    top_k: ArrayLike | None = None
    top_p: ArrayLike | None = None
    min_p: ArrayLike | None = None

    @property
    def remembers(self) -> bool:
        """Whether it has to know which tokens a row has seen."""
        return self.repetition_penalty is not None


NOTHING = -1  # in the place of a token where all logits are NaN or -inf
DRAWS = {"temperature": temper, "top_k": keep_top_k, "top_p": keep_top_p, "min_p": keep_min_p}
RANGES = {  # name -> (what is allowed, in words)
    "repetition_penalty": (lambda x: x > 0, "more than 0; 1 changes nothing"),
    "temperature": (lambda x: x >= 0, "0 for the most likely token, or more"),
    "top_k": (lambda x: x >= 1, "1 or more"),
    "top_p": (lambda x: (x > 0) & (x <= 1), "more than 0, and at most 1"),
    "min_p": (lambda x: (x >= 0) & (x <= 1), "0 to 1"),
}


def next_token(
    logits_BV: Array, keys_B: Array | None, sampling: Sampling = Sampling(), *, seen_BV: Array | None = None
) -> Array:
    """int32 [B]: the most likely token where keys are None, else a draw with each row's own key.

    seen_BV: bool, tokens that a row has seen; where it is None nothing is penalised.
    """
    logits_BV = weigh(logits_BV, sampling, seen_BV)
    return pick(logits_BV if keys_B is None else narrow(logits_BV, sampling), keys_B)


def weigh(logits_BV: Array, sampling: Sampling, seen_BV: Array | None = None) -> Array:
    """The logits with the bias and the penalty of what was seen, in float32 or more."""
    logits_BV = precise(logits_BV)
    if sampling.logit_bias is not None:
        logits_BV = logits_BV + jnp.asarray(sampling.logit_bias, logits_BV.dtype)
    if sampling.repetition_penalty is not None and seen_BV is not None:
        logits_BV = penalise(logits_BV, seen_BV, sampling.repetition_penalty)
    return logits_BV


def narrow(logits_BV: Array, sampling: Sampling) -> Array:
    """The logits whose softmax a draw is made from."""
    for name, filtered in DRAWS.items():
        number = getattr(sampling, name)
        if number is not None:
            logits_BV = filtered(logits_BV, number)
    return logits_BV


def pick(logits_BV: Array, keys_B: Array | None) -> Array:
    """int32 [B]: the largest of each row, the first among equals, or a draw from their softmax; NOTHING if none is."""
    if keys_B is None:
        token_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    else:
        token_B = jax.vmap(choose)(keys_B, logits_BV)
    return jnp.where(jnp.max(logits_BV, axis=-1) > -jnp.inf, token_B, NOTHING)


def check_said(tokens: Array) -> None:
    """Raise ValueError where a row [B, …] has NOTHING, if that is known."""
    said = known(tokens)
    if said is not None and (said == NOTHING).any():
        row = int(np.nonzero(said == NOTHING)[0][0])
        raise ValueError(
            f"no token can follow in row {row}: all its logits are NaN or -inf; look at the parameters and logit_bias"
        )


def settled(sampling: Sampling) -> Sampling:
    """The same with arrays of one type each: whatever 1, 1.0 and np.float64(1) are, they share what is compiled."""

    def array(name: str, number: ArrayLike | None) -> ArrayLike | None:
        if number is None:
            return None
        return numpy_of(number).asarray(number, jnp.int32 if name == "top_k" else jnp.float32)

    return Sampling(*(array(field.name, getattr(sampling, field.name)) for field in fields(sampling)))


def row_keys(key: Array | None, batch: int) -> Array | None:
    """A key for each row, [B]: of one key, or [B] keys as they are. Row i's does not depend on how many rows there are.

    Raises ValueError for another number of keys.
    """
    if key is None:
        return None
    check_keys(key)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
    if key.shape != (batch,):
        raise ValueError(f"keys are {list(key.shape)}, the prompt has {batch} rows; give one key, or {batch}")
    return key


def keys_at(keys_B: Array | None, i: Array | int) -> Array | None:
    """The rows' keys for their token `i`, a number or [B]."""
    if keys_B is None:
        return None
    return jax.vmap(jax.random.fold_in)(keys_B, jnp.broadcast_to(jnp.asarray(i), keys_B.shape))


def check_sampling(sampling: Sampling, batch: int, vocab: int, key: Array | None) -> None:
    """Raise ValueError for numbers out of range or for other rows, and for a draw without a key."""
    given = {field.name: getattr(sampling, field.name) for field in fields(sampling)}
    given = {name: value for name, value in given.items() if value is not None}
    shaped = [name for name in given if name in DRAWS]
    if key is None and shaped:
        raise ValueError(f"give a key with {' and '.join(shaped)}; without one the most likely token is taken")
    for name, value in given.items():
        shapes = ((vocab,), (batch, vocab)) if name == "logit_bias" else ((), (batch,))
        if jnp.shape(value) not in shapes:
            wanted = " or ".join(str(list(allowed)) if allowed else "a number" for allowed in shapes)
            raise ValueError(f"{name} is {list(jnp.shape(value))}; give {wanted}")
        if isinstance(value, jax.core.Tracer):
            continue
        if not jnp.issubdtype(np.asarray(value).dtype, np.integer if name == "top_k" else np.number):
            raise ValueError(f"{name}={value!r} is no number; give {'integers' if name == 'top_k' else 'numbers'}")
        if np.isnan(np.asarray(value, float)).any():
            raise ValueError(f"{name} has a number that is none (NaN); mend what it is made of")
        if name in RANGES:
            allowed, words = RANGES[name]
            wrong = np.atleast_1d(np.asarray(value))[~allowed(np.atleast_1d(np.asarray(value)))]
            if wrong.size:
                raise ValueError(f"{name}={wrong[0]} is out of range; use {words}")
