# %% [markdown]
# # Positions
#
# Attention by itself compares sets: without a mask and without positions, shuffled tokens give shuffled answers.
# "Position encoding" acts in three places: on the embedding (sinusoids, learned), on queries and keys (rotary), on
# logits (buckets, ALiBi).

# %%
import jax
import jax.numpy as jnp
import numpy as np
from _draw import grids, lines

import fxformer as fx

jax.config.update("jax_disable_most_optimizations", True)  # small programs, that are quickly compiled

attention = fx.layers.GQA(heads=2, kv_heads=2, key_width=8, mask=fx.ops.Full())
x = jax.random.normal(jax.random.key(0), (1, 10, 16))
params = fx.init_layer(attention, jax.random.key(1), x)
order = jax.random.permutation(jax.random.key(2), 10)
straight = fx.apply_layer(attention, params, x).hidden
shuffled = fx.apply_layer(attention, params, x[:, order]).hidden
print("shuffled in, shuffled out:", bool(jnp.allclose(straight[:, order], shuffled, atol=1e-5)))

# %% [markdown]
# ## Sinusoids, added to the embedding
#
# Channel pairs turn at frequencies 10000^(-2i/D): each position has its own pattern (Vaswani et al. 2017, section
# 3.5). The product of two patterns depends on their distance alone, and falls with it.

# %%
pattern = np.asarray(fx.ops.sinusoids(jnp.arange(48), 32))
grids({"position down, channel across": pattern}, cell=7, x="channel", y="position")

# %%
distance = np.arange(40)
product = {f"from position {start}": pattern[start : start + 1] @ pattern.T for start in (0, 5)}
lines(
    {name: row[0, start : start + 40] for start, (name, row) in zip((0, 5), product.items(), strict=True)},
    distance,
    "distance",
    "product",
)

# %% [markdown]
# ## Learned positions
#
# A table of vectors, one for each place. Beyond its end there is none, and the library says so:

# %%
learned = fx.zoo.toy(width=16, depth=1, heads=2, position="learned", length=8)
try:
    fx.apply(learned, fx.init(learned, jax.random.key(0)), np.zeros((1, 9), int))
except ValueError as refused:
    print(refused)

# %% [markdown]
# ## Rotary: queries and keys turn
#
# Each pair of channels of query and key is turned by an angle proportional to its position (Su et al. 2021). Turning
# both by the same angle changes no product, so logits depend on the *difference* of positions only. Below: one query
# and one key, moved together over the sequence; the logit stays. Then the query alone moves away.

# %%
rotary = fx.ops.Rotary(width=32)
q, k = jax.random.normal(jax.random.key(3), (2, 32))


def logit(q_place, k_place):
    def turned(vector, place):
        return fx.ops.rotate(vector[None, None, None], jnp.full((1, 1, 1), place), rotary)[0, 0, 0]

    return turned(q, q_place) @ turned(k, k_place)


logits = jax.vmap(logit)
together = logits(jnp.arange(5, 45), jnp.arange(40))
apart = logits(jnp.arange(40), jnp.zeros(40, int))
print("largest change when both move:", float(jnp.ptp(together)))
lines({"both move, 5 apart": together, "the query moves away": apart}, distance, "position", "logit")

# %% [markdown]
# ## Buckets and ALiBi: a number on each logit
#
# T5 learns one number for each bucket of distances: small distances have a bucket each, larger ones share,
# logarithmically (Raffel et al. 2020). ALiBi learns nothing: each head subtracts its slope times the distance (Press
# et al. 2022).

# %%
far = np.arange(160)
bucket = fx.ops.t5_buckets(jnp.asarray(-far), count=32, max_distance=128, bidirectional=False)
lines({"32 buckets": bucket}, far, "distance", "bucket")

# %%
slopes = fx.ops.alibi_slopes(4)
lines({f"slope {slope:g}": -slope * distance for slope in slopes}, distance, "distance", "bias")

# %% [markdown]
# ## What each makes of the same question
#
# The same model with each, at its first parameters: the mean weight that a query gives to each distance back. ALiBi
# is the only one that prefers the near before anything is learned.

# %%
tokens = np.asarray(jax.random.randint(jax.random.key(4), (8, 24), 0, 256))


def weight_by_distance(position):
    spec = fx.zoo.toy(width=32, depth=1, heads=4, inner=8, position=position, length=24)
    maps = fx.attention_maps(spec, fx.init(spec, jax.random.key(5)), tokens)["attention"]
    return np.asarray(maps[0, :, :, -1].mean((0, 1)))[::-1]  # of the last query, nearest first


curves = {name: weight_by_distance(name) for name in ("none", "rotary", "t5", "alibi")}
assert curves["alibi"][0] > 2 * curves["alibi"][-1]
lines(curves, np.arange(24), "distance back", "weight")

# %% [markdown]
# **Questions.** Which of them can read a text longer than any it was trained on? Why does `none` with a causal mask
# still know something of order? (Each token sees another number of keys: try `fx.ops.Full()` above.)
