"""Tokens per second of cached decoding beside Hugging Face, the wait for a first token, and what room in a cache costs.

    python benchmarks/decode.py [--repeats 5] [--only 10.8M 85M]

Contestants take turns in one process on the same weights, each call ends when the text is there, the median counts.
Times on a shared machine mean little, ratios more. Without torch and transformers only our own times are taken.
"""

import argparse
import importlib.util
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from turns import Step, cores, in_turns, machine, rows, say

import fxformer as fx
from fxformer.decode import prefill, step, unstacked
from fxformer.ops.mask import Window
from fxformer.zoo.llama import llama

RESULTS = Path(__file__).parent / "results" / "decode.json"
PROMPT, NEW = 32, 200
LONG = 512  # tokens of the prompt whose first token is waited for
CAPACITIES = (256, 512, 1024, 4096)
SMALL = {"depth": 6, "width": 384, "heads": 6, "kv_heads": 6, "inner": 1024, "vocab": 256}
LARGE = {"depth": 12, "width": 768, "heads": 12, "kv_heads": 12, "inner": 2048, "vocab": 256}
SHAPES: dict[str, dict[str, Any]] = {
    "10.8M": SMALL,
    "85M": LARGE,
    "10.8M GQA-2": {**SMALL, "kv_heads": 2},
    "10.8M window": {**SMALL, "mask": Window(64)},
}
BATCHES = {"10.8M": (1, 8), "85M": (1, 8), "10.8M GQA-2": (8,), "10.8M window": (8,)}
PEERS = ("torch", "transformers")


def shape(name: str) -> tuple[fx.Transformer, fx.model.Params]:
    """A LLaMA of float32 weights, random, the same for all contestants."""
    spec = llama(**SHAPES[name])
    return spec, fx.init(spec, jax.random.key(0))


def prompt_of(batch: int, length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, length)).astype(np.int32)


def ours(spec: fx.Transformer, params: fx.model.Params, prompt: np.ndarray, new: int) -> Step:
    """One compiled loop, greedy."""
    return lambda: jax.block_until_ready(fx.generate(spec, params, prompt, new))


def theirs(spec: fx.Transformer, params: fx.model.Params, prompt: np.ndarray, new: int) -> dict[str, Step]:
    """`generate` of transformers on the weights that `fx.hf.save` wrote, greedy, with each kind of cache."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(cores())
    with tempfile.TemporaryDirectory() as folder:
        fx.hf.save(spec, params, f"{folder}/model")
        model = AutoModelForCausalLM.from_pretrained(f"{folder}/model", dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    ids = torch.from_numpy(prompt.astype(np.int64))

    def generate(cache: str) -> None:
        with torch.no_grad():
            asked = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 0, "cache_implementation": cache}
            text = model.generate(ids, attention_mask=torch.ones_like(ids), **asked)
        assert text.shape[1] == prompt.shape[1] + new

    return {f"transformers, {kind} cache": partial(generate, kind) for kind in ("dynamic", "static")}


def contest(what: str, name: str, batch: int, length: int, new: int, repeats: int, peers: bool) -> list[dict[str, Any]]:
    """Ours and theirs in turns."""
    spec, params = shape(name)
    prompt = prompt_of(batch, length)
    steps = {"fxformer": ours(spec, params, prompt, new)}
    if peers:
        steps |= theirs(spec, params, prompt, new)
    return rows(what, in_turns(steps, repeats), batch * new)


def room(name: str, batch: int, repeats: int) -> list[dict[str, Any]]:
    """The same tokens in caches of growing capacity."""
    spec, params = shape(name)
    prompt = jnp.asarray(prompt_of(batch, 1))

    @partial(jax.jit, static_argnums=0)
    def write(capacity: int) -> jax.Array:
        logits_BV, cache = prefill(spec, params, prompt, fx.empty_cache(spec, batch, capacity))
        flat_spec, flat_params, cache = unstacked(spec, params, cache)

        def body(_: int, carry: Any) -> Any:
            token_B, cache = carry
            logits_BV, cache = step(flat_spec, flat_params, token_B, cache)
            return jnp.argmax(logits_BV, axis=-1), cache

        return jax.lax.fori_loop(0, NEW - 1, body, (jnp.argmax(logits_BV, axis=-1), cache))[0]

    steps = {f"capacity {n}": (lambda n=n: jax.block_until_ready(write(n))) for n in CAPACITIES}
    return rows(f"{name}, batch {batch}", in_turns(steps, repeats), batch * NEW)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    before, peers = machine(), all(map(importlib.util.find_spec, PEERS))
    print(before, flush=True)
    told: list[dict[str, Any]] = []
    for name in options.only:
        for batch in BATCHES[name]:
            told += contest(f"{name}, batch {batch}", name, batch, PROMPT, NEW, options.repeats, peers)
            say(told[-3 if peers else -1 :])
    for name in (name for name in ("10.8M", "85M") if name in options.only):
        told += contest(f"{name}, first of {LONG}", name, 1, LONG, 1, options.repeats, peers)
        say(told[-3 if peers else -1 :])
        told += room(name, 1, options.repeats)
        say(told[-len(CAPACITIES) :])
    if not peers:
        print("transformers: not installed")
    shapes = {name: {key: str(value) for key, value in sizes.items()} for name, sizes in SHAPES.items()}
    settings = {"repeats": options.repeats, "prompt": PROMPT, "new": NEW, "shapes": shapes, "dtype": "float32"}
    options.out.write_text(json.dumps({"machine": before, "settings": settings, "rows": told}, indent=1) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
