"""fxformer: every transformer variant as pure functions in JAX, and the laboratory that compares them."""

from fxformer import decode, hf, layers, lora, ops, zoo
from fxformer.accounting import count
from fxformer.block import Block
from fxformer.coords import Coords, packed, padded, plain
from fxformer.decode import generate
from fxformer.layer import Layer, LayerOutput, apply_layer, init_layer
from fxformer.layers.context import Memory
from fxformer.model import Output, Transformer, apply, attention_maps, empty_cache, init
from fxformer.page import describe
from fxformer.stack import Once, Repeat, Stack

__version__ = "0.1.0"
__all__ = [
    "init", "apply", "empty_cache", "generate", "count", "attention_maps", "describe",
    "zoo", "hf", "ops", "layers", "decode", "lora",
    "Coords", "plain", "padded", "packed", "Output", "Transformer",
    "init_layer", "apply_layer", "Layer", "LayerOutput", "Memory", "Block", "Repeat", "Once", "Stack",
]  # fmt: skip
