"""A whole decoder in float64 NumPy, written from the papers and driven by the spec: the truth for `apply`.

It knows layers by name and shares no code with the library. A new entry of a table needs its line here, or fails with
a KeyError that says which.
"""

import math
from dataclasses import replace

import jax
import numpy as np

import fxformer as fx
from fxformer.layers.attention import GQA, Differential
from fxformer.layers.bias import ALiBi, Buckets
from fxformer.layers.embed import Learned, LearnedPair, Sinusoidal
from fxformer.layers.ffn import GLU, MLP
from fxformer.layers.head import Labels, Span, Tied, Untied
from fxformer.ops.bias import BucketBias, DistanceBias
from tests.ops import reference as ops


def pre(x, f, own, skip, branch):
    return skip * x + branch * f(own("before", x))


def post(x, f, own, skip, branch):
    return own("after", skip * x + branch * f(x))


def sandwich(x, f, own, skip, branch):
    return skip * x + branch * own("after", f(own("before", x)))


def output(x, f, own, skip, branch):
    return skip * x + branch * own("after", f(x))


def shifted(x, f, own, skip, branch):
    h = own("before", x)
    return skip * h + branch * f(h)


def bare(x, f, own, skip, branch):
    return skip * x + branch * f(x)


def dual(streams, f, own, skip, branch):
    x, d = streams
    y = branch * f(x)
    return own("after", skip * x + y), d + y


def rezero(x, f, own, skip, branch):
    return skip * x + branch * own.gate * f(x)


def beside(streams, f, own, skip, branch):
    x, added = streams
    return x, added + branch * f(own("before", x))


def together(streams, f, own, skip, branch):
    x, added = streams
    return skip * x + added + branch * f(own("before", x)), 0 * x


def at_the_end(x, norm):
    return norm(x)


def as_is(x, norm):
    return x


def first_at_the_end(streams, norm):
    return norm(streams[0])


def both(streams, norm):
    return streams[0] + norm(streams[1])


PLACEMENTS = {  # attention's join, feed-forward's, and the way out
    "pre": (pre, pre, at_the_end),
    "post": (post, post, as_is),
    "sandwich": (sandwich, sandwich, at_the_end),
    "output": (output, output, at_the_end),
    "shifted": (shifted, shifted, at_the_end),
    "hybrid": (bare, shifted, at_the_end),
    "normformer": (sandwich, pre, at_the_end),
    "dual": (dual, dual, both),
    "rezero": (rezero, rezero, as_is),
    "parallel": (beside, together, first_at_the_end),
}


class Own:
    """The norms and the gate of one join."""

    def __init__(self, spec, params):
        self.spec, self.params, self.gate = spec, params, params.get("gate")

    def __call__(self, place, h):
        return normed(self.spec, self.params.get(place, {}), h)


def normed(spec, params, x, axes=1):
    """Over the last `axes` axes together."""
    flat = x.reshape(*x.shape[: x.ndim - axes], -1) * params.get("alpha", 1.0)
    y = ops.NORMS[spec.kind](flat, spec.eps).reshape(x.shape)
    gain = spec.offset + params["scale"] if spec.scale else 1.0
    return y * gain + params.get("bias", 0.0)


def linear(params, einsum, x):
    return np.einsum(einsum, x, params["weight"]) + params.get("bias", 0.0)


def mlp(spec, params, x):
    return down(spec, params, ops.ACTIVATIONS[spec.activation](linear(params["up"], "btd,df->btf", x)))


def glu(spec, params, x):
    gate, up = (linear(params[name], "btd,df->btf", x) for name in ("gate", "up"))
    return down(spec, params, ops.ACTIVATIONS[spec.activation](gate) * up)


def down(spec, params, h):
    if spec.inner_norm is not None:
        h = normed(spec.inner_norm, params["inner_norm"], h)
    return linear(params["down"], "btf,fd->btd", h)


FFNS = {MLP: mlp, GLU: glu}
BIASES = {
    type(None): lambda spec, params: None,
    Buckets: lambda spec, params: BucketBias(params["bias"]["table"], spec.max_distance, spec.bidirectional),
    ALiBi: lambda spec, params: DistanceBias(np.array(ops.slopes(spec.heads))),
}
KNOWN = {
    GQA,
    Differential,
    *FFNS,
}  # others have a whole-layer oracle of their own: tests/test_mla.py, tests/test_moe.py
POSITIONS = {
    type(None): lambda spec, params, pos, width: 0.0,
    Sinusoidal: lambda spec, params, pos, width: ops.sinusoids(pos, width, spec.base),
    Learned: lambda spec, params, pos, width: params["position"]["table"][pos],
    LearnedPair: lambda spec, params, pos, width: params["position"]["text"][pos] + params["position"]["span"][0],
}
HEADS = {
    Tied: lambda spec, params, x, table: capped(spec.softcap, spec.scale * x @ table.T),
    Untied: lambda spec, params, x, table: capped(
        spec.softcap, linear(params["head"]["out"], "btd,dv->btv", spec.scale * x)
    ),
    **dict.fromkeys((Labels, Span), lambda spec, params, x, table: linear(params["head"]["out"], "btd,dy->bty", x)),
}


def capped(cap, x):
    return x if cap is None else cap * np.tanh(x / cap)


def knows(spec: fx.Transformer) -> bool:
    """Whether all layers are in the tables here; what has an encoder is compared with Hugging Face in tests/parity."""
    kinds = {type(layer) for block in spec.stack.blocks for layer in (block.attention, block.ffn)}
    return kinds <= KNOWN and type(spec.head) in HEADS and spec.encoder is None


def root_mean_square(x):
    return math.sqrt((x**2).mean())


def forward(spec: fx.Transformer, params, tokens, coords: fx.Coords):
    """(logits, hidden, stats) of `apply` without a cache."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    rows, length = tokens.shape
    pos, index = (np.broadcast_to(np.asarray(x), (rows, length)) for x in (coords.pos, coords.index))
    table = params["embed"]["table"]
    x = np.zeros((rows, length, spec.embed.width))
    for b, t in np.ndindex(rows, length):
        x[b, t] = spec.embed.scale * table[tokens[b, t]]
        x[b, t] += POSITIONS[type(spec.embed.position)](spec.embed.position, params["embed"], pos[b, t], x.shape[-1])
    if spec.embed.norm is not None:
        x = normed(spec.embed.norm, params["embed"]["norm"], x)
    bias = BIASES[type(spec.stack.bias)](spec.stack.bias, params["stack"])
    memory = spec.stack.memory_tokens
    if memory:
        x = np.concatenate([np.broadcast_to(params["stack"]["memory_tokens"], (rows, memory, x.shape[-1])), x], axis=1)
        pos, index, coords = behind(memory, pos, index, coords)
    stats, first = [], {}
    leave = PLACEMENTS[spec.stack.placement][2]
    x = (x, x) if leave is both else (x, 0 * x) if leave is first_at_the_end else x
    for number, (block, layer) in enumerate(layers(spec, params["stack"])):
        x, numbers = one_block(block, layer, x, number, pos=pos, index=index, coords=coords, bias=bias, first=first)
        stats.append(numbers)
    x = leave(x, lambda h: normed(spec.stack.norm, params["stack"].get("final_norm", {}), h))[:, memory:]
    logits = HEADS[type(spec.head)](spec.head, params, x, table)
    return logits, x, {name: np.array([numbers[name] for numbers in stats]) for name in stats[0]}


def behind(memory, pos, index, coords):
    """Positions, indices and coordinates of a row whose first tokens are the stack's own: at 0, and nowhere."""
    rows = coords.rows

    def fronted(x, fill):
        return np.concatenate([np.full((len(x), memory), fill), np.asarray(x)], axis=1)

    own = fronted(np.zeros((rows, coords.length), bool), True)
    coords = replace(
        coords, index=fronted(coords.index, -1), segment=fronted(coords.segment, 0), pos=fronted(coords.pos, 0),
        prefix=fronted(coords.prefix, False), start=fronted(coords.start, 0), memory_token=own,
    )  # fmt: skip
    return fronted(pos, 0), fronted(index, -1), coords


def layers(spec_or_groups, params):
    """(block, its parameters) of every layer, in order."""
    for i, group in enumerate(spec_or_groups.stack.groups):
        blocks = params[f"group_{i}"]["blocks"]
        for n in range(group.n):
            for j, block in enumerate(group.blocks):
                own = blocks.get(f"block_{j}", {})
                yield block, own if group.tied else jax.tree.map(lambda leaf, n=n: leaf[n], own)


def one_block(block, params, x, number, *, pos, index, coords, bias, first):
    stats = {}

    def join(name, stream, f):
        x = stream[0] if isinstance(stream, tuple) else stream

        def measured(h):
            y = f(h)
            stats[f"{name}_branch_ratio"] = root_mean_square(y) / root_mean_square(x)
            return y

        joins = dict(zip(("attention", "ffn"), PLACEMENTS[block.residual.placement], strict=False))
        learned = params.get(f"{name}_residual", {})
        own, branch = Own(block.residual.norm, learned), block.residual.branch * learned.get("layer_scale", 1.0)
        return joins[name](stream, measured, own, block.residual.skip, branch)

    def attention(h):
        looks = ATTENTIONS[type(block.attention)]
        around = {"number": number, "pos": pos, "index": index, "coords": coords, "bias": bias, "first": first}
        y, logits, weights = looks(block.attention, params["attention"], h, **around)
        rows = weights.sum(-1) > 0
        weights = weights / np.where(rows, weights.sum(-1), 1)[..., None]  # between tokens: a sink is none
        entropy = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(-1)
        stats["attention_logit_max"], stats["attention_entropy"] = logits.max(), entropy[rows].mean()
        return y

    x = join("attention", x, attention)
    x = join("ffn", x, lambda h: FFNS[type(block.ffn)](block.ffn, params["ffn"], h))
    stats["residual_rms"] = root_mean_square(x[0] if isinstance(x, tuple) else x)
    return x, stats


def attend(spec, params, h, *, number, pos, index, coords, bias, first):
    q = linear(params["query"], "btd,dhk->bthk", h)
    k, v = (linear(params[name], "btd,dgk->btgk", h) for name in ("key", "value"))
    if spec.qk_norm is not None:
        q = normed(spec.qk_norm, params.get("query_norm", {}), q, axes=1 + spec.joint_norm)
        k = normed(spec.qk_norm, params.get("key_norm", {}), k, axes=1 + spec.joint_norm)
    if spec.value_norm is not None:
        v = normed(spec.value_norm, params["value_norm"], v)
    if spec.value_residual is not None and not first:
        first["value"] = v
    elif spec.value_residual is not None:
        v = params["value_first"] * first["value"] + params["value_own"] * v
    if spec.relative is not None:
        bias = BIASES[type(spec.relative)](spec.relative, {"bias": params["relative"]})
    rotate(spec.rotary, pos, q, k)
    seen = ops.visible(spec.mask, coords, coords, len(h))
    y, logits, weights = ops.attend(
        q, k, v, seen=seen, q_index=index, k_index=index, bias=bias, scale=spec.scale, softcap=spec.softcap,
        sink=params.get("sinks"), before=params.get("mix_logits"), after=params.get("mix_weights"),
    )  # fmt: skip
    if spec.gate is not None:
        einsum = {"head": "btd,dh->bth", "channel": "btd,dhk->bthk"}[spec.gate]
        y = y / (1 + np.exp(-linear(params["gate"], einsum, h))).reshape(*y.shape[:3], -1)
    y = y * params.get("head_gains", np.ones(spec.heads))[:, None]
    if spec.out_norm is not None:
        y = normed(spec.out_norm, params["out_norm"], y, axes=2)
    return linear(params["out"], "bthk,hkd->btd", y), logits, weights


def rotate(rotary, pos, *arrays):
    """In place, each head of each token."""
    for x in () if rotary is None else arrays:
        for b, t, head in np.ndindex(*x.shape[:3]):
            x[b, t, head] = ops.rotate(x[b, t, head], [pos[b, t], *[0] * (rotary.streams - 1)], rotary)


def differential(spec, params, h, *, number, pos, index, coords, bias, first):
    """Ye et al. 2024, eq. 1 to 3: heads 2i and 2i + 1 of queries and keys are the two maps of head i."""
    q, k = (linear(params[name], "btd,dhk->bthk", h) for name in ("query", "key"))
    v = linear(params["value"], "btd,dgu->btgu", h)
    if spec.qk_norm is not None:
        q, k = (normed(spec.qk_norm, params.get(name, {}), x) for name, x in (("query_norm", q), ("key_norm", k)))
    rotate(spec.rotary, pos, q, k)
    seen = ops.visible(spec.mask, coords, coords, len(h))
    given = {"seen": seen, "q_index": index, "k_index": index, "bias": bias, "scale": spec.scale}
    maps = [ops.attend(q[:, :, i::2], k[:, :, i::2], v, softcap=spec.softcap, **given) for i in (0, 1)]
    one, two = (np.exp(params[f"lambda_query_{i}"] @ params[f"lambda_key_{i}"]) for i in (1, 2))
    start = spec.last - (spec.last - spec.first) * math.exp(-spec.pace * number)
    y = maps[0][0] - (one - two + start) * maps[1][0]
    y = (1 - start) * normed(spec.norm, params.get("norm", {}), y)
    logits, weights = (np.concatenate([one[i] for one in maps], axis=1) for i in (1, 2))
    return linear(params["out"], "bthu,hud->btd", y), logits, weights


ATTENTIONS = {GQA: attend, Differential: differential}
