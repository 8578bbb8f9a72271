"""A whole decoder in float64 NumPy, written from the papers and driven by the spec: the truth for `apply`.

It knows layers by name and shares no code with the library. A new entry of a table needs its line here, or fails with
a KeyError that says which.
"""

import math

import jax
import numpy as np

import fxformer as fx
from fxformer.layers.bias import ALiBi, Buckets
from fxformer.layers.embed import Free, Learned, Sinusoidal, Tied
from fxformer.layers.ffn import GLU, MLP
from fxformer.ops.bias import BucketBias, DistanceBias
from tests.ops import reference as ops

PLACEMENTS = {
    "pre": lambda x, f, norm, skip: skip * x + f(norm("before", x)),
    "post": lambda x, f, norm, skip: norm("after", skip * x + f(x)),
    "sandwich": lambda x, f, norm, skip: skip * x + norm("after", f(norm("before", x))),
}
NORMED_AT_THE_END = ("pre", "sandwich")


def normed(spec, params, x):
    y = ops.NORMS[spec.kind](x, spec.eps)
    return y * params.get("scale", 1.0) + params.get("bias", 0.0)


def linear(params, einsum, x):
    return np.einsum(einsum, x, params["weight"]) + params.get("bias", 0.0)


def mlp(spec, params, x):
    return linear(
        params["down"], "btf,fd->btd", ops.ACTIVATIONS[spec.activation](linear(params["up"], "btd,df->btf", x))
    )


def glu(spec, params, x):
    gate, up = (linear(params[name], "btd,df->btf", x) for name in ("gate", "up"))
    return linear(params["down"], "btf,fd->btd", ops.ACTIVATIONS[spec.activation](gate) * up)


FFNS = {MLP: mlp, GLU: glu}
BIASES = {
    type(None): lambda spec, params: None,
    Buckets: lambda spec, params: BucketBias(params["bias"]["table"], spec.max_distance, spec.bidirectional),
    ALiBi: lambda spec, params: DistanceBias(np.array(ops.slopes(spec.heads))),
}
POSITIONS = {
    type(None): lambda spec, params, pos, width: 0.0,
    Sinusoidal: lambda spec, params, pos, width: ops.sinusoids(pos, width, spec.base),
    Learned: lambda spec, params, pos, width: params["position"]["table"][pos],
}
HEADS = {
    Tied: lambda spec, params, x, table: spec.scale * x @ table.T,
    Free: lambda spec, params, x, table: linear(params["head"]["out"], "btd,dv->btv", x),
}


def root_mean_square(x):
    return math.sqrt((x**2).mean())


def forward(spec: fx.Transformer, params, tokens, coords: fx.Coords):
    """(logits, hidden, stats) of `apply` without a cache."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    rows, length = tokens.shape
    pos, index = (np.broadcast_to(np.asarray(x), (rows, length)) for x in (coords.positions, coords.index))
    table = params["embed"]["table"]
    x = np.zeros((rows, length, spec.embed.width))
    for b, t in np.ndindex(rows, length):
        x[b, t] = spec.embed.scale * table[tokens[b, t]]
        x[b, t] += POSITIONS[type(spec.embed.position)](spec.embed.position, params["embed"], pos[b, t], x.shape[-1])
    if spec.embed.norm is not None:
        x = normed(spec.embed.norm, params["embed"]["norm"], x)
    bias = BIASES[type(spec.stack.bias)](spec.stack.bias, params["stack"])
    stats = []
    for block, layer in layers(spec, params["stack"]):
        x, numbers = one_block(block, layer, x, pos=pos, index=index, coords=coords, bias=bias)
        stats.append(numbers)
    if spec.stack.groups[-1].blocks[-1].residual.placement in NORMED_AT_THE_END:
        x = normed(spec.stack.norm, params["stack"].get("final_norm", {}), x)
    logits = HEADS[type(spec.head)](spec.head, params, x, table)
    return logits, x, {name: np.array([numbers[name] for numbers in stats]) for name in stats[0]}


def layers(spec_or_groups, params):
    """(block, its parameters) of every layer, in order."""
    for i, group in enumerate(spec_or_groups.stack.groups):
        blocks = params[f"group_{i}"]["blocks"]
        for n in range(group.n):
            for j, block in enumerate(group.blocks):
                own = blocks.get(f"block_{j}", {})
                yield block, own if group.tied else jax.tree.map(lambda leaf, n=n: leaf[n], own)


def one_block(block, params, x, *, pos, index, coords, bias):
    stats = {}

    def join(name, x, f):
        def measured(h):
            y = f(h)
            stats[f"{name}_branch_ratio"] = root_mean_square(y) / root_mean_square(x)
            return y

        def norm(place, h):
            return normed(block.residual.norm, params.get(f"{name}_residual", {}).get(place, {}), h)

        return PLACEMENTS[block.residual.placement](x, measured, norm, block.residual.skip)

    def attention(h):
        y, logits, weights = attend(block.attention, params["attention"], h, pos, index, coords, bias)
        rows = weights.sum(-1) > 0
        entropy = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(-1)
        stats["attention_logit_max"], stats["attention_entropy"] = logits.max(), entropy[rows].mean()
        return y

    x = join("attention", x, attention)
    x = join("ffn", x, lambda h: FFNS[type(block.ffn)](block.ffn, params["ffn"], h))
    stats["residual_rms"] = root_mean_square(x)
    return x, stats


def attend(spec, params, h, pos, index, coords, bias):
    q = linear(params["query"], "btd,dhk->bthk", h)
    k, v = (linear(params[name], "btd,dgk->btgk", h) for name in ("key", "value"))
    if spec.qk_norm is not None:
        q = normed(spec.qk_norm, params.get("query_norm", {}), q)
        k = normed(spec.qk_norm, params.get("key_norm", {}), k)
    if spec.rotary is not None:
        for x in (q, k):
            for b, t, head in np.ndindex(*x.shape[:3]):
                x[b, t, head] = ops.rotate(x[b, t, head], [pos[b, t]], spec.rotary)
    seen = ops.visible(spec.mask, coords, coords, len(h))
    y, logits, weights = ops.attend(
        q, k, v, seen=seen, q_index=index, k_index=index, bias=bias, scale=spec.scale, softcap=spec.softcap
    )
    return linear(params["out"], "bthk,hkd->btd", y), logits, weights
