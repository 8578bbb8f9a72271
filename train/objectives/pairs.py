"""Two segments, [CLS] A [SEP] B [SEP], masked: is B what follows A (NSP), or do A and B stand in order (SOP)?"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from fxformer.coords import plain
from train.objectives.masked import Masking, Words
from train.objectives.objective import Batch, Objective, Specials, check_probability, rows

MARKS = 3  # [CLS] and two [SEP]


@dataclass(frozen=True, slots=True, kw_only=True)
class NextSentence(Objective):
    """A row is cut anywhere into A and B; with probability `random`, B is that part of another row, and label 1.

    Devlin et al. 2019, section 3.1.
    """

    hides: ClassVar[bool] = True
    random: float = 0.5
    masking: Masking = Masking()

    def __post_init__(self) -> None:
        check_probability("random", self.random)

    def __call__(self, tokens: ArrayLike, key: Array) -> Batch:
        tokens_BT = rows(tokens, self.least)
        count, length = tokens_BT.shape
        if count < 2:
            raise ValueError(f"{count} row has no other to take a random segment from; give 2 or more")
        cut_key, other_key, label_key, mask_key = jax.random.split(key, 4)
        cut_B = jax.random.randint(cut_key, (count,), 1, length)
        other_B = (jnp.arange(count) + jax.random.randint(other_key, (count,), 1, count)) % count
        labels_B = jax.random.bernoulli(label_key, float(self.random), (count,)).astype(jnp.int32)
        second_BT = jnp.where(labels_B[:, None] == 1, tokens_BT[other_B], tokens_BT)
        begin_B = jnp.zeros_like(cut_B)
        joined = jax.vmap(join, (0, 0, 0, 0, 0, None))(tokens_BT, begin_B, cut_B, second_BT, cut_B, self.specials)
        return _masked(*joined, labels_B, self.masking, self.specials, mask_key)

    @property
    def least(self) -> int:
        return 2

    def input_length(self, raw: int) -> int:
        return raw + MARKS


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceOrder(Objective):
    """A row is cut anywhere in two; with probability `swap` the second part comes first, and the label is 1.

    Lan et al. 2020, section 3.1; masks n-grams of up to 3 words.
    """

    hides: ClassVar[bool] = True
    swap: float = 0.5
    masking: Masking = Masking(unit=Words(longest=3))

    def __post_init__(self) -> None:
        check_probability("swap", self.swap)

    def __call__(self, tokens: ArrayLike, key: Array) -> Batch:
        tokens_BT = rows(tokens, self.least)
        count, length = tokens_BT.shape
        cut_key, label_key, mask_key = jax.random.split(key, 3)
        cut_B = jax.random.randint(cut_key, (count,), 1, length)
        labels_B = jax.random.bernoulli(label_key, float(self.swap), (count,)).astype(jnp.int32)
        begin_B, size_B = jnp.where(labels_B == 1, cut_B, 0), jnp.where(labels_B == 1, length - cut_B, cut_B)
        second_B = cut_B - begin_B
        joined = jax.vmap(join, (0, 0, 0, 0, 0, None))(tokens_BT, begin_B, size_B, tokens_BT, second_B, self.specials)
        return _masked(*joined, labels_B, self.masking, self.specials, mask_key)

    @property
    def least(self) -> int:
        return 2

    def input_length(self, raw: int) -> int:
        return raw + MARKS


def join(a_T: Array, begin: Array, size: Array, b_T: Array, second: Array, specials: Specials) -> tuple[Array, Array]:
    """[CLS] a[begin : begin + size] [SEP] b[second : second + T - size] [SEP], and types 0, 1: int32 [T + 3] each."""
    length = a_T.shape[0]
    place_N = jnp.arange(length + MARKS)
    from_a_N = a_T[jnp.clip(begin + place_N - 1, 0, length - 1)]
    from_b_N = b_T[jnp.clip(second + place_N - size - 2, 0, length - 1)]
    tokens_N = jnp.where(place_N <= size, from_a_N, from_b_N)
    tokens_N = jnp.where((place_N == size + 1) | (place_N == length + MARKS - 1), specials.sep, tokens_N)
    return tokens_N.at[0].set(specials.cls), (place_N > size + 1).astype(jnp.int32)


def _masked(
    tokens_BN: Array, types_BN: Array, labels_B: Array, masking: Masking, specials: Specials, key: Array
) -> Batch:
    inputs_BN, weights_BN = masking(tokens_BN, specials, key)
    coords = replace(plain(tokens_BN.shape[1], start=jnp.zeros_like(labels_B)), type=types_BN)
    return Batch(inputs_BN, tokens_BN, weights_BN, coords, labels=labels_B)
