"""One plan: memory on a device, work, exchange and time of a program; by the compiler where there is one."""

import re
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

import fxformer as fx
from fxformer import accounting, sharding
from fxformer.layers.context import Execution
from fxformer.ops.attend import NAIVE_KEYS
from fxformer.ops.splash import LEAST
from train.config import Config
from train.plan.closed import Step, Work, decoding_work, pieces_of, training_work
from train.plan.hlo import Cost, cost_of
from train.plan.lint import lint
from train.plan.programs import Decoding, Program, decoding, training
from train.plan.topology import Topology, compiles, mesh_of
from train.step import recipe_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What is planned: a configuration on devices, cut in some way. how: of decoding; None is a training step.

    remat: whether blocks are computed again in the backward pass; None is what `train run` does.
    """

    config: Config
    topology: Topology
    mesh: str
    rules: str
    how: Decoding | None = None
    remat: bool | None = None

    @property
    def spec(self) -> fx.Transformer:
        """The model."""
        return self.config.spec()

    @property
    def batch(self) -> int:
        """Rows of all devices together."""
        return self.config.data.batch if self.how is None else self.how.batch

    @property
    def execution(self) -> Execution:
        """How a training step is computed."""
        execution = recipe_of(self.config).execution
        return execution if self.remat is None else replace(execution, remat=self.remat)

    @property
    def cut(self) -> sharding.Rules:
        """The rules by name."""
        return sharding.preset(self.rules)

    def program(self) -> Program:
        """What would run. Raises ValueError where mesh, batch and model do not fit each other."""
        mesh = mesh_of(self.topology, self.mesh)
        if self.how is None:
            return training(self.config, mesh, self.cut, self.execution)
        return decoding(self.spec, self.how, mesh, self.cut, jnp.dtype(self.config.train.dtype))

    def with_batch(self, batch: int) -> "Candidate":
        """The same of as many rows."""
        if self.how is not None:
            return replace(self, how=replace(self.how, batch=batch))
        return replace(self, config=self.config.with_settings({"batch": batch, "accumulate": 1}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What came of it, on one device. source: "compiler" or "closed forms".

    memory: bytes by what takes them. used: all of it; available: what the device has. arguments: bytes of what stands
    between runs, as the compiler lays it out or as shapes say. refused: did the compiler say that it does not fit?
    flops: by the accounting of the library, `masked` and `causal`, and of the compiled program. bytes: to and from
    memory. collectives: kind -> (times, bytes sent). seconds: "compute", "memory" and "links", each as if it were all
    there is. idle: share of the time that stages of a pipeline wait, computing what nobody reads: it is in `flops`.
    lint: faults of the cut, a sentence each.
    """

    candidate: Candidate
    source: str
    memory: dict[str, float]
    used: float
    refused: bool
    flops: dict[str, float]
    bytes: float
    collectives: dict[str, tuple[float, float]]
    seconds: dict[str, float]
    arguments: float
    idle: float
    open_loops: int = 0
    lint: tuple[str, ...] = ()

    @property
    def available(self) -> float:
        """Bytes of one device."""
        return self.candidate.topology.chip.memory

    @property
    def fits(self) -> bool:
        """Whether the device holds it."""
        return not self.refused and self.used <= self.available

    @property
    def bound(self) -> str:
        """What takes longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])

    @property
    def time(self) -> float:
        """Seconds of one run if all three go on at once and nothing else does: no run is faster."""
        return self.seconds[self.bound]

    @property
    def tokens_per_second(self) -> float:
        """Of all devices together, at best."""
        candidate = self.candidate
        tokens = candidate.batch * (1 if candidate.how else candidate.config.data.length)
        return tokens / self.time


def by_formulas(candidate: Candidate) -> Estimate:
    """The estimate without a compiler. Raises ValueError where mesh, batch and model do not fit each other."""
    program = candidate.program()
    work, memory = _work_of(candidate, program), _arguments(program)
    memory |= {"temporaries": work.temporaries - memory.get("gradients", 0.0)}
    cost = Cost(work.flops, work.bytes, {str(i): each for i, each in enumerate(work.collectives)})
    return _estimate(candidate, "closed forms", memory, cost, program, arguments=_held(program))


def by_compiler(candidate: Candidate) -> Estimate:
    """What the TPU's own compiler says. Raises ValueError where mesh, batch and model do not fit each other."""
    if not compiles(candidate.topology):
        raise ValueError(f"nothing here compiles for {candidate.topology}; pip install fxformer[plan] has it for TPUs")
    program = candidate.program()
    lowered = program.lower()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if (used := wanted(str(error))) is None:
            raise
        work, memory = _work_of(candidate, program), _arguments(program)
        memory |= {"temporaries": used - sum(memory.values())}
        cost = Cost(work.flops, work.bytes, {str(i): each for i, each in enumerate(work.collectives)})
        return _estimate(candidate, "compiler", memory, cost, program, arguments=_held(program), refused=True)
    memory, analysis, text = _arguments(program), compiled.memory_analysis(), compiled.as_text()
    assert analysis is not None and text is not None, "the TPU's compiler says both"
    temporaries = analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    memory |= {
        "temporaries": temporaries - memory.get("gradients", 0.0),
        "program": analysis.generated_code_size_in_bytes,
    }
    estimate = _estimate(
        candidate, "compiler", memory, cost_of(text), program, arguments=analysis.argument_size_in_bytes
    )
    return replace(estimate, lint=lint(program, text, estimate.available, candidate.spec.embed.width))


UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def wanted(refusal: str) -> float | None:
    """Bytes that a program would take of which the compiler says that it does not fit; None of another refusal."""
    sizes = [r"Used ([\d.]+)([KMGT]?) of", r"required for [\w ]+\(([\d.]+)([KMGT]?)\) exceeds"]
    found = next((found for size in sizes if (found := re.search(size, refusal))), None)
    return float(found[1]) * UNITS[found[2]] if found and "RESOURCE_EXHAUSTED" in refusal else None


def _arguments(program: Program) -> dict[str, float]:
    """Bytes of what stands between runs, and of gradients, which stand beside parameters while there are some."""
    memory: dict[str, float] = {name: float(program.bytes(name)) for name in program.parts if name != "experts"}
    return memory | ({"gradients": memory["parameters"]} if "optimizer" in memory else {})


def _held(program: Program) -> float:
    return float(sum(program.bytes(name) for name in program.parts if name != "experts"))


def _work_of(candidate: Candidate, program: Program) -> Work:
    if candidate.how is not None:
        how, held = candidate.how, float(program.bytes("parameters"))
        pieces = pieces_of(program.mesh, program.rules)
        return decoding_work(candidate.spec, how.batch, how.length, held, float(program.bytes("cache")), pieces)
    return training_work(_step_of(candidate, program))


def _step_of(candidate: Candidate, program: Program) -> Step:
    config, pieces = candidate.config, pieces_of(program.mesh, program.rules)
    return Step(
        spec=candidate.spec,
        batch=config.data.batch,
        length=config.data.length,
        parts=config.train.accumulate,
        remat=candidate.execution.remat,
        itemsize=jnp.dtype(config.train.dtype).itemsize,
        naive=LEAST - 1 if candidate.topology.chip.compiled else NAIVE_KEYS,  # those that are compiled for are TPUs
        held=float(program.bytes("parameters")),
        stays=float(program.bytes("experts")) if pieces.experts > 1 else 0.0,
        moments=float(program.bytes("optimizer")),
        pieces=pieces,
    )


def _estimate(
    candidate: Candidate,
    source: str,
    memory: dict[str, float],
    cost: Cost,
    program: Program,
    *,
    arguments: float,
    refused: bool = False,
) -> Estimate:
    chip, config, how = candidate.topology.chip, candidate.config, candidate.how
    length = config.data.length if how is None else how.length
    tokens = 3 * config.tokens_a_step if how is None else how.batch  # a training step is three forward passes
    ours = {
        name: accounting.flops(candidate.spec, length, causal=causal) * tokens / candidate.topology.count
        for name, causal in (("masked", False), ("causal", True))
    }
    return Estimate(
        candidate=candidate,
        source=source,
        memory=memory,
        used=sum(memory.values()),
        refused=refused,
        flops={**ours, "program": cost.flops},
        bytes=cost.bytes,
        collectives=cost.by_kind(),
        seconds={
            "compute": cost.flops / chip.flops,
            "memory": cost.bytes / chip.bandwidth,
            "links": sum(each.sent for each in cost.collectives.values()) / chip.link,
        },
        arguments=arguments,
        idle=0.0 if how is not None else 1 - 1 / _step_of(candidate, program).busy,
        open_loops=cost.open_loops,
    )


def as_data(estimate: Estimate) -> dict[str, Any]:
    """The estimate as JSON has it: bytes, FLOPs and seconds of one device."""
    candidate = estimate.candidate
    return {
        "topology": str(candidate.topology),
        "devices": candidate.topology.count,
        "mesh": candidate.mesh,
        "rules": candidate.rules,
        "batch": candidate.batch,
        "length": candidate.config.data.length if candidate.how is None else candidate.how.length,
        "program": "training step" if candidate.how is None else "decoding step",
        "remat": candidate.how is None and candidate.execution.remat,
        "source": estimate.source,
        "fits": estimate.fits,
        "memory": {**estimate.memory, "used": estimate.used, "available": estimate.available},
        "flops": estimate.flops,
        "bytes": estimate.bytes,
        "collectives": {
            kind: {"times": times, "bytes_sent": sent} for kind, (times, sent) in estimate.collectives.items()
        },
        "seconds": {**estimate.seconds, "at_least": estimate.time, "bound": estimate.bound},
        "tokens_per_second": estimate.tokens_per_second,
        "idle": estimate.idle,
        "open_loops": estimate.open_loops,
        "lint": list(estimate.lint),
    }
