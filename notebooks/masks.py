# %% [markdown]
# # Masks
#
# A mask says which keys a query may look at. Here it is a value that compares *coordinates*, never array offsets:
# one mask is right for training, for reading in pieces and for decoding. Masks compose with `&` and `|`.

# %%
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from _draw import grids

import fxformer as fx
from fxformer.ops import Blocks, Causal, Full, Prefix, Strided, Window, visible

jax.config.update("jax_disable_most_optimizations", True)  # small programs, that are quickly compiled

T = 12
plain = fx.plain(T)
with_prefix = replace(plain, prefix=plain.index < 5)
masks = {
    "Causal()": Causal(),
    "Full(): BERT": Full(),
    "Causal() | Prefix(): GLM": Causal() | Prefix(),
    "Window(4): Mistral": Window(4),
    "Strided(3) | Window(2)": Strided(3) | Window(2),
    "Blocks(4)": Blocks(4),
}
grids({name: visible(mask, with_prefix, with_prefix)[0] for name, mask in masks.items()})

# %% [markdown]
# **Question.** How many keys does query 11 see under each? What must a cache keep, for each of them? `reach` answers
# the second: the number of most recent tokens that a query can see, or no limit.

# %%
for name, mask in masks.items():
    seen = visible(mask, with_prefix, with_prefix)[0, -1]
    print(f"{name:26} query 11 sees {int(seen.sum()):2} keys, a cache keeps {mask.reach or 'all'}")

# %% [markdown]
# ## Padding and packing
#
# `visible` is the only place where masks are evaluated: it adds that nobody sees padding nor another document, so no
# mask can forget them. `fx.padded` takes which tokens are real, `fx.packed` the number of each token's document.

# %%
padded = fx.padded(np.array([[False] * 3 + [True] * 9]))
packed = fx.packed(np.array([[0] * 5 + [1] * 7]))
grids(
    {
        "Causal(), three of padding": visible(Causal(), padded, padded)[0],
        "Causal(), two documents": visible(Causal(), packed, packed)[0],
        "Full(), two documents": visible(Full(), packed, packed)[0],
    }
)

# %% [markdown]
# ## What reaches a token through depth
#
# A window of 3 hides all but three keys from each layer, yet two layers pass on what they saw: information travels 2
# · (3 - 1) tokens. The gradient of token t's output with respect to token s's input is exactly zero unless the mask
# lets s reach t in as many steps as there are layers.

# %%
norm = fx.layers.Norm(kind="rms")


def stack(mask, depth):
    block = fx.Block(
        attention=fx.layers.GQA(heads=2, kv_heads=2, key_width=4, mask=mask),
        ffn=fx.layers.MLP(inner=16, activation="relu"),
        residual=fx.layers.Residual(placement="pre", norm=norm),
    )
    return fx.Stack(groups=(fx.Repeat(depth, (block,)),), norm=norm)


x = jax.random.normal(jax.random.key(0), (1, T, 8))


def influence(mask, depth):
    spec = stack(mask, depth)
    params = fx.init_layer(spec, jax.random.key(1), x)
    jacobian = jax.jit(jax.jacrev(lambda x: fx.apply_layer(spec, params, x).hidden[0].sum(-1)))(x)
    return np.abs(jacobian[:, 0]).sum(-1)  # [output token, input token]


reached = {f"Window(3), {depth} layers": influence(Window(3), depth) for depth in (1, 2, 4)}
for depth, (_, table) in zip((1, 2, 4), reached.items(), strict=True):
    steps = np.linalg.matrix_power(np.asarray(visible(Window(3), plain, plain)[0], int), depth)
    assert ((table > 0) == (steps > 0)).all()
grids({name: table > 0 for name, table in reached.items()})

# %% [markdown]
# ## What a model makes of its mask
#
# `attention_maps` has the weights themselves, of every layer and head. Where the mask hides a key its weight is
# exactly 0, and each row sums to 1.

# %%
spec = fx.zoo.toy(width=16, depth=1, heads=2, inner=16, position="alibi", window=6)
tokens = jnp.asarray([list(b"what we mask")])
maps = fx.attention_maps(spec, fx.init(spec, jax.random.key(2)), tokens)["attention"]
assert np.allclose(maps.sum(-1), 1) and not np.any(np.where(visible(Window(6), plain, plain), 0, maps))
grids({f"head {head}, Window(6) and ALiBi": maps[0, 0, head] for head in range(2)})
