"""GLM-130B, ChatGLM-6B and ChatGLM2-6B in NumPy, from what THUDM published: float64, one row, tensors by their names.

Written from the recipes alone: nothing here knows of fxformer.
"""

import math

import numpy as np


def chatglm(t, tokens, pos, prefix, *, layers, heads, eps):
    """Logits [T, V] of ChatGLM-6B. pos: [T, 2], place in the text and in the answer; prefix: [T], seen by everyone."""

    def turn(x):
        half = x.shape[-1] // 2
        return np.concatenate([half_split(x[..., :half], pos[:, 0]), half_split(x[..., half:], pos[:, 1])], -1)

    def feed_forward(x, name):
        return linear(gelu_tanh(linear(x, t, f"{name}.dense_h_to_4h")), t, f"{name}.dense_4h_to_h")

    return shifted(t, tokens, prefix, turn, feed_forward, layers=layers, heads=heads, eps=eps)


def glm_130b(t, tokens, pos, prefix, *, layers, heads, eps):
    """Logits [T, V] of GLM-130B. pos: [T]; prefix: [T], seen by everyone."""

    def feed_forward(x, name):
        first, second = np.split(linear(x, t, f"{name}.dense_h_to_4h"), 2, -1)
        return linear(first * gelu_erf(second), t, f"{name}.dense_4h_to_h")

    return shifted(t, tokens, prefix, lambda x: half_split(x, pos), feed_forward, layers=layers, heads=heads, eps=eps)


def shifted(t, tokens, prefix, turn, feed_forward, *, layers, heads, eps):
    """Each norm's output is the input of a branch and, times sqrt(2 layers), the shortcut beside it."""
    places = np.arange(len(tokens))
    seen = (places[None, :] <= places[:, None]) | prefix[None, :]
    alpha = math.sqrt(2 * layers)
    h = t["transformer.word_embeddings.weight"][tokens]
    for i in range(layers):
        name = f"transformer.layers.{i}"
        a = layer_norm(h, t, f"{name}.input_layernorm", eps)
        fused = linear(a, t, f"{name}.attention.query_key_value")
        fused = fused.reshape(len(tokens), heads, 3, -1)  # each head has its query, its key and its value
        mixed = attend(turn(fused[:, :, 0]), turn(fused[:, :, 1]), fused[:, :, 2], seen)
        u = alpha * a + linear(mixed, t, f"{name}.attention.dense")
        m = layer_norm(u, t, f"{name}.post_attention_layernorm", eps)
        h = alpha * m + feed_forward(m, f"{name}.mlp")
    h = layer_norm(h, t, "transformer.final_layernorm", eps)
    return h @ t["transformer.word_embeddings.weight"].T


def chatglm2(t, tokens, *, layers, heads, groups, channels, eps, base=10000.0, divisor=1):
    """Logits [T, V] of ChatGLM2-6B: all queries, then all keys, then all values in one matrix.

    base, divisor: of its angles and of its positions, which its successors of 32k tokens have changed.
    """
    length = len(tokens)
    seen = np.tril(np.ones((length, length), bool))
    places = np.arange(length) / divisor

    def turn(x):
        half = channels // 2
        return np.concatenate([in_pairs(x[..., :half], places, base), x[..., half:]], -1)

    h = t["transformer.embedding.word_embeddings.weight"][tokens]
    for i in range(layers):
        name = f"transformer.encoder.layers.{i}"
        a = rms_norm(h, t, f"{name}.input_layernorm", eps)
        fused = linear(a, t, f"{name}.self_attention.query_key_value")
        ends = [heads * channels, (heads + groups) * channels]
        q, k, v = (part.reshape(length, -1, channels) for part in np.split(fused, ends, -1))
        k, v = (np.repeat(part, heads // groups, axis=1) for part in (turn(k), v))
        h = h + linear(attend(turn(q), k, v, seen), t, f"{name}.self_attention.dense")
        m = rms_norm(h, t, f"{name}.post_attention_layernorm", eps)
        gate, up = np.split(linear(m, t, f"{name}.mlp.dense_h_to_4h"), 2, -1)
        h = h + linear(gate / (1 + np.exp(-gate)) * up, t, f"{name}.mlp.dense_4h_to_h")
    h = rms_norm(h, t, "transformer.encoder.final_layernorm", eps)
    return h @ t["transformer.output_layer.weight"].T


def linear(x, t, name):
    return x @ t[f"{name}.weight"].T + t.get(f"{name}.bias", 0)


def layer_norm(x, t, name, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * t[f"{name}.weight"] + t[f"{name}.bias"]


def rms_norm(x, t, name, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * t[f"{name}.weight"]


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_erf(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def attend(q, k, v, seen):
    """[T, heads, channels] each; what the heads read, side by side."""
    length, heads, channels = q.shape
    read = np.zeros((length, heads, channels))
    for h in range(heads):
        for i in range(length):
            at = np.flatnonzero(seen[i])
            weights = np.exp(k[at, h] @ q[i, h] / math.sqrt(channels))
            read[i, h] = weights / weights.sum() @ v[at, h]
    return read.reshape(length, -1)


def half_split(x, pos):
    """Channels i and i + n / 2 of [T, heads, n] turn by pos 10000^(-2 i / n)."""
    a, b = np.split(x, 2, -1)
    cos, sin = waves(x.shape[-1], pos)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def in_pairs(x, pos, base):
    """Channels 2 i and 2 i + 1 turn by the same angle."""
    y, (cos, sin) = np.empty_like(x), waves(x.shape[-1], pos, base)
    y[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
    y[..., 1::2] = x[..., 1::2] * cos + x[..., 0::2] * sin
    return y


def waves(channels, pos, base=10000.0):
    angles = pos[:, None, None] * base ** (-np.arange(0, channels, 2) / channels)
    return np.cos(angles), np.sin(angles)
