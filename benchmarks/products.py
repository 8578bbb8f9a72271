"""Matrix products of a few rows on a CPU: as XLA compiles them, and as the loops of decoding do.

    python benchmarks/products.py [--repeats 7]

Each call multiplies the rows by many matrices in turn, more than any cache holds.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from turns import Step, in_turns, machine, rows, say

from fxformer.decode.compiled import for_few_rows

RESULTS = Path(__file__).parent / "results" / "products.json"
SHAPES = ((768, 2048), (384, 1024))
ROWS = (1, 2, 4, 8, 16, 32)
FLOATS = 80_000_000  # in all matrices of a call


def through(x_ND: jax.Array, matrices: list[jax.Array]) -> jax.Array:
    for matrix_DF in matrices:
        x_ND = x_ND + 1e-3 * (x_ND @ matrix_DF)[:, : x_ND.shape[1]]
    return x_ND


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    before = machine()
    print(before, flush=True)
    ways = {"as XLA does": jax.jit(through), "as decoding does": for_few_rows(through, static_argnames=[])}
    told: list[dict[str, Any]] = []
    for width, inner in SHAPES:
        numbers = np.random.default_rng(0).standard_normal((FLOATS // (width * inner), width, inner), np.float32)
        matrices = [jnp.asarray(matrix) for matrix in numbers]
        for count in ROWS:
            x_ND = jnp.ones((count, width))
            steps: dict[str, Step] = {
                name: lambda way=way, x_ND=x_ND, matrices=matrices: jax.block_until_ready(way(x_ND, matrices))
                for name, way in ways.items()
            }
            told += rows(f"{width} x {inner}, {count}", in_turns(steps, options.repeats), count)
            say(told[-2:])
    settings = {"repeats": options.repeats, "floats": FLOATS, "dtype": "float32"}
    RESULTS.write_text(json.dumps({"machine": before, "settings": settings, "rows": told}, indent=1) + "\n")
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
