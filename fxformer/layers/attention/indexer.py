"""The lightning indexer of DeepSeek sparse attention: which keys are worth looking at. DeepSeek-AI 2025 (V3.2)."""

from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from fxformer.cache import Seen
from fxformer.coords import Coords
from fxformer.fields import Size, check_fields
from fxformer.layers.norm import Norm, NormModule
from fxformer.layers.project import FanIn, Init, Project
from fxformer.ops.loss import divergence, weighted_mean
from fxformer.ops.mask import Mask, visible
from fxformer.ops.rotary import Rotary, rotate
from fxformer.ops.select import index_scores, top_k_mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexer:
    """Each query keeps the `keep` keys that score best in `heads` heads over one shared key of `width` channels.

    rotary: turns the first channels of queries and keys. norm: of the key.
    """

    heads: Size = 64
    width: Size = 128
    keep: Size = 2048
    rotary: Rotary = Rotary(width=64)
    norm: Norm = Norm(kind="layer", bias=True)
    init: Init = FanIn()

    def __post_init__(self) -> None:
        check_fields(self)
        rotated = self.rotary.width * self.rotary.streams
        if rotated > self.width:
            raise ValueError(f"index rotates {rotated} channels of width={self.width}; use at most as many")


class Selection(NamedTuple):
    """The scores of the keys, and which of them are looked at."""

    scores_BTS: Array
    selected_BTS: Array

    def loss(self, weights_BTS: Array) -> Array:
        """Mean over queries of KL(weights || softmax of the scores over what is selected), in nats. Eq. 3 and 4.

        Where `keep` is no less than the number of tokens, this is the loss of the dense warm-up.
        """
        rows_BT = jnp.any(self.selected_BTS, axis=-1)
        return weighted_mean(divergence(weights_BTS, self.scores_BTS, self.selected_BTS), rows_BT)


class Question(NamedTuple):
    """What queries ask of indexed keys: I heads of J channels, the weight of each head, how many keys they keep."""

    q_BTIJ: Array
    weight_BTI: Array
    keep: int

    def answer(self, seen: Seen, mask: Mask, coords: Coords) -> Selection:
        """The best of the keys that `mask` lets the queries at `coords` see."""
        scores_BTS = index_scores(self.q_BTIJ, seen.records["index"], self.weight_BTI)
        seen_BTS = jnp.broadcast_to(visible(mask, coords, seen.coords), scores_BTS.shape)
        return Selection(scores_BTS, top_k_mask(scores_BTS, seen_BTS, self.keep, seen.coords.index))


class IndexerModule(nn.Module):
    """Parameters `query`, `key`, `key_norm`, `head_weight`; hands out what to ask and the keys to remember [B, T, J].

    What comes in is detached: the indexer learns from its own loss, and nothing else learns from that.
    """

    spec: Indexer

    @nn.compact
    def __call__(self, x_BTD: Array, latent_BTA: Array, coords: Coords) -> tuple[Question, Array]:
        spec = self.spec
        x_BTD, latent_BTA = jax.lax.stop_gradient((x_BTD, latent_BTA))
        query_sizes = {"i": spec.heads, "j": spec.width}
        q_BTIJ = Project("bta,aij->btij", query_sizes, weights=spec.init, name="query")(latent_BTA)
        k_BTJ = Project("btd,dj->btj", {"j": spec.width}, weights=spec.init, name="key")(x_BTD)
        k_BTJ = NormModule(spec.norm, axes="j", name="key_norm")(k_BTJ)
        weight_BTI = Project("btd,di->bti", {"i": spec.heads}, weights=spec.init, name="head_weight")(x_BTD)
        pos = coords.streams(spec.rotary.streams)
        q_BTIJ = rotate(q_BTIJ, pos, spec.rotary)
        k_BTJ = rotate(k_BTJ[:, :, None], pos, spec.rotary)[:, :, 0]
        return Question(q_BTIJ, weight_BTI, spec.keep), k_BTJ
