# %% [markdown]
# # Where the norm stands
#
# Every sublayer f joins the residual stream x. With L blocks:
#
# | placement | a sublayer | |
# | --- | --- | --- |
# | post | x ← norm(x + f(x)) | Vaswani et al. 2017 |
# | pre | x ← x + f(norm x), and a norm at the end | GPT-2; Xiong et al. 2020 |
# | sandwich | x ← x + norm f(norm x), and a norm at the end | Ding et al. 2021; Kim et al. 2025 |
# | DeepNorm | x ← norm(a x + f(x)), a = (2L)^(1/4); branches begin (8L)^(-1/4) as large | Wang et al. 2022 |
#
# The first three are names, `placement="post"`. DeepNorm is post-norm with two numbers, which may be arguments of a
# compiled program: `fx.zoo.toy(placement="post", residual_scale=..., branch_scale=...)`.

# %%
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _draw import lines

import fxformer as fx

jax.config.update("jax_disable_most_optimizations", True)  # small programs, that are quickly compiled

NAMES = {"post": "post", "DeepNorm": "post", "pre": "pre", "sandwich": "sandwich"}
deepest, vocab, length = 16, 16, 16


def model(placement, skip=1.0):
    sizes = {"width": 16, "depth": deepest, "heads": 2, "inner": 32, "vocab": vocab}
    return fx.zoo.toy(**sizes, placement=placement, residual_scale=skip)


# %% [markdown]
# ## One program for every depth
#
# A block whose last two matrices are zero adds nothing to the stream. In pre-norm x stays as it is; in post-norm x was
# normed already, and to norm it again changes nothing. So a model of 16 blocks, with zeros from block d on that are
# kept at zero, *is* a model of d blocks, and each placement is compiled once. All begin with the same matrices.

# %%
fresh = fx.init(model("pre"), jax.random.key(0))
BRANCH = [("attention", "value"), ("attention", "out"), ("ffn", "up"), ("ffn", "down")]
LAST = [("attention", "out"), ("ffn", "down")]


def block_of(params):
    return params["stack"]["group_0"]["blocks"]["block_0"]


def shapes_of(placement):
    return jax.eval_shape(lambda: fx.init(model(placement), jax.random.key(0)))


shapes = {placement: shapes_of(placement) for placement in set(NAMES.values())}


def kept(weight, depth):
    """Of the first `depth` blocks; the rest is zero."""
    return weight * (np.arange(deepest) < depth).reshape(-1, *[1] * (weight.ndim - 1))


def start(name, depth):
    """The skip, and parameters whose blocks from `depth` on add nothing; gains of norms are 1."""
    known, own = dict(jax.tree_util.tree_leaves_with_path(fresh)), shapes[NAMES[name]]
    params = jax.tree_util.tree_map_with_path(lambda at, leaf: np.asarray(known.get(at, np.ones(leaf.shape))), own)
    skip, branch = ((2 * depth) ** 0.25, (8 * depth) ** -0.25) if name == "DeepNorm" else (1, 1)
    for part, matrix in BRANCH:
        weight = branch * block_of(params)[part][matrix]["weight"]
        block_of(params)[part][matrix]["weight"] = kept(weight, depth) if (part, matrix) in LAST else weight
    return np.float32(skip), jax.tree.map(np.float32, params)


# %% [markdown]
# A step of Adam, for four runs side by side, says what it saw on the way: the loss, the gradient of each block's last
# feed-forward matrix, and the size of the stream behind each block. The text is of 16 letters; each decides the next,
# nine times of ten.

# %%
adam = optax.scale_by_adam()


def program(placement):
    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, 0, 0, 0, None))
    def step(params, state, skip, depth, rate, tokens):
        def loss_of(params):
            said = fx.apply(model(placement, skip), params, tokens[:, :-1])
            return fx.ops.cross_entropy(said.logits, tokens[:, 1:]).mean(), said.stats["residual_rms"]

        (loss, stream), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        down = block_of(gradients)["ffn"]["down"]["weight"]
        updates, state = adam.update(gradients, state)
        params = jax.tree.map(lambda leaf, update: leaf - rate * update, params, updates)
        for part, matrix in LAST:
            block_of(params)[part][matrix]["weight"] = kept(block_of(params)[part][matrix]["weight"], depth)
        return params, state, loss, jnp.sqrt(jnp.sum(down**2, axis=(1, 2))), stream

    return step


steps = {placement: program(placement) for placement in shapes}


def batch(seed, rows=8):
    draw = np.random.default_rng(seed)
    text = [draw.integers(vocab, size=rows)]
    for _ in range(length):
        text.append(np.where(draw.random(rows) < 0.9, (text[-1] * 5 + 3) % vocab, draw.integers(vocab, size=rows)))
    return np.stack(text, axis=1)


def train(name, depths, updates, warmups=(0, 0, 0, 0), lr=0.03):
    """Loss [step, run], and gradient and stream by block [step, run, block], of four runs."""
    skips, params = jax.tree.map(lambda *leaves: np.stack(leaves), *[start(name, depth) for depth in depths])
    state, looks = jax.vmap(adam.init)(params), []
    for i in range(updates):
        rates = np.float32(lr * np.minimum(1, (i + 1) / np.maximum(warmups, 1)))
        params, state, *look = steps[NAMES[name]](params, state, skips, np.asarray(depths), rates, batch(i))
        looks.append(look)
    return [np.asarray(each) for each in zip(*looks, strict=True)]


# %% [markdown]
# ## Before the first step
#
# The gradient by block, of 16 blocks, as a power of ten. In post-norm it is about as large everywhere. In pre-norm it
# falls towards the output: a block of a stream that has grown changes less of what is said. In DeepNorm it is small
# and even.

# %%
depths = (2, 4, 8, 16)
first = {name: train(name, depths, 1) for name in NAMES}
gradient = {(name, depth): first[name][1][0, i, :depth] for name in NAMES for i, depth in enumerate(depths)}
stream = {(name, depth): first[name][2][0, i, :depth] for name in NAMES for i, depth in enumerate(depths)}
lines({name: np.log10(gradient[name, 16]) for name in NAMES}, range(1, 17), "block of 16", "gradient")

# %% [markdown]
# Xiong et al. 2020, theorem 1: at the last block it stays as large however deep a post-norm model is, and falls as
# 1/√L in pre-norm. Here from 2 blocks to 16, as a power of the depth:

# %%
last = {name: [gradient[name, depth][-1] for depth in depths] for name in NAMES}
power = {name: np.polyfit(np.log(depths), np.log(each), 1)[0] for name, each in last.items()}
for name, exponent in power.items():
    print(f"{name:9} L^{exponent:5.2f}")
assert abs(power["post"]) < 0.3 and -0.9 < power["pre"] < -0.4
lines({name: np.log10(each) for name, each in last.items()}, np.log2(depths), "log2 of the depth", "gradient")

# %% [markdown]
# ## What the residual stream does
#
# Pre-norm and sandwich only ever add: if what is added is independent, the square of the stream grows in proportion to
# the blocks. Sandwich adds something of size 1 each time. So the tenth block is a smaller part of its stream than the
# first: a deep pre-norm model is in part a wide one. Post-norm and DeepNorm begin anew at every sublayer, at 1.

# %%
assert np.allclose(stream["post", 16], 1, atol=1e-3) and np.allclose(stream["DeepNorm", 16], 1, atol=1e-3)
assert stream["pre", 16][-1] > 3 and np.allclose(stream["sandwich", 16][-1] ** 2, 33, rtol=0.4)
lines({name: stream[name, 16] for name in NAMES}, range(1, 17), "block", "stream, RMS")

# %% [markdown]
# ## Training, with a warm-up and without
#
# 40 steps of Adam at a rate that is high, 0.03; the warm-up is a straight line over the first 16. Who knows only how
# frequent letters are has a loss of ln 16 = 2.77; who knows the rule, of about 0.57.


# %%
RUNS = ((4, 0), (4, 16), (16, 0), (16, 16))  # depth and warm-up
curves = {}
for name in ("post", "pre", "DeepNorm"):
    losses, *_ = train(name, [depth for depth, _ in RUNS], 40, [warmup for _, warmup in RUNS])
    for run, column in zip(RUNS, losses.T, strict=True):
        curves[name, *run] = np.convolve(column, np.ones(8) / 8, "valid")  # the mean of eight steps
for (name, depth, warmup), losses in curves.items():
    print(f"{name:8} {depth:2} blocks, warm-up {warmup:2}: {losses[-1]:.2f}")


def picture(*shown):
    chosen = {key: losses for key, losses in curves.items() if key[:2] in shown}
    called = {key: f"{key[0]} {key[1]}, {'warm-up' if key[2] else 'none'}" for key in chosen}
    return lines({called[key]: losses for key, losses in chosen.items()}, range(8, 41), "step", "loss")


picture(("post", 4), ("pre", 4))

# %% [markdown]
# With 4 blocks post-norm needs the warm-up at this rate, and pre-norm does not care.

# %%
assert curves["post", 4, 0][-1] - curves["post", 4, 16][-1] > 0.4
assert abs(curves["pre", 4, 0][-1] - curves["pre", 4, 16][-1]) < 0.2
picture(("post", 16), ("pre", 16), ("DeepNorm", 16))

# %% [markdown]
# With 16 blocks a warm-up does not help post-norm either, at least within 40 steps: it says no more than how frequent
# letters are. Pre-norm trains, somewhat sooner with a warm-up here; so does DeepNorm, which is post-norm with two
# numbers. (`python -m train reproduce E1 E2 E3` asks the same with several seeds and rates, and intervals.)
#
# **Questions.** The gradient of post-norm at its first step is neither small nor large at 16 blocks: what else keeps
# it from learning? (Look at what the last block still says of the token it stands on.) What becomes of the picture of
# gradients with `norm="layer"`, and with `Residual(placement="rezero")`, whose blocks all begin at zero?
