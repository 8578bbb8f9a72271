# %% [markdown]
# # Experts, and who is sent to them
#
# A mixture of experts has many feed-forward layers, of which each token passes a few. A router scores them, the best
# are chosen, what they say is weighted and added. Three things differ between papers: how scores become weights, what
# becomes of a token whose expert is full, and what keeps the experts evenly busy.

# %%
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _draw import bars, grids, lines

import fxformer as fx
from fxformer.accounting import FFN_WEIGHTS
from fxformer.layers import GLU, MoE
from fxformer.ops import Capacity, Dropless, Sigmoid, Switch, TopK, dispatch, route

jax.config.update("jax_disable_most_optimizations", True)  # small programs, that are quickly compiled

E, T = 8, 20
taste = np.linspace(1.5, -1.5, E)  # this router likes the first experts
logits = np.float32(taste + np.random.default_rng(0).normal(size=(1, T, E)))

# %% [markdown]
# ## The same scores, four routers
#
# Rows are tokens, columns experts, and the colour is the weight. Switch and TopK take a softmax over all experts:
# what the token loses to those not chosen is missing from its weights, unless they are renormalised. Sigmoid
# (DeepSeek-V3) scores each expert by itself and renormalises.

# %%
routers = {
    "Switch()": Switch(),
    "TopK(k=2)": TopK(k=2),
    "TopK(k=2, renormalise=True)": TopK(k=2, renormalise=True),
    "Sigmoid(k=2)": Sigmoid(k=2),
}


def weights(routing):
    """[token, expert], 0 where a token was not sent."""
    return np.einsum("tm,tme->te", routing.weight_BTM[0], np.eye(E + 1)[routing.expert_BTM[0]][..., :E])


routed = {name: jax.jit(route, static_argnums=0)(router, logits) for name, router in routers.items()}
for name, routing in routed.items():
    sums = weights(routing).sum(-1)
    print(f"{name:28} weights of a token sum to {sums.min():.2f} … {sums.max():.2f}")
assert np.allclose(weights(routed["Sigmoid(k=2)"]).sum(-1), 1, atol=1e-5)
grids({name: weights(routing) for name, routing in routed.items()}, columns=4, x="expert", y="token")

# %% [markdown]
# ## Capacity
#
# Arrays have one size, so GShard and Switch give every expert room for floor(factor · tokens · k / E) choices. What
# comes later is dropped: the layer adds nothing for it, and the token goes on by its residual alone. Orange is
# dropped. `Dropless` sorts choices by expert instead and computes all of them.

# %%
x = jnp.asarray(np.random.default_rng(1).normal(size=(1, T, 4)), jnp.float32)
choice = routed["TopK(k=2)"]


def same(x_XCD, own):
    """Experts that say what they read, so that only routing is seen."""
    return x_XCD


def sent(way):
    y, kept = jax.jit(lambda x: dispatch(way, x, choice, same))(x)
    table = np.zeros((T, E))
    np.put_along_axis(table, np.asarray(choice.expert_BTM[0]), np.where(kept[0], 1.0, -1.0), axis=1)
    return np.asarray(y[0]), table  # what is said [token, channel]; 1 where a choice was taken, -1 where dropped


ways = {"factor 1": Capacity(factor=1.0), "factor 1.5": Capacity(factor=1.5), "Dropless()": Dropless()}
seen = {name: sent(way) for name, way in ways.items()}
grids({name: table for name, (_, table) in seen.items()}, x="expert", y="token")

# %%
said, table = seen["factor 1"]
lost = ~(table > 0).any(-1)
assert lost.any() and np.all(said[lost] == 0) and (seen["Dropless()"][1] >= 0).all()
wanted = np.abs(table).sum(0)  # choices that fell on each expert
print(f"at factor 1 {lost.sum()} of {T} tokens reach no expert at all")
print(f"nothing is dropped from a factor of {wanted.max() / wanted.mean():g} on")
factors = np.arange(0.5, 4.01, 0.25)
dropped = [np.maximum(wanted - np.floor(factor * T * 2 / E), 0).sum() / wanted.sum() for factor in factors]
assert np.isclose(dropped[2], np.mean(table[table != 0] < 0))
lines({"this router": dropped}, factors, "capacity factor", "dropped")

# %% [markdown]
# An even router drops nothing from factor 1 on. With this one, room that suffices for the busiest expert is mostly
# empty at the others, and it is computed all the same. Hence the wish for balance.
#
# ## Three ways to balance
#
# *Not at all.* *By a loss*, E Σ f_i P_i, with f_i the share of the choices that fell on expert i and P_i its mean
# score: 1 when even, up to E when one expert has everything. *By a bias* on the scores that choose, never on the
# weights; after each step it goes up for experts that had less than the mean, down for the others, by a fixed amount
# (Wang et al. 2024; DeepSeek-V3). It has no gradient, so it does not pull against what is learned.
#
# A task for experts: tokens belong to one of 8 kinds, some of them frequent, and each kind has a matrix of its own that
# is to be learned.

# %%
D, rows = 12, 256
draw = np.random.default_rng(2)
centres, maps = 1.5 * draw.normal(size=(E, D)), draw.normal(size=(E, D, D)) / np.sqrt(D)
often = 0.6 ** np.arange(E) / np.sum(0.6 ** np.arange(E))


def batch(seed):
    draw = np.random.default_rng(seed)
    kind = draw.choice(E, rows, p=often)
    x = centres[kind] + draw.normal(size=(rows, D))
    return np.float32(x)[None], np.float32(np.einsum("td,tde->te", x, maps[kind]))[None]


moe = MoE(experts=E, expert=GLU(inner=16, activation="silu"), router=Sigmoid(k=2), selection_bias=True)
fresh = fx.init_layer(moe, jax.random.key(0), batch(0)[0])
adam = optax.adam(1e-2)


@jax.jit
def step(params, state, x, y, loss_weight, bias_rate):
    def loss_of(params):
        out = fx.apply_layer(moe, params, x)
        error = jnp.mean((out.hidden - y) ** 2)
        return error + loss_weight * out.losses["balance"], (error, out.stats["load"].reshape(E))

    gradients, (error, load) = jax.grad(loss_of, has_aux=True)(params)
    updates, state = adam.update(gradients, state)
    bias = fx.ops.balance(params["selection_bias"], load, bias_rate)
    return {**optax.apply_updates(params, updates), "selection_bias": bias}, state, error, load


def train(loss_weight, bias_rate, updates=120):
    params, state, seen = fresh, adam.init(fresh), []
    for i in range(updates):
        params, state, error, load = step(params, state, *batch(i), loss_weight, bias_rate)
        seen.append((float(error), np.asarray(load)))
    return params, np.asarray([error for error, _ in seen]), np.stack([load for _, load in seen])


trained = {"nothing": train(0.0, 0.0), "loss, 0.3": train(0.3, 0.0), "bias, 0.02": train(0.0, 0.02)}
mean = np.ones(10) / 10
busiest = {name: np.convolve(E * load.max(-1), mean, "valid") for name, (_, _, load) in trained.items()}
lines(busiest, range(10, 121), "step", "busiest")

# %% [markdown]
# That was the busiest expert's load as a multiple of an even share. The bias evens it out; the loss does so as far as
# its weight makes it. Below, the error of the first and of the last ten steps, and how often each expert was chosen in
# the last forty.

# %%
for name, (_, error, _) in trained.items():
    print(f"{name:11} error {error[:10].mean():.2f}, then {error[-10:].mean():.2f}; busiest {busiest[name][-1]:.2f}")
assert busiest["bias, 0.02"][-1] < busiest["loss, 0.3"][-1] < busiest["nothing"][-1]
print("bias", np.round(trained["bias, 0.02"][0]["selection_bias"], 2))
grids({name: load[-40:] for name, (_, _, load) in trained.items()}, cell=8, x="expert", y="step")

# %% [markdown]
# ## A shared expert
#
# DeepSeek gives every token one more layer, that no router chooses, for what all tokens need. It is a plain sum: the
# mixture with a shared expert is the mixture without, and a feed-forward layer.

# %%
shared = replace(moe, shared=GLU(inner=16, activation="silu"))
tokens = batch(7)[0]
params = fx.init_layer(shared, jax.random.key(1), tokens)


@jax.jit
def three(params, tokens):
    """What the mixture with a shared expert says, the one without, and the shared expert by itself."""
    without = {name: leaf for name, leaf in params.items() if name != "shared"}
    layers = (shared, params), (moe, without), (shared.shared, params["shared"])
    return [fx.apply_layer(spec, params, tokens).hidden for spec, params in layers]


both, alone, layer = three(params, tokens)
print("largest deviation", float(jnp.abs(both - alone - layer).max()))
assert np.allclose(both, alone + layer, atol=1e-5)

# %% [markdown]
# ## Total and active parameters
#
# Memory holds every expert, a token meets k of them, and what is shared. Published models, from their specs,
# embedding and head included:

# %%
names = ("mixtral-8x7b", "mixtral-8x22b", "deepseek-v2-lite", "deepseek-v2", "deepseek-v3")


def idle(block, width):
    """Parameters of the experts that a token does not meet."""
    ffn = block.ffn
    return (ffn.experts - ffn.router.k) * FFN_WEIGHTS[type(ffn.expert)](ffn.expert, width)


sizes = {}
for name in names:
    spec = fx.zoo.get(name)
    total = fx.count(spec)
    unused = sum(idle(block, spec.embed.width) for block in spec.stack.blocks if type(block.ffn) is MoE)
    sizes[name] = (total, total - unused)
    print(f"{name:17} {total / 1e9:6.1f} billion, of which a token meets {sizes[name][1] / 1e9:5.1f}")
bars({name: 100 * active / total for name, (total, active) in sizes.items()}, "% active")

# %% [markdown]
# **Questions.** A decoding step has one token for each row: what does a capacity of factor 1.25 do to it, and why has
# `Capacity` a field `least`? The bias of DeepSeek-V3 moves by a fixed amount: what becomes of it where the load is
# already even? (See `selection_bias` above, and `fx.ops.balance`.)
