"""How attention weights come from queries and keys: what every kernel is told, and the logits as written."""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from fxformer.coords import Coords
from fxformer.jit import promoting
from fxformer.ops.bias import LogitBias
from fxformer.ops.mask import Causal, Mask, visible
from fxformer.ops.statistic import Largest, Mean, Statistic

SAMPLE = 256  # queries whose logits are looked at for statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How weights come from queries and keys; scale None is 1 / sqrt(K), softcap None leaves logits unbounded.

    dropout: share of the weights that a dropout key zeroes, the rest scaled up. cut: which axes of a mesh cut
    [B, T, H], for a kernel that the compiler cannot cut by itself.
    """

    mask: Mask = Causal()
    scale: float | None = None
    softcap: float | None = None
    dropout: float = 0.0
    cut: PartitionSpec = PartitionSpec()


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Terms:
    """The arrays that decide the weights beside queries and keys.

    q, k: where they stand. bias: added to the logits. selected_BTS: which keys may be seen at all, None all of them.
    mix_logits_HO, mix_weights_OH: maps between heads, before and after the softmax, None for no map.
    key_data: of the dropout key, None for no dropout.
    """

    q: Coords
    k: Coords
    bias: LogitBias | None = None
    selected_BTS: Array | None = None
    mix_logits_HO: Array | None = None
    mix_weights_OH: Array | None = None
    key_data: Array | None = None

    @property
    def mixes(self) -> bool:
        """Whether heads talk."""
        return self.mix_logits_HO is not None or self.mix_weights_OH is not None


def logits(q_BTGQK: Array, k_BGSK: Array, scores: Scores, terms: Terms) -> tuple[Array, Array]:
    """Masked attention logits, float32 [B, G, Q, T, S], and which of them are visible, bool [B, 1, 1, T, S].

    softcap: cap * tanh(logits / cap), before the bias. Gemma Team 2024, section 2. Heads are mixed before both.
    """
    logits_BGQTS = jnp.einsum("btgqk,bgsk->bgqts", q_BTGQK, k_BGSK, preferred_element_type=jnp.float32)
    logits_BGQTS = logits_BGQTS * (q_BTGQK.shape[-1] ** -0.5 if scores.scale is None else scores.scale)
    logits_BGQTS = mixed(logits_BGQTS, terms.mix_logits_HO)
    if scores.softcap is not None:
        logits_BGQTS = scores.softcap * jnp.tanh(logits_BGQTS / scores.softcap)
    if terms.bias is not None:
        bias_BHTS = biased(terms.bias, terms)
        groups = (logits_BGQTS.shape[1], logits_BGQTS.shape[2])
        logits_BGQTS = logits_BGQTS + bias_BHTS.reshape(bias_BHTS.shape[0], *groups, *bias_BHTS.shape[2:])
    seen_B11TS = seen_of(scores, terms)[:, None, None]
    return jnp.where(seen_B11TS, logits_BGQTS, jnp.finfo(jnp.float32).min), seen_B11TS


def seen_of(scores: Scores, terms: Terms) -> Array:
    """Which keys each query sees, bool [B, T, S]; a leading axis of size 1 stands for every row."""
    seen_BTS = visible(scores.mask, terms.q, terms.k)
    return seen_BTS if terms.selected_BTS is None else seen_BTS & terms.selected_BTS


def biased(bias: LogitBias, terms: Terms) -> Array:
    """The logit bias [B, H, T, S]; 0 to and from memory tokens, which are at no distance."""
    bias_BHTS = bias(terms.q.index, terms.k.index)
    for memory_BT, axis in ((terms.q.memory_token, 2), (terms.k.memory_token, 1)):
        if memory_BT is not None:
            bias_BHTS = jnp.where(jnp.expand_dims(memory_BT, (1, 1 + axis)), 0, bias_BHTS)
    return bias_BHTS


def mixed(x_BGQTS: Array, mix_HO: Array | None) -> Array:
    """y_o = sum_h x_h M_ho: each head becomes a mixture of all. Talking heads, Shazeer et al. 2020, section 3."""
    if mix_HO is None:
        return x_BGQTS
    x_BHTS = x_BGQTS.reshape(x_BGQTS.shape[0], -1, *x_BGQTS.shape[3:])
    return jnp.einsum("bhts,ho->bots", x_BHTS, mix_HO.astype(x_BHTS.dtype)).reshape(x_BGQTS.shape)


@promoting()
def logit_stats(q_BTHK: Array, k_BSGK: Array, scores: Scores, terms: Terms) -> dict[str, Statistic]:
    """The largest attention logit, and the mean entropy in nats of the rows that see something.

    Where there are more than SAMPLE queries, every n-th is looked at, so that memory grows with S, not T x S.
    """
    every = math.ceil(q_BTHK.shape[1] / SAMPLE)
    q_BTHK, q, selected_BTS = jax.tree.map(lambda x: x[:, ::every], (q_BTHK, terms.q, terms.selected_BTS))
    terms = replace(terms, q=q, selected_BTS=selected_BTS)
    q_BTGQK = q_BTHK.reshape(*q_BTHK.shape[:2], k_BSGK.shape[2], -1, q_BTHK.shape[-1])
    logits_BGQTS, seen_B11TS = logits(q_BTGQK, jnp.swapaxes(k_BSGK, 1, 2), scores, terms)
    logp_BGQTS = jax.nn.log_softmax(logits_BGQTS, axis=-1)
    entropy_BGQT = -jnp.sum(jnp.where(seen_B11TS, jnp.exp(logp_BGQTS) * logp_BGQTS, 0), axis=-1)
    rows_BGQT = jnp.broadcast_to(jnp.any(seen_B11TS, axis=-1), entropy_BGQT.shape)
    return {
        "logit_max": Largest(jnp.max(logits_BGQTS)),
        "entropy": Mean(jnp.sum(entropy_BGQT * rows_BGQT), jnp.sum(rows_BGQT)),
    }
