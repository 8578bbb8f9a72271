"""Synthetic tasks whose answer is known, as streams of bytes: for tests and quick looks.

A task is a function () -> (training bytes, held-out bytes) and one line in TASKS.
"""

from bisect import bisect
from collections.abc import Callable
from functools import partial

import numpy as np

TRAIN, HELD_OUT = 1_000_000, 100_000  # bytes
SEPARATOR = 0
STATES = 16  # of the Markov source
Stream = Callable[[np.random.Generator, int], np.ndarray]


def copy(rng: np.random.Generator, size: int, *, width: int = 8) -> np.ndarray:
    """`width` random letters, a separator, the same letters, a separator: `width` + 2 of 2 `width` + 2 are certain."""
    letters = rng.integers(1, 27, (-(-size // (2 * width + 2)), width))
    edge = np.full((len(letters), 1), SEPARATOR)
    return np.concatenate([letters, edge, letters, edge], axis=1).reshape(-1)[:size]


def induction(rng: np.random.Generator, size: int, *, width: int = 24) -> np.ndarray:
    """Lines in which what follows a letter is mostly what followed it before, by a map drawn for each line.

    One step in four jumps to a random letter. Induction heads: Olsson et al. 2022.
    """
    lines = -(-size // (width + 1))
    table = rng.permuted(np.tile(np.arange(1, 17), (lines, 1)), axis=1)
    state = rng.integers(0, 16, lines)
    columns = []
    for _ in range(width):
        jump = rng.random(lines) < 0.25
        state = np.where(jump, rng.integers(0, 16, lines), table[np.arange(lines), state] - 1)
        columns.append(state + 1)
    return np.concatenate([np.stack(columns, axis=1), np.full((lines, 1), SEPARATOR)], axis=1).reshape(-1)[:size]


def modular_addition(rng: np.random.Generator, size: int, *, modulus: int = 97) -> np.ndarray:
    """Lines a, b, (a + b) mod 97, separator. Power et al. 2022."""
    first, second = rng.integers(0, modulus, (2, -(-size // 4)))
    edge = np.full_like(first, SEPARATOR)
    return np.stack([first + 1, second + 1, (first + second) % modulus + 1, edge], axis=1).reshape(-1)[:size]


def markov_source(states: int = STATES, seed: int = 0) -> tuple[np.ndarray, float]:
    """(transition matrix [states, states], entropy rate in nats a byte) of the source of `markov`.

    The rate is the entropy of the rows, weighted by the stationary distribution. Shannon 1948, theorem 5.
    """
    transition = np.random.default_rng(seed).dirichlet(np.full(states, 0.5), states)
    values, vectors = np.linalg.eig(transition.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    stationary = stationary / stationary.sum()
    rows = -(transition * np.log(np.maximum(transition, 1e-300))).sum(axis=1)
    return transition, float(stationary @ rows)


def markov(rng: np.random.Generator, size: int) -> np.ndarray:
    """A first-order source of known entropy rate: no model can do better, and a bigram model reaches it."""
    transition, _ = markov_source()
    edges = transition.cumsum(axis=1)[:, :-1].tolist()
    stream, state = [], 0
    for draw in rng.random(size).tolist():
        state = bisect(edges[state], draw)
        stream.append(state)
    return np.array(stream)


def _split(stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return stream(rng, TRAIN).astype(np.uint8), stream(rng, HELD_OUT).astype(np.uint8)


TASKS: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    "copy": partial(_split, copy),
    "induction": partial(_split, induction),
    "modular-addition": partial(_split, modular_addition),
    "markov": partial(_split, markov),
}
