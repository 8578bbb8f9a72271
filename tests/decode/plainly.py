"""Decoding as one would write it down: a row alone, the whole text read again for every token, choices in NumPy."""

import numpy as np

import fxformer as fx
from fxformer.coords import of_index

ROOM = 28  # tokens that every text is padded to; those behind a token change nothing


def logits_of(spec, params, texts, coords=None, **source):
    """What an uncached pass says to each token of texts of equal length: float64 [B, T, V]."""
    texts = np.asarray(texts)
    length = texts.shape[1]
    padded = np.pad(texts, ((0, 0), (0, ROOM - length)))
    coords = of_index(np.arange(ROOM, dtype=np.int32)[None]) if coords is None else coords
    return np.asarray(fx.apply(spec, params, padded, coords=coords, **source).logits, np.float64)[:, :length]


def log_softmax(logits):
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def greedy(spec, params, prompt, most, *, stop=(), least=0, penalty=1.0, bias=0.0, **source):
    """The new tokens, a stop among them."""
    text = list(prompt)
    for made in range(most):
        logits = logits_of(spec, params, [text], **source)[0, -1]
        if made < least:
            logits[list(stop)] = -np.inf
        logits = logits + bias
        for token in set(text):
            logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
        text.append(int(np.argmax(logits)))
        if text[-1] in stop:
            break
    return text[len(prompt) :]


def filled_up(new, length, pad):
    return [*new, *[pad] * (length - len(new))]
