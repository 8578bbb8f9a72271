"""Multi-token prediction: one more block that predicts the token after the next. DeepSeek-AI 2024 (V3), section 2.2."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
from jax import Array

from fxformer.block import Block, BlockModule
from fxformer.fields import check_fields
from fxformer.layers.context import Context
from fxformer.layers.norm import Norm, NormModule
from fxformer.layers.project import Init, Normal, Project
from fxformer.layers.residual import PLACEMENTS, main


@dataclass(frozen=True, slots=True, kw_only=True)
class MTP:
    """norm(block(norm(x_t) W + norm(e_{t+1}) U)), read by the model's own head as the token t + 2.

    x: the stream before the head; e: the next token's embedding.
    """

    block: Block
    norm: Norm
    init: Init = Normal()

    def __post_init__(self) -> None:
        check_fields(self)


class MTPModule(nn.Module):
    """x [B, T, D] and the embedding of the token after each [B, T, D] -> [B, T, D], and the block's cache tables."""

    spec: MTP

    @nn.compact
    def __call__(self, x_BTD: Array, next_BTD: Array, context: Context, tables: Any) -> tuple[Array, Any]:
        spec, width = self.spec, x_BTD.shape[-1]
        x_BTD = NormModule(spec.norm, name="hidden_norm")(x_BTD)
        next_BTD = NormModule(spec.norm, name="embedding_norm")(next_BTD)
        sizes = {"f": width}
        x_BTF = Project("btd,df->btf", sizes, weights=spec.init, name="hidden")(x_BTD)
        x_BTF = x_BTF + Project("btd,df->btf", sizes, weights=spec.init, name="embedding")(next_BTD)
        stream = PLACEMENTS[spec.block.residual.placement].enter(x_BTF)
        stream, side = BlockModule(spec.block, name="block")(stream, context, tables)
        return NormModule(spec.norm, name="norm")(main(stream)), side.tables
