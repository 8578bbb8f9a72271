"""Masked language model: single tokens or whole words (Devlin et al. 2019), n-grams of words (Lan et al. 2020)."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from fxformer.coords import plain
from train.objectives.objective import (
    Batch,
    Objective,
    Specials,
    check_probability,
    check_share,
    exact,
    previous,
    rows,
    shuffled,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Single tokens; every set of `count` of them is equally likely."""

    def __call__(self, tokens_T: Array, text_T: Array, count: Array, key: Array) -> Array:
        """bool [T]: the chosen tokens, all of them text."""
        rank_T = jnp.argsort(shuffled(key, text_T))
        return text_T & (rank_T < count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Whole words, in n-grams of up to `longest` words with p(n) ~ 1/n, as long as `count` tokens are not exceeded.

    A separator (tab, newline, return, space) begins a word. Words are tried in random order: an n-gram that does not
    fit any more is cut to the words that do; one that meets a chosen word is passed over. So up to `count` tokens
    are chosen, and none where every word is longer. Words next to each other across a special token are neighbours.
    """

    longest: int = 1
    separators: tuple[int, ...] = tuple(b"\t\n\r ")

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise ValueError(f"longest={self.longest} words are no n-gram; use 1 or more")

    @property
    def probabilities(self) -> np.ndarray:
        """p(n) of n-grams of n = 1 .. longest words: 1/n, normalised; float64 [longest]."""
        weights = 1 / np.arange(1, self.longest + 1)
        return weights / weights.sum()

    def __call__(self, tokens_T: Array, text_T: Array, count: Array, key: Array) -> Array:
        """bool [T]: the chosen tokens, all of them text."""
        word_T, size_C = self.split(tokens_T, text_T)
        end_C = jnp.pad(jnp.cumsum(size_C), (0, self.longest), mode="edge")
        slot_C, words_M = jnp.arange(size_C.size), jnp.arange(1, self.longest + 1)
        order_key, words_key = jax.random.split(key)
        wanted_C = 1 + jax.random.categorical(words_key, jnp.log(self.probabilities), shape=size_C.shape)

        def try_word(state: tuple[Array, Array], trial: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
            (chosen_C, left), (word, wanted) = state, trial
            size_M = end_C[word + words_M - 1] - end_C[word] + size_C[word]
            taken = jnp.max(jnp.where((size_M <= left) & (words_M <= wanted), words_M, 0))
            inside_C = (slot_C >= word) & (slot_C < word + taken)
            free = ~jnp.any(chosen_C & inside_C)
            spent = jnp.sum(jnp.where(inside_C & free, size_C, 0))
            return (chosen_C | (inside_C & free), left - spent), None

        order_C = shuffled(order_key, size_C > 0)
        (chosen_C, _), _ = jax.lax.scan(try_word, (jnp.zeros(size_C.shape, bool), count), (order_C, wanted_C))
        return text_T & chosen_C[word_T]

    def split(self, tokens_T: Array, text_T: Array) -> tuple[Array, Array]:
        """The word of each token (any number where it is not text), and the tokens of each word: int32 [T], [T]."""
        separator_T = jnp.isin(tokens_T, jnp.asarray(self.separators))
        first_T = text_T & (separator_T | ~previous(text_T, first=False))
        word_T = jnp.maximum(jnp.cumsum(first_T) - 1, 0)
        return word_T, jnp.zeros_like(tokens_T).at[word_T].add(text_T)


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """Choose `rate` of the text (at least 1 token, at most `most`); of those `mask` become [MASK], `keep` stay.

    The rest become random text. Devlin et al. 2019, section 3.1.
    """

    rate: float = 0.15
    mask: float = 0.8
    keep: float = 0.1
    most: int | None = None
    unit: Tokens | Words = Tokens()

    def __post_init__(self) -> None:
        check_share("rate", self.rate)
        check_probability("mask", self.mask)
        check_probability("keep", self.keep)
        if self.mask + self.keep > 1 + 1e-9:
            raise ValueError(
                f"mask={self.mask} and keep={self.keep} are more than everything; let them sum to 1 or less"
            )
        if self.most is not None and self.most < 1:
            raise ValueError(f"most={self.most} predicts nothing; use 1 or more")

    def count(self, text: int) -> int:
        """How many of `text` tokens to choose: min(most, max(1, round(rate * text))), never more than there are."""
        chosen = max(1, round(exact(self.rate) * text))
        return min(chosen, text) if self.most is None else min(chosen, text, self.most)

    def __call__(self, tokens_BT: Array, specials: Specials, key: Array) -> tuple[Array, Array]:
        """The corrupted tokens, int32 [B, T], and 1 where one was chosen, float32 [B, T]."""
        choose_key, kind_key, random_key = jax.random.split(key, 3)
        text_BT = tokens_BT < specials.text
        counts = np.array([self.count(text) for text in range(tokens_BT.shape[1] + 1)], np.int32)
        count_B = jnp.asarray(counts)[jnp.sum(text_BT, axis=1)]
        keys_B = jax.random.split(choose_key, tokens_BT.shape[0])
        chosen_BT = jax.vmap(self.unit)(tokens_BT, text_BT, count_B, keys_B)
        kind_BT = jax.random.uniform(kind_key, tokens_BT.shape)
        random_BT = jax.random.randint(random_key, tokens_BT.shape, 0, specials.text)
        left_BT = jnp.where(kind_BT < self.mask + self.keep, tokens_BT, random_BT)
        changed_BT = jnp.where(kind_BT < self.mask, specials.mask, left_BT)
        return jnp.where(chosen_BT, changed_BT, tokens_BT), chosen_BT.astype(jnp.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked(Objective):
    """Find the chosen tokens again from both sides; special tokens are never chosen."""

    hides: ClassVar[bool] = True
    masking: Masking = Masking()

    def __call__(self, tokens: ArrayLike, key: Array) -> Batch:
        tokens_BT = rows(tokens, self.least)
        inputs_BT, weights_BT = self.masking(tokens_BT, self.specials, key)
        return Batch(inputs_BT, tokens_BT, weights_BT, plain(tokens_BT.shape[1]))

    @property
    def least(self) -> int:
        return 1

    def input_length(self, raw: int) -> int:
        return raw
