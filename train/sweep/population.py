"""K replicas of one structure in one program: they differ in numbers only, and each ends as it would alone.

A plan turns a function of one replica into a function of all of them, `population(alive, *arguments)`:

    loop   one replica after another, each a dispatch of the same small program
    vmap   one batched program: fills an accelerator that tiny models leave idle
    shard  one replica at a time on each device: on a CPU, one a core; the number of replicas must be `fill`ed

alive: bool [K]. What loop and shard say of a replica that is not alive is zeros, and takes no time; vmap computes all.
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
Population = Callable[..., Tree]  # (alive, *arguments of a replica, stacked)


def _compiled(replica: Replica) -> Replica:
    """At level 1 of LLVM on a CPU: small models run as fast as at level 3, compiled in two thirds of the time."""
    level = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}
    return jax.jit(replica, compiler_options=level)


def loop(replica: Replica) -> Population:
    """One after another."""
    alone = _compiled(replica)

    def population(alive: np.ndarray, *arguments: Tree) -> Tree:
        results = {k: alone(*jax.tree.map(lambda leaf: leaf[k], arguments)) for k in np.flatnonzero(alive).tolist()}  # noqa: B023
        nothing = jax.tree.map(jnp.zeros_like, next(iter(results.values())))
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(results.get(k, nothing) for k in range(len(alive))))

    return population


def vmap(replica: Replica) -> Population:
    """All at once on one device."""
    batched = _compiled(jax.vmap(replica))
    return lambda alive, *arguments: batched(*arguments)


def shard(replica: Replica) -> Population:
    """The population axis cut over the devices; inside each, one replica after another."""
    mesh = Mesh(np.array(jax.devices()), ("population",))
    cut = PartitionSpec("population")
    home = NamedSharding(mesh, cut)
    alone = jax.jit(replica)  # it is traced once, for its shapes and for its work

    def if_alive(alive: jax.Array, *arguments: Tree) -> Tree:
        shapes = jax.eval_shape(alone, *arguments)
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.cond(alive, alone, lambda *_: nothing, *arguments)

    def in_turn(alive: jax.Array, *arguments: Tree) -> Tree:
        return jax.lax.map(lambda each: if_alive(*each), (alive, *arguments))

    everywhere = _compiled(jax.shard_map(in_turn, mesh=mesh, in_specs=cut, out_specs=cut, check_vma=False))
    # Put there before, whether they come from the host, one device or all: for each of these it would compile anew.
    return lambda *arguments: everywhere(*jax.device_put(arguments, home))


def once(replica: Replica) -> Replica:
    """All at once, by a program that is compiled in a third of the time, to run slowly: for what runs once."""
    return jax.jit(jax.vmap(replica), compiler_options={"xla_backend_optimization_level": 0})


def fill(replicas: Sequence[Any]) -> list[Any]:
    """The replicas, the last one repeated until every device has equally many: `shard` takes no other number."""
    return [*replicas, *[replicas[-1]] * (-len(replicas) % len(jax.devices()))]


PLANS: dict[str, Callable[[Replica], Population]] = {"loop": loop, "vmap": vmap, "shard": shard}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How populations run here, and why. seconds: a step and replica. compilation: seconds to compile what was timed,
    None where nobody looked."""

    name: str
    reason: str
    seconds: float
    devices: int
    compilation: float | None = None

    def __call__(self, replica: Replica) -> Population:
        return PLANS[self.name](replica)


def choose_plan(replica: Replica, arguments: Sequence[Tree], *, repeats: int = 3) -> Plan:
    """Time one call of `replica` on the stacked `arguments` under every plan that can run here; take the fastest."""
    names = [name for name in PLANS if name != "shard" or len(jax.devices()) > 1]
    count = jax.tree.leaves(arguments)[0].shape[0]
    times = {name: _time(PLANS[name](replica), arguments, repeats) for name in names}
    milliseconds = {name: seconds * 1000 / count for name, (_, seconds) in times.items()}
    best = min(milliseconds, key=milliseconds.__getitem__)
    timings = ", ".join(f"{name} {milliseconds[name]:.2f}" for name in names)
    devices = jax.devices()
    return Plan(
        name=best,
        seconds=milliseconds[best] / 1000,
        devices=len(jax.devices()),
        compilation=times[best][0],
        reason=f"{best} is fastest for {count} replicas on {len(devices)} {devices[0].platform} device(s): "
        f"{timings} ms a step and replica",
    )


def _time(population: Population, arguments: Sequence[Tree], repeats: int) -> tuple[float, float]:
    """Seconds that a call takes more the first time, and later."""
    arguments = (np.ones(len(jax.tree.leaves(arguments)[0]), bool), *arguments)
    begin = time.perf_counter()
    jax.block_until_ready(population(*arguments))
    first = time.perf_counter() - begin
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(population(*arguments))
        seconds.append(time.perf_counter() - begin)
    later = float(np.median(seconds))
    return max(0.0, first - later), later


def in_chunks(step: Replica) -> Replica:
    """`step(numbers, state, tokens)` over the leading axis of tokens: (the last state, all metrics stacked)."""

    def steps(numbers: Tree, state: Tree, tokens: Tree) -> tuple[Tree, Tree]:
        return jax.lax.scan(partial(step, numbers), state, tokens)

    return steps
