"""Splash attention: the kernel for TPUs that ships with JAX, in `jax.experimental.pallas.ops.tpu.splash_attention`."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType, PartitionSpec

from fxformer.ops.scores import Scores, Terms, seen_of

LANES = 128  # of a TPU
BLOCK = 512  # the most queries and keys that are looked at together; lengths are filled up to whole blocks
LEAST = 1024  # queries and keys from which on it is the default on a TPU
TABLE = 8192**2  # queries x keys up to which it is: a table of 256 MB
WIDTH = 512  # of keys and values up to which it is
KEPT = "splash"  # what is kept for the backward pass, besides the arguments


def splash(q_BTGQK: Array, k_BGSK: Array, v_BGSU: Array, scores: Scores, terms: Terms) -> tuple[Array, None]:
    """Weights that never leave a TPU's chip; blocks of keys that no query of a block sees are skipped.

    Which keys are seen is a table of T x S numbers, shared by all heads, and by all rows that stand at the same places.
    The output and the log-sum-exp of each row are kept for the backward pass, which computes the weights again. On
    other platforms than TPUs the kernel is interpreted, slowly. Raises ValueError where `unsplashed` says why.
    JAX, jax.experimental.pallas.ops.tpu.splash_attention; Dao et al. 2022, algorithms 1 and 4.
    """
    if (why := unsplashed(terms)) is not None:
        raise ValueError(f"kernel='splash' {why}; use kernel='blockwise'")
    return _splash(scores, q_BTGQK, k_BGSK, v_BGSU, terms), None


def unsplashed(terms: Terms) -> str | None:
    """What keeps the splash kernel from computing this, in words; None where it can."""
    if terms.bias is not None:
        return "adds nothing to logits, and a bias is given"
    if terms.key_data is not None:
        return "drops no weights, and a dropout key is given"
    if terms.mixes:
        return "mixes no heads, and a map between them is given"
    return None


def splash_pays(q_BTGQK: Array, k_BGSK: Array, v_BGSU: Array) -> bool:
    """Whether it is the fastest on a TPU: weights are many, the table of what is seen is no burden, widths fit."""
    tokens, seen, width = q_BTGQK.shape[1], k_BGSK.shape[2], max(q_BTGQK.shape[-1], v_BGSU.shape[-1])
    return min(tokens, seen) >= LEAST and tokens * seen <= TABLE and width <= WIDTH


def on_tpu() -> bool:
    """Whether what is traced is for TPUs: the devices of the mesh that is set, and without one those that JAX found."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() == "tpu" if device is None else device.device_kind.startswith("TPU")


@partial(jax.checkpoint, static_argnums=0, policy=jax.checkpoint_policies.save_only_these_names(KEPT))
def _splash(scores: Scores, q_BTGQK: Array, k_BGSK: Array, v_BGSU: Array, terms: Terms) -> Array:
    scale = q_BTGQK.shape[-1] ** -0.5 if scores.scale is None else scores.scale
    scaled_BTGQK = (q_BTGQK.astype(jnp.float32) * scale).astype(q_BTGQK.dtype)
    seen_BTS = seen_of(scores, terms)
    look, mesh = partial(_look, scores.softcap), jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    free = {name: mesh.shape[name] for name, kind in kinds if kind is not AxisType.Manual}
    if free:  # a compiler that cuts programs does not see into kernels
        queries, keys, table = _places(scores.cut, free, q_BTGQK.shape, seen_BTS.shape[0])
        look = jax.shard_map(
            look, in_specs=(queries, keys, keys, table), out_specs=queries, axis_names=set(free), check_vma=False
        )
    y_BTGQU = look(scaled_BTGQK, k_BGSK, v_BGSU, seen_BTS)
    y_BTGQU = jnp.where(jnp.any(seen_BTS, axis=-1)[..., None, None, None], y_BTGQU, 0)
    return y_BTGQU.astype(v_BGSU.dtype)


def _places(
    cut: PartitionSpec, mesh: dict[str, int], shape: tuple[int, ...], rows: int
) -> tuple[PartitionSpec, PartitionSpec, PartitionSpec]:
    """Where queries, keys and values, and the table of what is seen belong; what does not divide stays whole."""
    batch, tokens, groups, queries, _ = shape
    over = dict(zip("bth", cut, strict=False))

    def axis(letter: str, size: int) -> Any:
        name = over.get(letter)
        return name if name in mesh and size % mesh[name] == 0 else None

    b, t, g = axis("b", batch), axis("t", tokens), axis("h", groups)
    q = axis("h", queries) if g is None else None
    return PartitionSpec(b, t, g, q), PartitionSpec(b, g), PartitionSpec(b if rows > 1 else None, t)


def _look(softcap: float | None, q_BTGQK: Array, k_BGSK: Array, v_BGSU: Array, seen_BTS: Array) -> Array:
    """What the queries read, [B, T, G, Q, U], of which those that see nothing read anything."""
    batch, tokens, groups, queries, width = q_BTGQK.shape
    q_BHTK = jnp.moveaxis(q_BTGQK, 1, 3).reshape(batch, groups * queries, tokens, width)
    q_BHTK, k_BGSK, v_BGSU = (_filled(x, 2) for x in (q_BHTK, k_BGSK, v_BGSU))
    table_BTS = _filled(_filled(seen_BTS, 1), 2)
    first_S = jnp.arange(table_BTS.shape[2]) == 0  # for whoever sees nothing, so that no sum of weights is 0
    table_BTS = table_BTS | (~jnp.any(table_BTS, axis=-1, keepdims=True) & first_S)
    shared = table_BTS.shape[0] == 1

    def compute(*arrays: Array, interpret: bool) -> Array:
        row = partial(_row, softcap=softcap, interpret=interpret)
        return jax.vmap(row, in_axes=(0, 0, 0, None if shared else 0))(*arrays)

    arrays = q_BHTK, k_BGSK, v_BGSU, table_BTS[0] if shared else table_BTS
    ways = {"tpu": partial(compute, interpret=False), "default": partial(compute, interpret=True)}
    y_BHTU = jax.lax.platform_dependent(*arrays, **ways)[:, :, :tokens]
    return jnp.moveaxis(y_BHTU.reshape(batch, groups, queries, tokens, -1), 3, 1)


def _filled(x: Array, axis: int) -> Array:
    """An axis filled up with zeros to whole blocks."""
    return jnp.pad(x, [(0, -size % _block(size) if i == axis else 0) for i, size in enumerate(x.shape)])


def _block(length: int) -> int:
    """How many queries or keys are looked at together: all, in whole lanes, up to BLOCK."""
    return min(BLOCK, length + -length % LANES)


def _row(q_HTK: Array, k_GSK: Array, v_GSU: Array, table_TS: Array, *, softcap: float | None, interpret: bool) -> Array:
    """[H, T, U]: one row, as the kernel has it."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as pallas  # takes a second

    q, kv = map(_block, table_TS.shape)
    kernel = pallas.make_splash_mha(
        table_TS[None],
        block_sizes=pallas.BlockSizes(
            block_q=q, block_kv=kv, block_q_dkv=q, block_kv_dkv=kv, block_q_dq=q, block_kv_dq=kv
        ),
        attn_logits_soft_cap=softcap,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=KEPT,
        interpret=interpret,
    )
    kernel.fwd_mask_info = kernel.fwd_mask_info._replace(is_dynamic_mask=None)  # is asked for as a fact, but is traced
    return kernel(q_HTK, k_GSK, v_GSU)
