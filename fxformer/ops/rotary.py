"""Rotary position encoding: pairs of channels are rotated by an angle proportional to the position.

Su et al. 2021. q_t . k_s depends on t - s only. Phases are computed in float32 whatever the dtype of the data.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from fxformer.fields import Positive, Size, Whole, check_fields
from fxformer.jit import promoting
from fxformer.lookup import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """Position interpolation: every frequency divided by `factor`. Chen et al. 2023."""

    factor: Positive

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class NTK:
    """NTK-aware scaling: the base times factor^(p / (p - 2))."""

    factor: Positive

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dynamic:
    """NTK-aware scaling by how much longer than `original_length` the text is; up to there nothing is scaled.

    A text of L tokens has the base times (factor L / original_length - (factor - 1))^(p / (p - 2)), where L is the
    largest position of a call, over all rows, and one more. So beyond the original length what a call says depends on
    its other rows, and a text read in parts is not what it is at once: a part is rotated by the length that it had. In
    transformers, whose "dynamic" this is, too.
    """

    factor: Positive
    original_length: Whole

    def __post_init__(self) -> None:
        check_fields(self)
        if self.factor < 1:
            raise ValueError(f"factor={self.factor} has no base for every length; use 1.0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class YaRN:
    """Interpolate slow channels, keep fast ones, ramp between. Peng et al. 2023, section 3.

    truncate: the ramp begins and ends at whole pairs, rounded outwards (gpt-oss: False).
    """

    factor: Positive
    original_length: Whole
    fast: Positive = 32.0
    slow: Positive = 1.0
    truncate: bool = True

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3:
    """Llama 3.1's piecewise rule on wavelengths. Grattafiori et al. 2024; reference code."""

    factor: Positive
    original_length: Whole
    low: float = 1.0
    high: float = 4.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.low < self.high:
            raise ValueError(f"low={self.low} is not less than high={self.high}; there is nothing between them")


Scaling = Linear | NTK | Dynamic | YaRN | Llama3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Which channels of a head are rotated, in which pairs and how fast.

    width: rotated channels p of each stream, the first ones of the head; even.
    base: theta; channel pair i turns by theta^(-2i/p) a token.
    pairing: a name in PAIRINGS.
    streams: position rows; 2 rotates two runs of `width` channels by two positions (ChatGLM-6B).
    gain: factor on the rotated channels alone (YaRN's attention factor beside channels that are not rotated).
    """

    width: Size
    base: Positive = 10_000.0
    pairing: str = "half"
    streams: Size = 1
    scaling: Scaling | None = None
    gain: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.width % 2:
            raise ValueError(f"rotary width={self.width} cannot be split in pairs; use an even number, 2 or more")
        nearest(PAIRINGS, self.pairing, "rotary pairing")


def _base_frequencies(width: int, base: float) -> np.ndarray:
    return base ** (-np.arange(0, width, 2, dtype=np.float64) / width)


def _linear(rotary: Rotary, scaling: Linear, pos: Array | None) -> np.ndarray:
    return _base_frequencies(rotary.width, rotary.base) / scaling.factor


def _ntk(rotary: Rotary, scaling: NTK, pos: Array | None) -> np.ndarray:
    return _base_frequencies(rotary.width, rotary.base * scaling.factor ** _ntk_power(rotary))


def _ntk_power(rotary: Rotary) -> float:
    """p / (p - 2), the power of a factor on the base that divides the slowest frequency by that factor."""
    if rotary.width == 2:
        raise ValueError(f"NTK scaling of rotary width={rotary.width} has no slower pair to stretch; use 4 or more")
    return rotary.width / (rotary.width - 2)


def _dynamic(rotary: Rotary, scaling: Dynamic, pos: Array | None) -> np.ndarray | Array:
    plain, power = _base_frequencies(rotary.width, rotary.base), _ntk_power(rotary)
    if pos is None:
        return plain
    length = jnp.max(pos, initial=0).astype(jnp.float32) + 1
    stretch = scaling.factor * length / scaling.original_length - (scaling.factor - 1)
    share = np.arange(0, rotary.width, 2, dtype=np.float32) / rotary.width
    return jnp.asarray(plain, jnp.float32) * jnp.maximum(stretch, 1) ** (-power * share)


def _yarn(rotary: Rotary, scaling: YaRN, pos: Array | None) -> np.ndarray:
    if rotary.base == 1:
        raise ValueError(f"YaRN of base={rotary.base} turns all pairs alike and has no slow ones; use another base")

    def channel(turns: float) -> float:
        """The pair that makes `turns` rotations over the original length."""
        return rotary.width * math.log(scaling.original_length / (turns * 2 * math.pi)) / (2 * math.log(rotary.base))

    low, high = channel(scaling.fast), channel(scaling.slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary.width - 1)
    # Lengths so short or long that high < low fall to one side of the ramp, as in the reference code.
    ramp = np.clip((np.arange(rotary.width // 2) - low) / ((high - low) or 0.001), 0, 1)
    plain = _base_frequencies(rotary.width, rotary.base)
    return plain / scaling.factor * ramp + plain * (1 - ramp)


def _llama3(rotary: Rotary, scaling: Llama3, pos: Array | None) -> np.ndarray:
    plain = _base_frequencies(rotary.width, rotary.base)
    turns = scaling.original_length * plain / (2 * math.pi)
    keep = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
    return plain * keep + plain / scaling.factor * (1 - keep)


SCALINGS: dict[type, Callable[..., np.ndarray | Array]] = {
    Linear: _linear,
    NTK: _ntk,
    Dynamic: _dynamic,
    YaRN: _yarn,
    Llama3: _llama3,
}


def frequencies(rotary: Rotary, pos: Array | None = None) -> np.ndarray | Array:
    """float64 [p / 2]: radians a token of each channel pair, scaling applied.

    pos: every position of the call, for which only `Dynamic` asks, which then answers in float32; None is none beyond
    what it was made for.
    """
    if rotary.scaling is None:
        return _base_frequencies(rotary.width, rotary.base)
    return SCALINGS[type(rotary.scaling)](rotary, rotary.scaling, pos)


def magnitude(factor: float, mscale: float = 1.0) -> float:
    """YaRN's factor on queries and on keys, 0.1 mscale ln(factor) + 1; 1 where nothing is stretched.

    Logits are multiplied by its square. Peng et al. 2023, eq. 22; mscale: DeepSeek-AI 2024 (V2), code.
    """
    return 0.1 * mscale * math.log(factor) + 1 if factor > 1 else 1.0


@promoting()
def angles(pos: Array, rotary: Rotary) -> Array:
    """float32 [B, T, streams, p / 2]: the phase of each channel pair at `pos` ([B, T] or [B, T, streams])."""
    pos_BTx = pos[..., None] if pos.ndim == 2 else pos
    if pos_BTx.shape[-1] != rotary.streams:
        raise ValueError(
            f"positions have {pos_BTx.shape[-1]} streams, rotary has {rotary.streams}; give {rotary.streams}"
        )
    return pos_BTx[..., None].astype(jnp.float32) * jnp.asarray(frequencies(rotary, pos_BTx), jnp.float32)


def _half(x: Array, cos: Array, sin: Array) -> Array:
    """Pairs (x_i, x_{i + p/2}): Hugging Face's LLaMA, GPT-NeoX."""
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _interleaved(x: Array, cos: Array, sin: Array) -> Array:
    """Pairs (x_2i, x_2i+1): RoFormer, Meta's LLaMA, ChatGLM2, DeepSeek."""
    even, odd = x[..., ::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(x.shape)


PAIRINGS: dict[str, Callable[[Array, Array, Array], Array]] = {"half": _half, "interleaved": _interleaved}


@promoting()
def rotate(x_BTHK: Array, pos: Array, rotary: Rotary) -> Array:
    """Rotate the first `streams * width` channels of each head by their position; the rest pass unchanged.

    `pos` is [B, T] or [B, T, streams], its batch axis may be 1. Raises ValueError where a head is narrower.
    """
    rotated = rotary.width * rotary.streams
    if rotated > x_BTHK.shape[-1]:
        raise ValueError(f"rotary rotates {rotated} channels, heads have {x_BTHK.shape[-1]}; use at most as many")
    phase_BTxP = angles(pos, rotary)
    parts = jnp.split(x_BTHK, [rotary.width * (i + 1) for i in range(rotary.streams)], axis=-1)
    for i in range(rotary.streams):
        phase_BT1P = phase_BTxP[:, :, None, i, :]
        cos_BT1P, sin_BT1P = rotary.gain * jnp.cos(phase_BT1P), rotary.gain * jnp.sin(phase_BT1P)
        turned = PAIRINGS[rotary.pairing](parts[i].astype(jnp.float32), cos_BT1P, sin_BT1P)
        parts[i] = turned.astype(x_BTHK.dtype)
    return jnp.concatenate(parts, axis=-1)
