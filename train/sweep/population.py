"""K replicas of one structure in one program: they differ in numbers only, and each ends as it would alone.

A plan turns a function of one replica into a function of all of them:

    loop   one replica after another, each a dispatch of the same small program
    vmap   one batched program: fills an accelerator that tiny models leave idle
    shard  one replica at a time on each device: on a CPU, one a core; the number of replicas must be `fill`ed

A replica that diverges computes with non-finite numbers at the same speed, and touches no other.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Tree = Any
Replica = Callable[..., Tree]


def loop(replica: Replica) -> Replica:
    """One after another."""
    alone = jax.jit(replica)

    def population(*arguments: Tree) -> Tree:
        count = jax.tree.leaves(arguments)[0].shape[0]
        results = [alone(*jax.tree.map(lambda leaf: leaf[k], arguments)) for k in range(count)]  # noqa: B023
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

    return population


def vmap(replica: Replica) -> Replica:
    """All at once on one device."""
    return jax.jit(jax.vmap(replica))


def shard(replica: Replica) -> Replica:
    """The population axis cut over the devices; inside each, one replica after another."""
    devices = jax.devices()
    mesh = Mesh(np.array(devices), ("population",))
    cut = PartitionSpec("population")

    def in_turn(*arguments: Tree) -> Tree:
        return jax.lax.map(lambda each: replica(*each), arguments)

    everywhere = NamedSharding(mesh, cut)
    return jax.jit(
        jax.shard_map(in_turn, mesh=mesh, in_specs=cut, out_specs=cut, check_vma=False),
        in_shardings=everywhere,
        out_shardings=everywhere,
    )


def fill(replicas: Sequence[Any]) -> list[Any]:
    """The replicas, the last one repeated until every device has equally many: `shard` takes no other number."""
    return [*replicas, *[replicas[-1]] * (-len(replicas) % len(jax.devices()))]


PLANS: dict[str, Callable[[Replica], Replica]] = {"loop": loop, "vmap": vmap, "shard": shard}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How populations run here, and why."""

    name: str
    reason: str
    seconds: float  # a step and replica
    devices: int

    def __call__(self, replica: Replica) -> Replica:
        return PLANS[self.name](replica)


def choose_plan(replica: Replica, arguments: Sequence[Tree], *, repeats: int = 3) -> Plan:
    """Time one call of `replica` on the stacked `arguments` under every plan that can run here; take the fastest."""
    names = [name for name in PLANS if name != "shard" or len(jax.devices()) > 1]
    count = jax.tree.leaves(arguments)[0].shape[0]
    milliseconds = {name: _time(PLANS[name](replica), arguments, repeats) * 1000 / count for name in names}
    best = min(milliseconds, key=milliseconds.__getitem__)
    timings = ", ".join(f"{name} {milliseconds[name]:.2f}" for name in names)
    devices = jax.devices()
    return Plan(
        name=best,
        seconds=milliseconds[best] / 1000,
        devices=len(jax.devices()),
        reason=f"{best} is fastest for {count} replicas on {len(devices)} {devices[0].platform} device(s): "
        f"{timings} ms a step and replica",
    )


def _time(population: Replica, arguments: Sequence[Tree], repeats: int) -> float:
    jax.block_until_ready(population(*arguments))
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(population(*arguments))
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def in_chunks(step: Replica) -> Replica:
    """`step(numbers, state, tokens)` over the leading axis of tokens: (the last state, all metrics stacked)."""

    def steps(numbers: Tree, state: Tree, tokens: Tree) -> tuple[Tree, Tree]:
        return jax.lax.scan(partial(step, numbers), state, tokens)

    return steps
