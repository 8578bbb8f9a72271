"""Which layers look back how far: `layer_types` and `sliding_window` of config.json."""

from collections.abc import Sequence

from fxformer.block import Block
from fxformer.hf.family import Settings
from fxformer.ops.mask import Causal, Mask, Window

FULL, SLIDING = "full_attention", "sliding_attention"


def read_masks(settings: Settings, types: Sequence[str]) -> list[Mask]:
    """The mask of each layer; `types` are theirs where config.json has no layer_types."""
    types, depth, size = settings["layer_types"] or types, settings["num_hidden_layers"], settings["sliding_window"]
    if len(types) != depth:
        raise ValueError(f"config.json has {len(types)} layer_types for num_hidden_layers={depth}; give as many")
    unknown = set(types) - {FULL, SLIDING}
    if unknown:
        raise ValueError(f"config.json has {min(unknown)!r} in layer_types; only {FULL!r}, {SLIDING!r} are supported")
    if SLIDING in types and size is None:
        raise ValueError(f"config.json has {SLIDING!r} in layer_types and sliding_window=None; give the window")
    return [Window(size) if kind == SLIDING else Causal() for kind in types]


def write_masks(blocks: Sequence[Block]) -> Settings:
    """The settings of masks that are causal, or windows of one size; without one sliding_window is left to them."""
    size = window(blocks)
    types = [SLIDING if type(block.attention.mask) is Window else FULL for block in blocks]
    return {"layer_types": types} | ({} if size is None else {"sliding_window": size})


def window(blocks: Sequence[Block]) -> int | None:
    """The size of the first window, None where there is none."""
    masks = [block.attention.mask for block in blocks]
    return next((mask.size for mask in masks if type(mask) is Window), None)
