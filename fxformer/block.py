"""One block: attention and feed-forward, each joined to the residual stream."""

from dataclasses import dataclass

import flax.linen as nn
from jax import Array

from fxformer.cache import Table
from fxformer.layers.attention import ATTENTION, AttentionSpec
from fxformer.layers.context import Context, Side
from fxformer.layers.ffn import FFN, FFNSpec
from fxformer.layers.residual import Residual, ResidualModule, root_mean_square


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What stands in one block: an attention, a feed-forward layer, and how both join the stream."""

    attention: AttentionSpec
    ffn: FFNSpec
    residual: Residual


class BlockModule(nn.Module):
    """Attention then feed-forward; returns the stream and the block's cache table, losses and statistics."""

    spec: Block

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, table: Table | None) -> tuple[Array, Side]:
        spec = self.spec
        attention = ATTENTION[type(spec.attention)](spec.attention, name="attention")
        ffn = FFN[type(spec.ffn)](spec.ffn, name="ffn")
        join_attention = ResidualModule(spec.residual, name="attention_residual")
        join_ffn = ResidualModule(spec.residual, name="ffn_residual")

        x_BTD, attended = join_attention(x_BTD, lambda h_BTD: attention(h_BTD, context, table))
        x_BTD, fed = join_ffn(x_BTD, ffn)
        stats = {
            **{f"attention_{name}": value for name, value in attended.stats.items()},
            **{f"ffn_{name}": value for name, value in fed.stats.items()},
            "residual_rms": root_mean_square(x_BTD),
        }
        return x_BTD, Side(attended.tables, {**attended.losses, **fed.losses}, stats)
