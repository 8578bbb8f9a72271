"""Tokens per second of speculative decoding beside plain decoding, with two models trained on the same text.

    python -m train run configs/shakespeare.toml --set run.out=runs/draft
    python -m train run configs/shakespeare.toml --set run.out=runs/target --set width=384 --set depth=6
    python benchmarks/speculate.py runs/target/shakespeare runs/draft/shakespeare [--guesses 2 4 6] [--repeats 5]

Contestants take turns in one process. Texts of the most likely tokens are compared: they have to be identical.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from turns import in_turns, machine, rows, say

import fxformer as fx
from fxformer.decode import Sampling, Speculation, generate, speculate
from train.run.sample import load_run

RESULTS = Path(__file__).parent / "results" / "speculate.json"
PROMPT, NEW = b"\nROMEO:\n", 200
TEMPERATURE = 0.8


def contest(models: dict[str, Any], guesses: list[int], batch: int, draw: bool, repeats: int) -> list[dict[str, Any]]:
    """Plain decoding and speculation with each number of guesses, in turns; passes of the model per new token."""
    (spec, params), draft = models["target"], models["draft"]
    prompt = np.tile(np.frombuffer(PROMPT, np.uint8).astype(np.int32), (batch, 1))
    key = jax.random.key(0) if draw else None
    temperature = TEMPERATURE if draw else None

    def plain() -> jax.Array:
        return jax.block_until_ready(generate(spec, params, prompt, NEW, key=key, temperature=temperature))

    def with_guesses(count: int) -> Callable[[], Speculation]:
        sampling = Sampling(temperature=temperature)
        return lambda: jax.block_until_ready(
            speculate(spec, params, prompt, NEW, draft=draft, guesses=count, key=key, sampling=sampling)
        )

    speculations = {f"{count} guesses": with_guesses(count) for count in guesses}
    told = rows(
        f"{'drawn' if draw else 'greedy'}, batch {batch}",
        in_turns({"plain": plain} | speculations, repeats),
        batch * NEW,
    )
    for row in told:
        row["passes_per_token"] = 1.0
        if row["who"] in speculations:
            said = speculations[row["who"]]()
            row["passes_per_token"] = float(jnp.mean(said.passes)) / NEW
            if not draw:
                np.testing.assert_array_equal(said.text, plain())
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="folder of a run")
    parser.add_argument("draft", type=Path, help="folder of a run of a smaller model")
    parser.add_argument("--guesses", type=int, nargs="+", default=[2, 4, 6])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    before = machine()
    models = {who: load_run(getattr(options, who))[1:] for who in ("target", "draft")}
    sizes = {who: fx.count(spec) for who, (spec, _) in models.items()}
    print(before, sizes, flush=True)
    told: list[dict[str, Any]] = []
    for batch in (1, 8):
        for draw in (False, True):
            told += contest(models, options.guesses, batch, draw, options.repeats)
            say(told[-1 - len(options.guesses) :])
    for row in told:
        print(f"{row['what']:<16}{row['who']:<12}{row['passes_per_token']:.2f} passes of the model per token")
    settings = {"repeats": options.repeats, "prompt": PROMPT.decode(), "new": NEW, "temperature": TEMPERATURE}
    told_all = {"machine": before, "settings": settings, "parameters": sizes, "rows": told}
    options.out.write_text(json.dumps(told_all, indent=1) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
