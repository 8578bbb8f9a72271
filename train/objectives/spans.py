"""Span corruption: an encoder reads text with holes, a decoder writes what was in them. Raffel et al. 2020 (T5)."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from fxformer.coords import plain
from train.objectives.objective import Batch, Objective, Specials, check_share, compact, exact, previous, rows


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanCorruption(Objective):
    """`rate` of the tokens are noise, in spans of `mean_span` tokens on average; text and noise alternate.

    Of T tokens, noise = clip(round(rate T), 1, T - 1) in spans = max(1, round(noise / mean_span)); the lengths of
    noise spans, and those of text between them, are uniform over compositions. Section 3.1.4 and its released code.
    """

    rate: float = 0.15
    mean_span: float = 3

    def __post_init__(self) -> None:
        check_share("rate", self.rate)
        if self.mean_span < 1:
            raise ValueError(f"mean_span={self.mean_span} tokens is no span; use 1 or more")

    def counts(self, raw: int) -> tuple[int, int]:
        """(noise tokens, noise spans) of `raw` tokens."""
        noise = min(max(round(exact(self.rate) * raw), 1), raw - 1)
        return noise, max(1, round(noise / exact(self.mean_span)))

    def lengths(self, raw: int) -> tuple[int, int]:
        """(inputs, targets) that `raw` tokens give: a sentinel for each span of what is left out, and EOS."""
        noise, spans = self.counts(raw)
        return raw - noise + spans + 1, noise + spans + 1

    @property
    def least(self) -> int:
        return 2

    def input_length(self, raw: int) -> int:
        return self.lengths(raw)[0]

    def __call__(self, tokens: ArrayLike, key: Array) -> Batch:
        tokens_BT = rows(tokens, self.least)
        count, length = tokens_BT.shape
        noise, spans = self.counts(length)
        self._check(length - noise, spans)

        def corrupt_row(tokens_T: Array, key: Array) -> tuple[Array, Array]:
            text_key, noise_key = jax.random.split(key)
            text_C, noise_C = composition(text_key, length - noise, spans), composition(noise_key, noise, spans)
            ends_C = jnp.cumsum(jnp.stack([text_C, noise_C], axis=1).reshape(-1))
            noise_T = jnp.searchsorted(ends_C, jnp.arange(length), side="right") % 2 == 1
            return corrupt(tokens_T, noise_T, self.lengths(length), self.specials)

        encoder_BS, targets_BT = jax.vmap(corrupt_row)(tokens_BT, jax.random.split(key, count))
        start_BT = jnp.full((count, 1), self.specials.pad)
        return Batch(
            inputs=jnp.concatenate([start_BT, targets_BT[:, :-1]], axis=1),
            targets=targets_BT,
            weights=jnp.ones(targets_BT.shape),
            coords=plain(targets_BT.shape[1]),
            encoder_tokens=encoder_BS,
            encoder_coords=plain(encoder_BS.shape[1]),
        )

    def _check(self, text: int, spans: int) -> None:
        if spans > self.specials.sentinels:
            raise ValueError(f"{spans} spans need more than sentinels={self.specials.sentinels}; give shorter rows")
        if spans > text:
            raise ValueError(f"{spans} spans need as many tokens between them, there are {text}; use a lower rate")


def composition(key: Array, total: int, parts: int) -> Array:
    """`parts` lengths of 1 or more that sum to `total`, each such list equally likely: int32 [parts]."""
    cuts = jnp.sort(jax.random.permutation(key, total - 1)[: parts - 1]) + 1
    return jnp.diff(cuts, prepend=0, append=total)


@partial(jax.jit, static_argnames=("lengths", "specials"))
def corrupt(tokens_T: Array, noise_T: Array, lengths: tuple[int, int], specials: Specials) -> tuple[Array, Array]:
    """(inputs, targets) of `lengths`: a sentinel for each run of noise, and one for each run of text; then EOS."""
    first_noise_T = noise_T & ~previous(noise_T, first=False)
    first_text_T = ~noise_T & previous(noise_T, first=True)
    noise_sentinel_T = specials.first_sentinel + 1 - jnp.cumsum(first_noise_T)
    text_sentinel_T = specials.first_sentinel + 1 - jnp.cumsum(first_text_T)
    inputs_T = jnp.where(noise_T, noise_sentinel_T, tokens_T)
    targets_T = jnp.where(noise_T, tokens_T, text_sentinel_T)
    return (
        compact(inputs_T, ~noise_T | first_noise_T, lengths[0], specials.eos),
        compact(targets_T, noise_T | first_text_T, lengths[1], specials.eos),
    )
