"""What a model is, as a value: an embedding, a stack and a head, and what some have besides."""

from dataclasses import dataclass
from typing import Any

import jax
from jax import Array

from fxformer.coords import Coords
from fxformer.fields import check_fields
from fxformer.layers.embed import Embed
from fxformer.layers.head import HeadSpec, Pooler
from fxformer.lookup import renamed
from fxformer.mtp import MTP
from fxformer.stack import Stack
from fxformer.written import Spelled

Params = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Transformer(Spelled):
    """What a model is: embed the tokens, run the stack, read out logits.

    encoder: a stack that reads other tokens through the same embedding, for the cross-attentions of `stack`.
    pooler: what says something about a whole sequence. mtp: multi-token prediction, of the token after the next.
    """

    embed: Embed
    stack: Stack
    head: HeadSpec
    encoder: Stack | None = None
    pooler: Pooler | None = None
    mtp: MTP | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        crossed = any(block.cross is not None for block in self.stack.blocks)
        if crossed != (self.encoder is not None):
            has, lacks = ("cross-attention", "encoder") if crossed else ("an encoder", "cross-attention")
            raise ValueError(f"the model has {has} and no {lacks}; give both or neither")

    @property
    def ahead(self) -> MTP | None:
        """The old name of `mtp`."""
        renamed({"ahead": "mtp"}, "ahead", "field")
        return self.mtp


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Tokens [B, S] for the encoder, and where they stand."""

    tokens: Array
    coords: Coords
