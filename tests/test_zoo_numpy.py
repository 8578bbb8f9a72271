"""Whole forward passes in float64 NumPy, from the papers' formulas, of models that have no class to compare with.

Each is written out as its authors do it: nothing is shared but what all of them call by the same name.
"""

from dataclasses import replace
from math import erf, pi, sqrt

import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.coords import plain
from fxformer.verify import disturbed
from tests.laws.specs import tokens_of

LENGTH, CONTEXT, READ = 9, 4, 7


def layer_norm(x, own, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * own["scale"] + own["bias"]


def rms_norm(x, own, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * own["scale"]


def gelu_tanh(x):
    return x / 2 * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))


def gelu_erf(x):
    return x / 2 * (1 + np.vectorize(erf)(x / sqrt(2)))


def affine(x, own):
    """x W + b, where there is a b."""
    y = np.tensordot(x, own["weight"], 1)
    return y + own["bias"] if "bias" in own else y


def attention(own, x, source, seen, turn=lambda head, t: head):
    """One query, one head, one key after another; `turn(head, t)` rotates what stands at t; seen[t] are t's keys."""
    q, k, v = affine(x, own["query"]), affine(source, own["key"]), affine(source, own["value"])
    heads, width = q.shape[1:]
    each = heads // k.shape[1]
    read = np.zeros_like(q)
    for t in range(len(x)):
        for h in range(heads):
            query = turn(q[t, h], t)
            logits = [query @ turn(k[s, h // each], s) / sqrt(width) for s in seen[t]]
            weights = np.exp(np.array(logits) - max(logits))
            read[t, h] = sum(w * v[s, h // each] for w, s in zip(weights / weights.sum(), seen[t], strict=True))
    y = np.tensordot(read, own["out"]["weight"], 2)
    return y + own["out"]["bias"] if "bias" in own["out"] else y


def rotated(head, pos, pairs, base=1e4):
    """Each pair (i, j) of channels turned by pos * base^(-2m / p), p channels in all, m the number of the pair."""
    head = head.copy()
    for m, (i, j) in enumerate(pairs):
        angle = pos * base ** (-m / len(pairs))
        a, b = head[i], head[j]
        head[i], head[j] = a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)
    return head


CAUSAL = [range(t + 1) for t in range(LENGTH)]
PREFIX = [range(max(t + 1, CONTEXT)) for t in range(LENGTH)]


def layers(stack):
    """The parameters of each block of the one group, in order."""
    own = stack["group_0"]["blocks"]["block_0"]
    count = len(own["ffn"]["down"]["weight"])
    return [tree(own, lambda leaf, i=i: leaf[i]) for i in range(count)]


def tree(node, f):
    return {name: tree(child, f) for name, child in node.items()} if isinstance(node, dict) else f(node)


def transformer(own, tokens, read, pos):
    """Vaswani et al. 2017: embeddings times sqrt(d) plus sinusoids, LN(x + f(x)) three times in the decoder."""
    table = own["embed"]["table"]
    width = table.shape[1]

    def embed(tokens):
        x = table[tokens] * sqrt(width)
        for t in range(len(tokens)):
            for i in range(0, width, 2):
                x[t, i] += np.sin(t / 10_000 ** (i / width))
                x[t, i + 1] += np.cos(t / 10_000 ** (i / width))
        return x

    def ffn(x, own):
        return affine(np.maximum(0, affine(x, own["up"])), own["down"])

    memory = embed(read)
    for layer in layers(own["encoder"]):
        norms = [layer[f"{name}_residual"]["after"] for name in ("attention", "ffn")]
        memory = layer_norm(
            memory + attention(layer["attention"], memory, memory, [range(READ)] * READ), norms[0], 1e-6
        )
        memory = layer_norm(memory + ffn(memory, layer["ffn"]), norms[1], 1e-6)
    x = embed(tokens)
    for layer in layers(own["stack"]):
        norms = [layer[f"{name}_residual"]["after"] for name in ("attention", "cross", "ffn")]
        x = layer_norm(x + attention(layer["attention"], x, x, CAUSAL), norms[0], 1e-6)
        x = layer_norm(x + attention(layer["cross"], x, memory, [range(READ)] * LENGTH), norms[1], 1e-6)
        x = layer_norm(x + ffn(x, layer["ffn"]), norms[2], 1e-6)
    return x @ table.T


def glm(own, tokens, read, pos):
    """Du et al. 2022: two tables of positions, x + f(LN(x)), a norm at the end, the table again."""
    table, position = own["embed"]["table"], own["embed"]["position"]
    x = table[tokens] + position["text"][pos[:, 0]] + position["span"][pos[:, 1]]
    for layer in layers(own["stack"]):
        h = layer_norm(x, layer["attention_residual"]["before"], 1e-5)
        x = x + attention(layer["attention"], h, h, PREFIX)
        h = layer_norm(x, layer["ffn_residual"]["before"], 1e-5)
        x = x + affine(gelu_tanh(affine(h, layer["ffn"]["up"])), layer["ffn"]["down"])
    return layer_norm(x, own["stack"]["final_norm"], 1e-5) @ table.T


def glm_130b(own, tokens, read, pos):
    """Zeng et al. 2023: a = LN(h), u = alpha a + attention(a), m = LN(u), h = alpha m + GeGLU(m)."""
    table, alpha = own["embed"]["table"], sqrt(2 * 3)

    def turn(head, t):
        return rotated(head, pos[t, 0], [(i, i + 4) for i in range(4)])

    h = table[tokens]
    for layer in layers(own["stack"]):
        a = layer_norm(h, layer["attention_residual"]["before"], 1e-5)
        u = alpha * a + attention(layer["attention"], a, a, PREFIX, turn)
        m = layer_norm(u, layer["ffn_residual"]["before"], 1e-5)
        gated = affine(m, layer["ffn"]["up"]) * gelu_erf(affine(m, layer["ffn"]["gate"]))
        h = alpha * m + affine(gated, layer["ffn"]["down"])
    return layer_norm(h, own["stack"]["final_norm"], 1e-5) @ table.T


def chatglm(own, tokens, read, pos):
    """ChatGLM-6B: the same residual; half of each head turned by the place in the text, half by that in the answer."""
    table, alpha = own["embed"]["table"], sqrt(2 * 3)

    def turn(head, t):
        head = rotated(head, pos[t, 0], [(0, 2), (1, 3)])
        return rotated(head, pos[t, 1], [(4, 6), (5, 7)])

    h = table[tokens]
    for layer in layers(own["stack"]):
        a = layer_norm(h, layer["attention_residual"]["before"], 1e-5)
        u = alpha * a + attention(layer["attention"], a, a, PREFIX, turn)
        m = layer_norm(u, layer["ffn_residual"]["before"], 1e-5)
        h = alpha * m + affine(gelu_tanh(affine(m, layer["ffn"]["up"])), layer["ffn"]["down"])
    return layer_norm(h, own["stack"]["final_norm"], 1e-5) @ table.T


def chatglm2(own, tokens, read, pos):
    """ChatGLM2-6B: pre-RMSNorm, SwiGLU, query heads 3 j … 3 j + 2 read key head j, neighbours of half a head turned."""

    def turn(head, t):
        return rotated(head, pos[t, 0], [(0, 1), (2, 3)])

    x = own["embed"]["table"][tokens]
    for layer in layers(own["stack"]):
        h = rms_norm(x, layer["attention_residual"]["before"], 1e-5)
        x = x + attention(layer["attention"], h, h, CAUSAL, turn)
        h = rms_norm(x, layer["ffn_residual"]["before"], 1e-5)
        gate = affine(h, layer["ffn"]["gate"])
        x = x + affine(gate / (1 + np.exp(-gate)) * affine(h, layer["ffn"]["up"]), layer["ffn"]["down"])
    return affine(rms_norm(x, own["stack"]["final_norm"], 1e-5), own["head"]["out"])


PLACES = np.stack([np.arange(LENGTH), np.zeros(LENGTH, int)], axis=1)
# A context of four tokens, whose third is the mask that the rest fills in.
SPANS = np.array([[0, 0], [1, 0], [2, 0], [3, 0], [2, 1], [2, 2], [2, 3], [2, 4], [2, 5]])
FORWARDS = {
    "transformer-base": (transformer, PLACES),
    "glm-base": (glm, SPANS),
    "glm-130b": (glm_130b, PLACES),
    "chatglm-6b": (chatglm, SPANS),
    "chatglm2-6b": (chatglm2, PLACES),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_logits_equal_float64_numpy_written_from_the_paper(name):
    forward, pos = FORWARDS[name]
    spec = fx.zoo.tiny(name)
    params, tokens, read = disturbed(spec), tokens_of(spec, 2, LENGTH), tokens_of(spec, 2, READ, seed=3)
    streams = pos if (pos[:, 1] > 0).any() else pos[:, 0]
    coords = replace(plain(LENGTH), prefix=jnp.arange(LENGTH)[None] < CONTEXT, pos=jnp.asarray(streams)[None])
    encoder = {} if spec.encoder is None else {"encoder_tokens": read}
    logits = fx.apply(spec, params, tokens, coords=coords, **encoder).logits
    own = tree(params, lambda leaf: np.asarray(leaf, np.float64))
    for ours, row, source in zip(logits, tokens, read, strict=True):
        exact = forward(own, row, source, pos)
        np.testing.assert_allclose(ours, exact, atol=2e-5 * np.abs(exact).max())
