"""Tokens per second of a training step beside its peers, and of populations under each plan.

    python benchmarks/training.py [--sizes nano mid baby] [--repeats 5] [--replicas 32]

Contestants take turns in one process, each call ends in block_until_ready, the median counts. Times on a shared machine
mean little, ratios more. A peer that is not installed is left out, and said to be.
"""

import argparse
import importlib.util
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from turns import Step, cores, in_turns, machine, rows, say

from train.config import Config
from train.step import Numbers, numbers_of, recipe_of, start, train_step
from train.sweep.population import PLANS, fill, in_chunks, once

RESULTS = Path(__file__).parent / "results" / "training.json"
STEPS = 10  # of a population in one dispatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A model and a batch: bytes, AdamW, clip 1, float32, LayerNorm before each sublayer, learned positions."""

    depth: int
    width: int
    heads: int
    length: int
    batch: int

    @property
    def tokens(self) -> int:
        return self.length * self.batch

    def config(self, **numbers: Any) -> Config:
        model = {"depth": self.depth, "width": self.width, "heads": self.heads, "norm": "layer", "position": "learned"}
        return Config(name="benchmark", model=model).with_settings(
            {"length": self.length, "batch": self.batch, "schedule": "constant", "warmup": 0, "lr": 1e-3, **numbers}
        )

    def text(self, *lead: int) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (*lead, self.batch, self.length + 1), np.uint8)


SIZES = {
    "nano": Size(depth=4, width=128, heads=4, length=64, batch=12),
    "mid": Size(depth=4, width=256, heads=4, length=128, batch=32),
    "baby": Size(depth=6, width=384, heads=6, length=256, batch=16),
}
POPULATIONS = {
    "width 32": Size(depth=4, width=32, heads=4, length=32, batch=8),
    "width 64": Size(depth=4, width=64, heads=4, length=64, batch=8),
}


def ours(size: Size) -> Step:
    """One update by train.step, the state donated."""
    recipe, numbers = recipe_of(size.config()), numbers_of(size.config())
    advance = jax.jit(partial(train_step, recipe), donate_argnums=1)
    state, tokens = jax.jit(partial(start, recipe))(numbers), jnp.asarray(size.text())

    def step() -> None:
        nonlocal state
        state, metrics = advance(numbers, state, tokens)
        jax.block_until_ready((state, metrics))

    return step


class PlainBlock(nn.Module):
    """A block as one writes it first: flax's own layers on [batch, tokens, width]."""

    heads: int

    @nn.compact
    def __call__(self, x_BTD: jax.Array, seen_BHTS: jax.Array) -> jax.Array:
        x_BTD += nn.MultiHeadDotProductAttention(self.heads, name="attention")(nn.LayerNorm()(x_BTD), mask=seen_BHTS)
        h_BTF = nn.gelu(nn.Dense(4 * x_BTD.shape[-1], name="up")(nn.LayerNorm()(x_BTD)))
        return x_BTD + nn.Dense(x_BTD.shape[-1], name="down")(h_BTF)


class PlainModel(nn.Module):
    """The same model from flax's own layers."""

    size: Size

    @nn.compact
    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        embed = nn.Embed(256, self.size.width, name="embed")
        x_BTD = embed(tokens_BT) + nn.Embed(self.size.length, self.size.width, name="position")(
            jnp.arange(self.size.length)
        )
        for layer in range(self.size.depth):
            x_BTD = PlainBlock(self.size.heads, name=f"block_{layer}")(x_BTD, nn.make_causal_mask(tokens_BT))
        return embed.attend(nn.LayerNorm(name="last")(x_BTD))


def plain_flax(size: Size) -> Step:
    """Flax Linen without any of fxformer: what a straightforward model costs."""
    model, optimizer = PlainModel(size), optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, 0.9, 0.95))
    tokens = jnp.asarray(size.text(), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(0), tokens[:, :-1])
    moments = optimizer.init(params)

    @partial(jax.jit, donate_argnums=(0, 1))
    def advance(params: Any, moments: Any) -> tuple[Any, Any]:
        def loss(params: Any) -> jax.Array:
            logits = model.apply(params, tokens[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

        updates, moments = optimizer.update(jax.grad(loss)(params), moments, params)
        return optax.apply_updates(params, updates), moments

    def step() -> None:
        nonlocal params, moments
        params, moments = advance(params, moments)
        jax.block_until_ready(params)

    return step


def torch_gpt2(size: Size) -> Step:
    """Hugging Face's GPT-2 of the same size, eager."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    off = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    sizes = {"n_layer": size.depth, "n_embd": size.width, "n_head": size.heads, "n_positions": size.length}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=256, bos_token_id=0, eos_token_id=0, **sizes, **off))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    text = torch.from_numpy(size.text().astype(np.int64))

    def step() -> None:
        logits = model(text[:, :-1]).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


CONTESTANTS: dict[str, tuple[Callable[[Size], Step], tuple[str, ...]]] = {  # and the packages that each takes
    "fxformer": (ours, ()),
    "plain Flax": (plain_flax, ()),
    "transformers GPT-2 (torch)": (torch_gpt2, ("torch", "transformers")),
}


def populations(size: Size, replicas: int) -> dict[str, Step]:
    """One after another: each replica a program of its own state. Then all of them under each plan."""
    configs = fill([size.config(seed=seed, lr=1e-3 * (1 + seed % 5)) for seed in range(replicas)])
    recipe = recipe_of(configs[0])
    numbers: Numbers = jax.tree.map(lambda *values: np.stack(values), *(numbers_of(config) for config in configs))
    tokens = size.text(len(configs), STEPS)
    replica = in_chunks(partial(train_step, recipe))
    begin = once(partial(start, recipe))(numbers)
    alone = jax.jit(replica, donate_argnums=1)
    each = [jax.tree.map(lambda leaf: leaf[k], (numbers, begin, tokens)) for k in range(len(configs))]  # noqa: B023

    def one_after_another() -> None:
        for k, (its_numbers, state, its_tokens) in enumerate(each):
            state, _ = jax.block_until_ready(alone(its_numbers, state, its_tokens))
            each[k] = (its_numbers, state, its_tokens)

    def under(name: str) -> Step:
        program, alive = PLANS[name](replica), np.ones(len(configs), bool)
        return lambda: jax.block_until_ready(program(alive, numbers, begin, tokens))

    plans = [name for name in PLANS if name != "shard" or len(jax.devices()) > 1]
    return {"one after another": one_after_another, **{name: under(name) for name in plans}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=["nano", "mid"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--replicas", type=int, default=32)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", cores())
    before = machine()
    print(before, flush=True)
    told: list[dict[str, Any]] = []
    absent = [name for name, (_, takes) in CONTESTANTS.items() if not all(map(importlib.util.find_spec, takes))]
    for name in options.sizes:
        steps = {who: make(SIZES[name]) for who, (make, _) in CONTESTANTS.items() if who not in absent}
        told += rows(name, in_turns(steps, options.repeats), SIZES[name].tokens)
        say(told[-len(steps) :])
    for name, size in POPULATIONS.items():
        steps = populations(size, options.replicas)
        tokens = size.tokens * STEPS * len(fill(range(options.replicas)))
        told += rows(f"{options.replicas} of {name}", in_turns(steps, options.repeats), tokens)
        say(told[-len(steps) :])
    for name in absent:
        print(f"{name}: not installed")
    sizes = {name: asdict(size) for name, size in {**SIZES, **POPULATIONS}.items()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    settings = {"repeats": options.repeats, "steps_a_dispatch": STEPS, "sizes": sizes, "absent": absent}
    options.out.write_text(json.dumps({"machine": before, "settings": settings, "rows": told}, indent=1) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
