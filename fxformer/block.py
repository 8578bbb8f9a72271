"""One block: attention, where there is an encoder cross-attention, and feed-forward, each joined to the stream."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from fxformer.fields import check_fields
from fxformer.layers.attention import ATTENTION, GQA, AttentionSpec, CrossModule
from fxformer.layers.context import Context, Side
from fxformer.layers.ffn import FFN, FFNSpec
from fxformer.layers.residual import Residual, ResidualModule, main, mean_square
from fxformer.ops.statistic import Root
from fxformer.written import Spelled


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Block(Spelled):
    """What stands in one block: an attention, one to an encoder or None, a feed-forward layer, and how they join."""

    attention: AttentionSpec
    ffn: FFNSpec
    residual: Residual
    cross: GQA | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.cross is not None and self.cross.records_of_first:
            raise ValueError("cross-attention takes values of the encoder and none of the first block; leave it out")

    @property
    def placed(self) -> bool:
        """Whether it depends on where in the stack it stands, so that it has to be told: see `Layer`."""
        return self.attention.placed or self.residual.stochastic_depth > 0


class BlockModule(nn.Module):
    """Returns the stream and the block's cache tables, losses and statistics."""

    spec: Block

    @nn.compact
    def __call__(self, stream: Any, context: Context, tables: Any) -> tuple[Any, Side]:
        spec = self.spec
        tables = {} if tables is None else tables
        attention = ATTENTION[type(spec.attention)](spec.attention, name="attention")
        ffn = FFN[type(spec.ffn)](spec.ffn, name="ffn")
        sublayers = {"attention": lambda h_BTD: attention(h_BTD, context, tables.get("attention"))}
        if spec.cross is not None:
            cross = CrossModule(spec.cross, name="cross")
            sublayers["cross"] = lambda h_BTD: cross(h_BTD, context, tables.get("cross"))
        sublayers["ffn"] = lambda h_BTD: ffn(h_BTD, context)

        sides = {}
        for name, sublayer in sublayers.items():
            join = ResidualModule(spec.residual, "ffn" if name == "ffn" else "attention", name=f"{name}_residual")
            stream, sides[name] = join(stream, sublayer, context.place)
        size = mean_square(main(stream))
        return stream, _merge(sides, Root(size, jnp.ones_like(size)))


def _merge(sides: dict[str, Side], rms: Root) -> Side:
    """One side of all sublayers; tables only of those that keep one."""
    losses = {name: loss for side in sides.values() for name, loss in side.losses.items()}
    stats = {f"{part}_{name}": value for part, side in sides.items() for name, value in side.stats.items()}
    tables = {part: side.tables for part, side in sides.items() if side.tables is not None}
    first = {name: array for side in sides.values() for name, array in side.first.items()}
    return Side(tables or None, losses, {**stats, "residual_rms": rms}, first)
