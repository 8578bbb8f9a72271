"""Which spans a text is blanked in: the three tasks of Du et al. 2022 (GLM), and their released mixtures."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from train.objectives.objective import (
    Specials,
    check_probability,
    check_share,
    compact,
    exact,
    exclusive,
    previous,
    shuffled,
)


class Spans(NamedTuple):
    """Spans in C slots, in any order and apart from each other; an empty slot has length 0. int32 [C] each."""

    starts: Array
    lengths: Array


class Task(ABC):
    """A rule for which spans are blanked: `(tokens_T, key) -> Spans`, in `capacity(T)` slots."""

    __slots__ = ()

    @abstractmethod
    def __call__(self, tokens_T: Array, key: Array) -> Spans:
        """The spans to blank out."""

    @abstractmethod
    def mark(self, specials: Specials) -> int:
        """The token that stands for a span in Part A."""

    @abstractmethod
    def capacity(self, length: int) -> int:
        """The most spans that `length` tokens can have."""

    @abstractmethod
    def check(self, length: int) -> None:
        """Raise ValueError unless spans always fit `length` tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Short(Task):
    """[MASK]: spans of Poisson(`mean`) tokens cut to 1 .. `longest`, until `rate` of the text is blank.

    They are one token or more apart: the gaps beyond that one are set by sorting uniform places, as released.
    """

    rate: float = 0.15
    mean: float = 3
    longest: int = 39

    def __post_init__(self) -> None:
        check_share("rate", self.rate)
        if self.mean <= 0 or self.longest < 1:
            raise ValueError(f"mean={self.mean} and longest={self.longest} give no span; use more than 0 and 1 or more")

    @property
    def probabilities(self) -> np.ndarray:
        """p(n) of lengths n = 1 .. longest: mean^n e^-mean / n!, normalised; float64 [longest]."""
        weights = np.array([math.exp(n * math.log(self.mean) - math.lgamma(n + 1)) for n in range(1, self.longest + 1)])
        return weights / weights.sum()

    def __call__(self, tokens_T: Array, key: Array) -> Spans:
        length, slots = tokens_T.shape[0], self.capacity(tokens_T.shape[0])
        length_key, order_key, place_key = jax.random.split(key, 3)
        drawn_C = 1 + jax.random.categorical(length_key, jnp.log(self.probabilities), shape=(slots,))
        used_C = exclusive(drawn_C) < slots
        lengths_C = jnp.where(used_C, drawn_C, 0)[shuffled(order_key, used_C)]
        count = jnp.sum(used_C)
        free = length - jnp.sum(lengths_C) - (count - 1)
        place_C = jax.random.randint(place_key, (slots,), 0, free + 1)
        place_C = jnp.sort(jnp.where(jnp.arange(slots) < count, place_C, length))
        return Spans(place_C + exclusive(lengths_C + 1), lengths_C)

    def mark(self, specials: Specials) -> int:
        return specials.mask

    def capacity(self, length: int) -> int:
        return _budget(self.rate, length)

    def check(self, length: int) -> None:
        most = 2 * (self.capacity(length) - 1) + self.longest
        if length < most:
            raise ValueError(
                f"spans with gaps may take {most} tokens of {length}; give longer rows or a smaller longest"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentences(Task):
    """[sMASK]: whole sentences in random order, until `rate` of the text is blank. One of `ends` ends a sentence."""

    rate: float = 0.15
    ends: tuple[int, ...] = tuple(b".?!;:\n")

    def __post_init__(self) -> None:
        check_share("rate", self.rate)

    def __call__(self, tokens_T: Array, key: Array) -> Spans:
        length, slots = tokens_T.shape[0], self.capacity(tokens_T.shape[0])
        first_T = previous(jnp.isin(tokens_T, jnp.asarray(self.ends)), first=True)
        sentence_T = jnp.cumsum(first_T) - 1
        starts_C = compact(jnp.arange(length), first_T, length, length)
        lengths_C = jnp.zeros_like(tokens_T).at[sentence_T].add(1)
        order_C = shuffled(key, lengths_C > 0)
        starts_C, lengths_C = starts_C[order_C], lengths_C[order_C]
        lengths_C = jnp.where(exclusive(lengths_C) < slots, lengths_C, 0)
        return Spans(starts_C[:slots], lengths_C[:slots])

    def mark(self, specials: Specials) -> int:
        return specials.smask

    def capacity(self, length: int) -> int:
        return _budget(self.rate, length)

    def check(self, length: int) -> None:
        """Sentences are part of the text, so they fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document(Task):
    """[gMASK]: one long span, its length uniform from `shortest` of the text to all but one token.

    infill: probability that it stands anywhere, with text after it; otherwise it is the end of the text.
    """

    shortest: float = 0.25
    infill: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.shortest < 1:
            raise ValueError(f"shortest={self.shortest} is not a share of the tokens; use 0 or more, and less than 1")
        check_probability("infill", self.infill)

    def __call__(self, tokens_T: Array, key: Array) -> Spans:
        text = tokens_T.shape[0]
        length_key, start_key, infill_key = jax.random.split(key, 3)
        length = jax.random.randint(length_key, (1,), max(1, math.floor(exact(self.shortest) * text)), text)
        anywhere = jax.random.randint(start_key, (1,), 0, text - length + 1)
        filled = jax.random.bernoulli(infill_key, float(self.infill))
        return Spans(jnp.where(filled, anywhere, text - length), length)

    def mark(self, specials: Specials) -> int:
        return specials.gmask

    def capacity(self, length: int) -> int:
        return 1

    def check(self, length: int) -> None:
        if length < 2:
            raise ValueError(f"{length} token leaves nothing beside the span; give 2 or more")


Mixture = tuple[tuple[float, Task], ...]
BASE: Mixture = ((1.0, Short()),)
GLM_10B: Mixture = ((0.5, Short()), (0.3, Sentences()), (0.2, Document()))
GLM_130B: Mixture = ((0.3, Short()), (0.7, Document(shortest=0, infill=0)))


def _budget(rate: float, length: int) -> int:
    """Tokens at which blanking stops: `rate` of them, rounded down as released, and at least one."""
    return max(1, math.floor(exact(rate) * length))
