"""fxformer: every transformer variant as pure functions in JAX, and the laboratory that compares them."""

from fxformer import decode, hf, lora, ops, zoo
from fxformer.accounting import count
from fxformer.coords import Coords, packed, padded, plain
from fxformer.decode import generate
from fxformer.model import Output, Transformer, apply, attention_maps, empty_cache, init
from fxformer.page import describe

__version__ = "0.1.0"
__all__ = [
    "init", "apply", "empty_cache", "generate", "count", "attention_maps", "describe",
    "zoo", "hf", "ops", "decode", "lora",
    "Coords", "plain", "padded", "packed", "Output", "Transformer",
]  # fmt: skip
