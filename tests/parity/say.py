"""What our model says about the inputs of a golden file, by the names under which that keeps what transformers said."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

import fxformer as fx
from fxformer.coords import padded


def say(spec, params, inputs):
    """Arrays by name; `inputs` have tokens, and where the model takes them valid, types, encoder_tokens and so on."""
    coords = None
    if "valid" in inputs:
        types = jnp.asarray(inputs["types"]) if "types" in inputs else None
        coords = replace(padded(inputs["valid"]), type=types)
    out = fx.apply(spec, params, jnp.asarray(inputs["tokens"]), coords=coords, **reading(inputs))
    said = {
        "at_last": out.logits[:, -1],
        "logits": out.logits,
        "last": out.hidden,
        "pooled": out.pooled,
        "labels": out.labels,
    }
    said |= {} if out.memory is None else {"memory": out.memory.hidden}
    return {name: np.asarray(array) for name, array in said.items() if array is not None}


def reading(inputs):
    """What an encoder reads, as arguments of ours."""
    if "encoder_tokens" not in inputs:
        return {}
    return {"encoder_tokens": jnp.asarray(inputs["encoder_tokens"]), "encoder_coords": padded(inputs["encoder_valid"])}


def apart(ours, theirs, inputs):
    """By name the largest difference as a share of the largest number; nothing is asked of padding."""
    masks = {
        "logits": inputs.get("valid"),
        "last": inputs.get("valid"),
        "memory": inputs.get("encoder_valid"),
    }
    shares = {}
    for name in ours.keys() & theirs.keys():
        seen = ... if masks.get(name) is None else masks[name]
        shares[name] = float(np.abs(ours[name][seen] - theirs[name][seen]).max() / np.abs(theirs[name][seen]).max())
    return shares
