"""What acts between a model's logits and its next token, in which order, and on which side of the softmax.

    one token after another   bias, penalty, early stops, temperature, top-k, top-p, min-p  ->  softmax
    whole texts (`beam`)      log_softmax  ->  early stops

Where a token is chosen or drawn, by `generate` or by a draft and its check, the softmax comes last: what is forbidden
leaves its probability to the rest. A search adds up what the model says: its softmax comes first, and what is forbidden
later takes its probability with it. Hugging Face has the same order in both.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fxformer.decode.request import Request
from fxformer.decode.sampling import narrow, weigh
from fxformer.ops.sample import precise


def choosable(request: Request, logits_BV: Array, made: Array, seen_BV: Array | None) -> Array:
    """The logits whose largest is the next token, or whose softmax it is drawn from. made: new tokens so far."""
    logits_BV = _forbid(request.stop, made < request.least, weigh(logits_BV, request.sampling, seen_BV))
    return logits_BV if request.keys is None else narrow(logits_BV, request.sampling)


def searchable(request: Request, logits_BKV: Array, made: Array) -> Array:
    """The log probabilities of the next token that a search adds to those of its hypotheses."""
    logp_BKV = jax.nn.log_softmax(precise(logits_BKV))
    return _forbid(request.stop, (made < request.least)[:, None], logp_BKV)


def _forbid(stop: Array | np.ndarray, early: Array, scores: Array) -> Array:
    """-inf for the stop tokens of rows that have fewer new tokens than they must."""
    return scores.at[..., stop].min(jnp.where(early[..., None], -jnp.inf, jnp.inf))
