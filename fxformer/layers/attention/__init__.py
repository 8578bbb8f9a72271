"""Attention layers: `(x, context, table) -> (y, Side)`. A new one is a spec, a module and one line in ATTENTION.

A spec says in `records` what one token leaves in the cache, and in `mask` how far queries look back.
"""

from fxformer.layers.attention.differential import Differential, DifferentialModule
from fxformer.layers.attention.gqa import GQA, CrossModule, GQAModule
from fxformer.layers.attention.mla import MLA, MLAModule

ATTENTION = {GQA: GQAModule, MLA: MLAModule, Differential: DifferentialModule}
AttentionSpec = GQA | MLA | Differential

__all__ = [
    "ATTENTION", "GQA", "MLA", "Differential", "AttentionSpec",
    "CrossModule", "GQAModule", "MLAModule", "DifferentialModule",
]  # fmt: skip
