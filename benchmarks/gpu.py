"""What share of an accelerator training and decoding use: FLOPs by its peak, bytes by its bandwidth.

    python benchmarks/gpu.py [--repeats 5] [--only training decoding populations] [--tiny]

The two ceilings are measured first: a product of bfloat16 matrices, and a copy. `--tiny` tries the script on any
machine. The model has the shape of LLaMA, 1B parameters, random, bfloat16 activations.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from training import POPULATIONS, STEPS, populations
from turns import Step, in_turns, machine, rows, say

import fxformer as fx
from fxformer.accounting import count, flops
from fxformer.ops import cross_entropy
from fxformer.zoo.llama import llama

RESULTS = Path(__file__).parent / "results" / "gpu.json"
LARGE = {"depth": 16, "width": 2048, "heads": 16, "kv_heads": 16, "inner": 5632}
TINY = {"depth": 2, "width": 64, "heads": 4, "kv_heads": 4, "inner": 96, "vocab": 256}
PROMPT, NEW = 32, (16, 144)  # a decoding step is the difference of two texts by their lengths
WAYS: dict[str, dict[str, Any]] = {  # how a training step is computed
    "default": {"unroll": 16},
    "default, a loop": {"unroll": 1},
    "default, remat": {"unroll": 1, "remat": True},
    "blockwise, remat": {"unroll": 1, "remat": True, "kernel": "blockwise"},
    "naive, remat": {"unroll": 1, "remat": True, "kernel": "naive"},
}


def ceilings(tiny: bool, repeats: int) -> dict[str, float]:
    """FLOPs a second of a matrix product, and bytes a second of a copy, read and written."""
    n = 512 if tiny else 8192
    square = jax.random.normal(jax.random.key(0), (n, n), jnp.bfloat16)
    product = jax.jit(lambda x: [x := x @ square for _ in range(8)][-1])
    long = jnp.zeros(n * n * (1 if tiny else 16), jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    steps = {name: partial(_done, program, x) for name, program, x in (("p", product, square), ("c", copy, long))}
    seconds = in_turns(steps, repeats)
    return {"flops": 8 * 2 * n**3 / seconds["p"], "bytes": 2 * long.nbytes / seconds["c"]}


def _done(program: Callable[..., Any], *arguments: Any) -> None:
    jax.block_until_ready(program(*arguments))


def training_step(spec: fx.Transformer, batch: int, length: int, way: dict[str, Any]) -> Step:
    """One update by AdamW of float32 parameters, the state donated."""
    tokens = np.random.default_rng(0).integers(0, spec.embed.vocab, (batch, length + 1)).astype(np.int32)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4, 0.9, 0.95))
    params = fx.init(spec, jax.random.key(0))
    moments = jax.jit(optimizer.init)(params)

    @partial(jax.jit, donate_argnums=(0, 1))
    def advance(params: Any, moments: Any, tokens: jax.Array) -> tuple[Any, Any, jax.Array]:
        def loss_of(params: Any) -> jax.Array:
            out = fx.apply(spec, params, tokens[:, :-1], dtype=jnp.bfloat16, **way)
            return jnp.mean(cross_entropy(out.logits, tokens[:, 1:]))

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, moments = optimizer.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, loss

    def step() -> None:
        nonlocal params, moments
        params, moments, loss = jax.block_until_ready(advance(params, moments, tokens))
        assert np.isfinite(loss)

    return step


def training(tiny: bool, repeats: int, found: dict[str, float]) -> list[dict[str, Any]]:
    """Each way alone, so that one state at a time is in memory; `flops` counts the keys that causal attention sees."""
    batch, length = (2, 64) if tiny else (8, 2048)
    spec = llama(**(TINY if tiny else LARGE))
    told: list[dict[str, Any]] = []
    for name, way in WAYS.items():
        what = f"{count(spec) / 1e9:.2f}B, {batch} x {length}"
        try:
            (row,) = rows(what, in_turns({name: training_step(spec, batch, length, way)}, repeats), batch * length)
        except jax.errors.JaxRuntimeError as error:
            print(f"{what} {name}: {str(error).splitlines()[0][:90]}", flush=True)
            continue
        row["flops"] = 3 * flops(spec, length, causal=True) * row["tokens_per_second"]
        row["of_product"] = row["flops"] / found["flops"]
        told.append(row)
        say(told[-1:])
        print(f"{'':16}{row['flops'] / 1e12:.0f} TFLOP/s, {row['of_product']:.0%} of a product's", flush=True)
    return told


def decoding(tiny: bool, repeats: int, found: dict[str, float]) -> list[dict[str, Any]]:
    """Greedy steps of bfloat16 weights; the bytes: weights, and the keys and values that are seen."""
    spec = llama(**(TINY if tiny else LARGE))
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), fx.init(spec, jax.random.key(0)))
    told: list[dict[str, Any]] = []
    for batch in (1, 64):
        prompt = np.random.default_rng(0).integers(0, spec.embed.vocab, (batch, PROMPT)).astype(np.int32)
        write = partial(fx.generate, spec, params, prompt, dtype=jnp.bfloat16)
        few, many = in_turns({f"{new}": partial(_done, write, new) for new in NEW}, repeats).values()
        seconds = (many - few) / (NEW[1] - NEW[0])
        seen = PROMPT + sum(NEW) / 2
        weights = 2 * (count(spec) - spec.embed.vocab * spec.embed.width)
        moved = weights + batch * seen * fx.accounting.cache_bytes(spec)
        (row,) = rows(f"decode, batch {batch}", {"fxformer": seconds}, batch)
        row |= {"bytes": moved, "of_copy": moved / seconds / found["bytes"]}
        told.append(row)
        say(told[-1:])
        print(f"{'':16}{moved / seconds / 1e12:.2f} TB/s, {row['of_copy']:.0%} of a copy's", flush=True)
    return told


def many(tiny: bool, repeats: int, _: dict[str, float]) -> list[dict[str, Any]]:
    """32 tiny models, one after another and in one program."""
    told: list[dict[str, Any]] = []
    for name, size in POPULATIONS.items():
        replicas = 4 if tiny else 32
        steps = populations(size, replicas)
        told += rows(f"{replicas} of {name}", in_turns(steps, repeats), size.tokens * STEPS * replicas)
        say(told[-len(steps) :])
    return told


PARTS = {"training": training, "decoding": decoding, "populations": many}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    before = machine()
    print(before, flush=True)
    found = ceilings(options.tiny, options.repeats)
    print(f"a product: {found['flops'] / 1e12:.0f} TFLOP/s; a copy: {found['bytes'] / 1e12:.2f} TB/s", flush=True)
    told: list[dict[str, Any]] = []
    for part in options.only:
        told += PARTS[part](options.tiny, options.repeats, found)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        settings = {"repeats": options.repeats, "model": LARGE, "prompt": PROMPT, "new": NEW}
        options.out.write_text(
            json.dumps({"machine": before, "ceilings": found, "settings": settings, "rows": told}, indent=1) + "\n"
        )
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
