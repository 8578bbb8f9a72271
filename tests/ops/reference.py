"""The papers' formulas in float64 NumPy, one token or one pair at a time: the truth that ops are compared with.

Nothing here is imported from what it judges, except the names of masks and biases that have to be told apart.
"""

import math

import numpy as np

from fxformer.coords import Coords
from fxformer.ops import bias, mask, rotary

erf = np.vectorize(math.erf)

ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu_erf": lambda x: x / 2 * (1 + erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu_sigmoid": lambda x: x / (1 + np.exp(-1.702 * x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "relu2": lambda x: np.where(x > 0, x * x, 0),
}

NORMS = {
    "layer": lambda x, eps: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps),
    "rms": lambda x, eps: x / np.sqrt((x**2).mean(-1, keepdims=True) + eps),
    "l2": lambda x, eps: x / np.maximum(np.sqrt((x**2).sum(-1, keepdims=True)), eps),
    "dyt": lambda x, eps: 1 - 2 / (np.exp(2 * x) + 1),
    "batch": lambda x, eps: (x - over_tokens(np.mean, x)) / np.sqrt(over_tokens(np.var, x) + eps),
    "none": lambda x, eps: x,
}


def over_tokens(statistic, x):
    """One number for each channel, over all tokens of all rows."""
    return statistic(x.reshape(-1, x.shape[-1]), axis=0)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sinusoids(pos, width, base=10_000.0):
    """Vaswani et al. 2017, section 3.5, channel by channel."""
    return np.array([math.sin(pos / base ** (i / width)) if i % 2 == 0 else math.cos(pos / base ** ((i - 1) / width))
                     for i in range(width)])  # fmt: skip


def frequencies(spec: rotary.Rotary, length=0):
    """Radians a token of each pair of channels; the scalings as their papers or their reference code print them.

    length: of the text, which only one of them reads.
    """
    p, scaling = spec.width, spec.scaling
    base = spec.base
    if isinstance(scaling, rotary.NTK):
        base = base * scaling.factor ** (p / (p - 2))
    if isinstance(scaling, rotary.Dynamic) and length > scaling.original_length:
        stretch = scaling.factor * length / scaling.original_length - (scaling.factor - 1)
        base = base * stretch ** (p / (p - 2))
    plain = [base ** (-2 * i / p) for i in range(p // 2)]
    if isinstance(scaling, rotary.Linear):
        return [w / scaling.factor for w in plain]
    if isinstance(scaling, rotary.YaRN):

        def pair(turns):
            return p * math.log(scaling.original_length / (turns * 2 * math.pi)) / (2 * math.log(base))

        low, high = pair(scaling.fast), pair(scaling.slow)
        if scaling.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, p - 1)
        high += 0.001 if low == high else 0
        ramp = [min(max((i - low) / (high - low), 0), 1) for i in range(p // 2)]
        return [w / scaling.factor * r + w * (1 - r) for w, r in zip(plain, ramp, strict=True)]
    if isinstance(scaling, rotary.Llama3):
        return [_llama3(w, scaling) for w in plain]
    assert scaling is None or isinstance(scaling, (rotary.NTK, rotary.Dynamic))
    return plain


def _llama3(w, scaling):
    """Reference code of Llama 3.1: short waves stay, long ones are stretched, those between are mixed."""
    wavelength = 2 * math.pi / w
    if wavelength < scaling.original_length / scaling.high:
        return w
    if wavelength > scaling.original_length / scaling.low:
        return w / scaling.factor
    smooth = (scaling.original_length / wavelength - scaling.low) / (scaling.high - scaling.low)
    return (1 - smooth) * w / scaling.factor + smooth * w


def rotate(x, pos, spec: rotary.Rotary):
    """x: [channels] of one head of one token; pos: one number for each stream. Complex multiplication, pair by pair."""
    y, p = np.array(x, np.float64), spec.width
    for stream in range(spec.streams):
        for i, w in enumerate(frequencies(spec)):
            a, b = {"half": (i, i + p // 2), "interleaved": (2 * i, 2 * i + 1)}[spec.pairing]
            a, b = a + stream * p, b + stream * p
            turned = complex(x[a], x[b]) * spec.gain * np.exp(1j * pos[stream] * w)
            y[a], y[b] = turned.real, turned.imag
    return y


def bucket(relative, *, count, max_distance, bidirectional):
    """T5's bucket of key - query, Raffel et al. 2020 and its code, one distance at a time."""
    n, offset = -relative, 0
    if bidirectional:
        count //= 2
        offset, n = (count if n < 0 else 0), abs(n)
    n, exact = max(n, 0), count // 2
    if n < exact:
        return offset + n
    logarithmic = exact + math.floor(math.log(n / exact) / math.log(max_distance / exact) * (count - exact))
    return offset + min(count - 1, logarithmic)


def slopes(heads):
    """Press et al. 2022: a geometric sequence from 2^(-8/n); other counts borrow from the next power of two."""
    if math.log2(heads).is_integer():
        return [2.0 ** (-8 * (i + 1) / heads) for i in range(heads)]
    lower = 2 ** math.floor(math.log2(heads))
    return (slopes(lower) + slopes(2 * lower)[0::2])[:heads]


def logit_bias(value, q_index, k_index):
    """[heads] to add to the logits of one pair."""
    if value is None:
        return 0.0
    if isinstance(value, bias.BucketBias):
        table = np.asarray(value.table_XH, np.float64)
        return table[bucket(k_index - q_index, count=len(table), max_distance=value.max_distance,
                            bidirectional=value.bidirectional)]  # fmt: skip
    assert isinstance(value, bias.DistanceBias)
    return -np.asarray(value.slope_H, np.float64) * abs(q_index - k_index)


MASKS = {
    mask.Full: lambda m, q, k, k_prefix: True,
    mask.Causal: lambda m, q, k, k_prefix: k <= q,
    mask.Window: lambda m, q, k, k_prefix: q - m.size < k <= q,
    mask.Prefix: lambda m, q, k, k_prefix: k_prefix,
    mask.Strided: lambda m, q, k, k_prefix: k <= q and (q - k) % m.stride == 0,
    mask.Blocks: lambda m, q, k, k_prefix: k <= q and q // m.size == k // m.size,
    mask.Both: lambda m, *pair: allows(m.first, *pair) and allows(m.second, *pair),
    mask.Either: lambda m, *pair: allows(m.first, *pair) or allows(m.second, *pair),
}


def allows(m, q, k, k_prefix):
    """May the query at index q see the key at index k?"""
    return bool(MASKS[type(m)](m, q, k, k_prefix))


def visible(m, q: Coords, k: Coords, rows):
    """bool [rows, T, S]: the mask, counted within one segment, between tokens that are not padding.

    Memory tokens are seen by every token, and see each other; more than that where the mask shows what comes later.
    """
    starts = np.broadcast_to(np.asarray(0 if q.start is None else q.start), (rows, q.length))
    q_index, q_segment = (np.broadcast_to(np.asarray(x), (rows, q.length)) for x in (q.index, q.segment))
    k_index, k_segment, k_prefix = (
        np.broadcast_to(np.asarray(x), (rows, k.length)) for x in (k.index, k.segment, k.prefix)
    )
    q_own, k_own = (
        np.zeros((rows, of.length), bool)
        if of.memory_token is None
        else np.broadcast_to(of.memory_token, (rows, of.length))
        for of in (q, k)
    )
    seen = np.zeros((rows, q.length, k.length), bool)
    for b, t, s in np.ndindex(*seen.shape):
        real = q_index[b, t] >= 0 and k_index[b, s] >= 0 and q_segment[b, t] == k_segment[b, s]
        places = (int(index - starts[b, t]) for index in (q_index[b, t], k_index[b, s]))
        seen[b, t, s] = real and allows(m, *places, bool(k_prefix[b, s]))
        seen[b, t, s] |= k_own[b, s] and (q_own[b, t] or q_index[b, t] >= 0)
        seen[b, t, s] |= q_own[b, t] and k_index[b, s] >= 0 and allows(m, 5, 6, False)
    return seen


def attend(q, k, v, *, seen, q_index, k_index, bias=None, scale=None, softcap=None, sink=None, before=None, after=None):
    """(y [B, T, H, U], logits and weights [B, H, T, S]) by a loop over rows and heads.

    A query that sees nothing gets zeros. Query head h looks at key head h // (H / G), as repeat_interleave does.
    before, after: Shazeer et al. 2020, P_l and P_w: maps between heads, of the logits and of the weights.
    """
    (rows, tokens, heads, width), kv_heads = q.shape, k.shape[2]
    scale = 1 / math.sqrt(width) if scale is None else scale
    y = np.zeros((rows, tokens, heads, v.shape[-1]))
    logits = np.full((rows, heads, tokens, k.shape[1]), -np.inf)
    weights = np.zeros_like(logits)
    added = np.zeros_like(logits)
    if bias is not None:
        for b, t, s in np.ndindex(rows, tokens, k.shape[1]):
            if min(q_index[b, t], k_index[b, s]) >= 0:  # memory tokens are at no distance
                added[b, :, t, s] = logit_bias(bias, int(q_index[b, t]), int(k_index[b, s]))
    before, after = (np.eye(heads) if mix is None else np.asarray(mix, np.float64) for mix in (before, after))
    for b, o in np.ndindex(rows, heads):
        raw = sum(before[h, o] * scale * q[b, :, h] @ k[b, :, h // (heads // kv_heads)].T for h in range(heads))
        raw = raw if softcap is None else softcap * np.tanh(raw / softcap)
        logits[b, o] = np.where(seen[b], raw + added[b, o], -np.inf)
        for t in np.flatnonzero(seen[b].any(-1)):
            added_logit = [] if sink is None else [float(sink[o])]
            weights[b, o, t] = softmax(np.concatenate([logits[b, o, t], added_logit]))[: k.shape[1]]
    for b, h in np.ndindex(rows, heads):
        y[b, :, h] = sum(after[o, h] * weights[b, o] for o in range(heads)) @ v[b, :, h // (heads // kv_heads)]
    return y, logits, weights
