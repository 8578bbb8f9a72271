"""Quantised checkpoints: what `quantization_config` of config.json names is dequantised while it is read.

A method stores one parameter in several tensors. Here they become one tensor again, with the name and shape that it has
in a plain checkpoint, in float32; nothing is computed before it is read, and nothing kept afterwards. A parameter that
is stored plain stays so, as do those of `modules_to_not_convert`. What a method does to activations is left out, as in
transformers with `dequantize`. A new method is one function and one line in METHODS.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fxformer.hf.files import FLOAT8, Stored

Quantization = Mapping[str, Any]


def dequantiser(config: Mapping[str, Any]) -> Callable[[Sequence[Stored]], Sequence[Stored]]:
    """What makes plain tensors of stored ones; raises ValueError where config.json names a method that is not read."""
    quantization = config.get("quantization_config", config.get("compression_config"))
    if quantization is None:
        return lambda stored: stored
    name = _name(quantization)
    if type(name) is not str or name not in METHODS:
        raise ValueError(
            f"config.json has a quantization_config with quant_method={name!r}; only {', '.join(METHODS)} are read: "
            "dequantise the checkpoint with the library that made it, or take the plain one"
        )
    return lambda stored: _plain(METHODS[name], quantization, stored)


def _name(quantization: Any) -> Any:
    """The method; bitsandbytes did not always write its name."""
    if not isinstance(quantization, Mapping):
        raise ValueError(f"config.json has quantization_config={quantization!r}; give an object with a quant_method")
    unnamed = "bitsandbytes" if {"load_in_4bit", "load_in_8bit"} & set(quantization) else None
    return quantization.get("quant_method", unnamed)


class Method(NamedTuple):
    """How one `quant_method` stores a parameter.

    parts: the ends of its tensors' names, each after the name of the parameter. join: (name of the parameter, its
    tensors in that order, quantization_config) -> the parameter; raises ValueError where they do not fit each other.
    """

    parts: tuple[str, ...]
    join: Callable[[str, Sequence[Stored], Quantization], Stored]


def _plain(method: Method, quantization: Quantization, stored: Sequence[Stored]) -> list[Stored]:
    by_name = {tensor.name: tensor for tensor in stored}
    names = {name.removesuffix(end): None for end in method.parts if end for name in by_name if name.endswith(end)}
    parameters, parts = [], set()
    for name in names:
        missing = [name + end for end in method.parts if name + end not in by_name]
        if missing:
            raise ValueError(f"the checkpoint lacks tensor {missing[0]!r}, without which {name!r} is no parameter")
        parameters.append(method.join(name, [by_name[name + end] for end in method.parts], quantization))
        parts |= {name + end for end in method.parts}
    return [tensor for tensor in stored if tensor.name not in parts] + parameters


def _fits(tensor: Stored, dtypes: Sequence[str], shape: Sequence[int]) -> None:
    if tensor.dtype not in dtypes or tensor.shape != tuple(shape):
        raise ValueError(
            f"tensor {tensor.name!r} is {tensor.dtype} of shape {tensor.shape}; its method stores "
            f"{' or '.join(dtypes)} of shape {tuple(shape)} there"
        )


def _fp8(name: str, parts: Sequence[Stored], quantization: Quantization) -> Stored:
    """Numbers of 8 bits (4 of exponent, 3 of mantissa, no infinity), times one factor for each block of a matrix.

    Blocks at the edges may be partial; products are float32. Micikevicius et al. 2022, section 3; DeepSeek-V3,
    section 3.3.
    """
    weight, factor = parts
    block = quantization.get("weight_block_size", [128, 128])
    if not (type(block) is list and len(block) == 2 and all(type(size) is int and size > 0 for size in block)):
        raise ValueError(f"config.json has weight_block_size={block!r}; only two numbers of 1 or more are supported")
    *outer, height, width = np.broadcast_shapes(weight.shape, (1, 1))
    _fits(weight, [FLOAT8], (*outer, height, width))
    _fits(factor, ["F32", "BF16"], (*outer, -(-height // block[0]), -(-width // block[1])))

    def read() -> np.ndarray:
        values = weight.read().astype(np.float32)
        factors = factor.read().astype(np.float32)
        by_row = factors.repeat(min(block[0], height), -2)[..., :height, :]
        values *= by_row.repeat(min(block[1], width), -1)[..., :width]
        return values

    return Stored(name, weight.shape, "F32", read)


# The magnitudes of a float of 4 bits, 2 of exponent and 1 of mantissa, by its lower 3; the highest is its sign.
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
NUMBERS = np.array([*MAGNITUDES, *(-size for size in MAGNITUDES)], np.float32)
# What a byte holds, the lower half first: two float32, side by side in 8 bytes so that one look-up gives both.
PAIRS = np.stack([NUMBERS[np.arange(256) % 16], NUMBERS[np.arange(256) // 16]], axis=-1).view(np.uint64)[:, 0]
# A factor is its exponent, plus 127; the last is not a number.
POWERS = np.array([*np.ldexp(1.0, np.arange(-127, 128)), np.nan], np.float32)


def _mxfp4(name: str, parts: Sequence[Stored], quantization: Quantization) -> Stored:
    """Numbers of 4 bits, two in a byte, times a power of two for each 32; what exceeds float32 is infinite.

    OCP Microscaling Formats 1.0, sections 5.3.3 and 5.4.1. Rows of each expert are columns of the plain tensor.
    """
    blocks, powers = parts
    *outer, rows, groups, _ = np.broadcast_shapes(blocks.shape, (1, 1, 1))
    _fits(blocks, ["U8"], (*outer, rows, groups, 16))
    _fits(powers, ["U8"], (*outer, rows, groups))

    def read() -> np.ndarray:
        values = PAIRS[blocks.read()].view(np.float32)
        with np.errstate(over="ignore"):
            values *= POWERS[powers.read()][..., None]
        return values.reshape(*outer, rows, groups * 32).swapaxes(-1, -2)

    return Stored(name, (*outer, groups * 32, rows), "F32", read)


METHODS = {
    "fp8": Method(("", "_scale_inv"), _fp8),
    "mxfp4": Method(("_blocks", "_scales"), _mxfp4),
}
