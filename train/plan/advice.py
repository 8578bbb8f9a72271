"""What would fit, and what would be fastest: other ways to compute, to cut and to buy, the cheapest first."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from fxformer import sharding
from train.config import Config
from train.plan.estimate import Candidate, Estimate, by_compiler, by_formulas
from train.plan.topology import Topology

MARGIN = 0.9  # of a device's memory, that a candidate may take by formulas before the compiler is asked
ASKED = 2  # how often the compiler is asked, which takes minutes


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to change, in the words of settings, and what comes of it."""

    words: str
    estimate: Estimate


def remedy(candidate: Candidate, *, ask: bool) -> Remedy | None:
    """The cheapest change that makes it fit by formulas, and where the compiler is asked by its word; None where none
    was found."""
    asked = 0
    for words, other in changes(candidate):
        try:
            estimate = by_formulas(other)
        except ValueError:  # mesh, batch and model do not fit each other
            continue
        if estimate.used > MARGIN * estimate.available:
            continue
        if ask:
            asked += 1
            estimate = by_compiler(other)
        if estimate.fits:
            return Remedy(words, estimate)
        if asked == ASKED:
            return None
    return None


def changes(candidate: Candidate) -> Iterator[tuple[str, Candidate]]:
    """Other ways, the cheapest first: time, then other cuts of the same devices, fewer rows, more devices."""
    thrifty = candidate
    if candidate.how is None:
        if not candidate.execution.remat:
            thrifty = replace(candidate, remat=True)
            yield "remat=true", thrifty
        for parts in _halves(candidate.config):
            words = f"accumulate={parts}" if thrifty is candidate else f"remat=true and accumulate={parts}"
            yield words, replace(thrifty, config=candidate.config.with_settings({"accumulate": parts}))
    for rules, mesh in ways(candidate.topology):
        if (rules, mesh) != (candidate.rules, candidate.mesh):
            yield f"mesh={mesh} and rules={rules}", replace(thrifty, rules=rules, mesh=mesh)
    batch = candidate.batch // 2
    while batch:
        for rules, mesh in ways(candidate.topology):
            yield (
                f"batch={batch}, mesh={mesh} and rules={rules}",
                replace(thrifty, rules=rules, mesh=mesh).with_batch(batch),
            )
        batch //= 2
    for topology in candidate.topology.larger:
        more = replace(thrifty, topology=topology)
        for rules, mesh in ways(topology):
            rows = max(candidate.batch, sharding.mesh_shape(mesh).get("data", 1))
            said = "" if rows == candidate.batch else f", batch={rows}"
            yield (
                f"{topology}, mesh={mesh} and rules={rules}{said}",
                replace(more, rules=rules, mesh=mesh).with_batch(rows),
            )


def _halves(config: Config) -> list[int]:
    batch, parts = config.data.batch, config.train.accumulate
    return [each for each in (2 * parts, 4 * parts, 8 * parts) if batch % each == 0]


def ways(topology: Topology) -> list[tuple[str, str]]:
    """(rules, mesh) of every preset over every mesh of all devices that it leaves no axis of idle."""
    count, found = topology.count, []
    for model in (each for each in range(1, count + 1) if count % each == 0):
        data = count // model
        for name, rules in sharding.PRESETS.items():
            cuts = set(rules.values())
            if ("model" in cuts) == (model > 1) and (name != "dp" or model == 1) and (name != "fsdp_tp" or data > 1):
                sizes = {"data": data, "model": model}
                mesh = ",".join(
                    f"{axis}={sizes[axis]}" for axis in ("data", "model") if axis in cuts and sizes[axis] > 1
                )
                found.append((name, mesh or "data=1"))
    return found


def ranked(candidate: Candidate, cuts: Iterable[tuple[str, str]]) -> tuple[list[Estimate], dict[str, str]]:
    """Plans by formulas of these (rules, mesh), the best first, and why others cannot be, by their words.

    Those that fit come first, by their time, then by the sum of what bounds it; the others by what they take.
    """
    found, refused = [], {}
    for rules, mesh in cuts:
        try:
            found.append(by_formulas(replace(candidate, rules=rules, mesh=mesh)))
        except ValueError as error:
            refused[f"{mesh} {rules}"] = str(error)
    return sorted(found, key=_rank), refused


def _rank(estimate: Estimate) -> tuple[bool, float, float]:
    if not estimate.fits:
        return True, estimate.used, 0.0
    return False, estimate.time, sum(estimate.seconds.values())
