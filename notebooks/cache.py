# %% [markdown]
# # One attention, eight ways to save the cache
#
# To write one token a model looks at all before it: their keys and values are kept, and read again at every step.
# What is kept of a token bounds how long a text fits, and how fast it is written. Eight ways to keep less, of one
# model.

# %%
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from _draw import bars, grids

import fxformer as fx
from fxformer.accounting import cache_bytes
from fxformer.layers import GQA, MLA, Indexer

jax.config.update("jax_disable_most_optimizations", True)  # small programs, that are quickly compiled

heads, width, depth, length = 16, 1024, 12, 4096
whole = fx.zoo.toy(width=width, depth=depth, heads=heads)


def with_attention(attention):
    (group,) = whole.stack.groups
    block = replace(group.blocks[0], attention=attention)
    return replace(whole, stack=replace(whole.stack, groups=(replace(group, blocks=(block,)),)))


ours = whole.stack.blocks[0].attention
latent = MLA(heads=heads, nope_width=64, value_width=64, latent=256, query_latent=256, rotary=fx.ops.Rotary(width=32))
index = Indexer(heads=4, width=32, keep=512, rotary=fx.ops.Rotary(width=32))
ways = {
    "MHA: all of it": (ours, jnp.bfloat16),
    "GQA: 4 key heads": (replace(ours, kv_heads=4), jnp.bfloat16),
    "MQA: 1 key head": (replace(ours, kv_heads=1), jnp.bfloat16),
    "MLA: a latent": (latent, jnp.bfloat16),
    "MLA and an indexer": (replace(latent, index=index), jnp.bfloat16),
    "window of 1024": (replace(ours, mask=fx.ops.Window(1024)), jnp.bfloat16),
    "blocks of 1024": (replace(ours, mask=fx.ops.Blocks(1024)), jnp.bfloat16),
    "8 bits": (ours, jnp.int8),
    "GQA and a window": (replace(ours, kv_heads=4, mask=fx.ops.Window(1024)), jnp.bfloat16),
}
held = {name: cache_bytes(with_attention(way), length, dtype=dtype) / 2**20 for name, (way, dtype) in ways.items()}
bars(held, "MiB for 4096 tokens")

# %% [markdown]
# The first is what the eight others save. (8 bits keep a float32 scale for each vector besides, which the bar leaves
# out: 4 bytes for 64 numbers.) An indexer saves nothing of what is *kept*; it saves what is *read*: 512 keys of
# 4096.
#
# ## They say the same as a pass over everything
#
# Reading a text at once, or its first half and then token by token, gives the same logits, whatever is kept.
# `spec.records` says what that is.

# %%
small = {
    "GQA": GQA(heads=4, kv_heads=2, key_width=8, rotary=fx.ops.Rotary(width=8)),
    "window of 4": GQA(heads=4, kv_heads=4, key_width=8, mask=fx.ops.Window(4)),
    "MLA": MLA(heads=4, nope_width=8, value_width=8, latent=12, rotary=fx.ops.Rotary(width=4)),
}
x = jax.random.normal(jax.random.key(0), (1, 10, 32))
for name, spec in small.items():
    params = fx.init_layer(spec, jax.random.key(1), x)
    table = fx.cache.empty_table(spec.records, batch=1, length=10, reach=spec.mask.reach, dtype=jnp.float32)
    said = fx.apply_layer(spec, params, x[:, :6], coords=fx.plain(6), table=table)
    pieces = [said.hidden]
    for place in range(6, 10):
        said = fx.apply_layer(spec, params, x[:, place : place + 1], coords=fx.plain(1, start=place), table=said.table)
        pieces.append(said.hidden)
    whole_pass = fx.apply_layer(spec, params, x).hidden
    deviation = float(jnp.abs(jnp.concatenate(pieces, axis=1) - whole_pass).max())
    kept = ", ".join(f"{record} {tuple(sizes.values())}" for record, sizes in spec.records.items())
    print(f"{name:12} keeps {kept} of a token, {table.capacity} tokens; largest deviation {deviation:.1e}")
    assert deviation < 1e-5

# %% [markdown]
# ## A window is a ring
#
# Token t goes to slot t mod 4. The picture has the slots across and time down: the number of the token that each
# slot holds, darker for later ones. What is overwritten, no query would see again.

# %%
spec = small["window of 4"]
params = fx.init_layer(spec, jax.random.key(1), x)
table, slots = fx.cache.empty_table(spec.records, batch=1, length=10, reach=4, dtype=jnp.float32), []
for place in range(10):
    table = fx.apply_layer(spec, params, x[:, :1], coords=fx.plain(1, start=place), table=table).table
    slots.append(np.asarray(table.coords.index[0]) + 1)
assert (np.asarray(slots[-1]) - 1).tolist() == [8, 9, 6, 7]
grids({"tokens in 4 slots": np.stack(slots)}, cell=16, x="slot", y="time")

# %% [markdown]
# ## 8 bits
#
# Each vector keeps 256 levels and one scale. The logits of a model move by little:

# %%
model = fx.zoo.toy(width=32, depth=2, heads=4, inner=32)
params = fx.init(model, jax.random.key(2))
tokens = np.asarray(jax.random.randint(jax.random.key(3), (1, 12), 0, 256))
said = [
    fx.apply(model, params, tokens, cache=fx.empty_cache(model, 1, 12, dtype=dtype)).logits
    for dtype in (jnp.float32, jnp.int8)
]
size, moved = jnp.abs(said[0]).mean(), jnp.abs(said[0] - said[1]).mean()
print(f"logits of size {float(size):.3f} move by {float(moved):.4f} on average")

# %% [markdown]
# **Question.** MLA keeps fewer numbers than MQA with two heads, yet each of its heads has keys of its own. Where do
# these come from, and what does a decoding step pay for it? (`python -m fxformer describe deepseek-v2-lite` has the
# formula; see `absorbed` in `fxformer/layers/attention/mla.py`.)
