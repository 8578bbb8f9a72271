"""What would fit, and what would be fastest: other ways to compute, to cut and to buy, the cheapest first."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from fxformer import sharding
from train.config import Config
from train.plan.estimate import Candidate, Estimate, by_compiler, by_formulas
from train.plan.topology import Topology

MARGIN = 0.9  # of a device's memory, that a candidate may take by formulas before the compiler is asked
USUAL = ("dp", "fsdp", "tp", "fsdp_tp", "fsdp_ep", "fsdp_ep_tp")  # what is looked among where nothing is said
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
        estimate = by_formulas(other)
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
    for other in _cuts(thrifty):
        if (other.rules, other.mesh) != (candidate.rules, candidate.mesh):
            yield f"mesh={other.mesh} and rules={other.rules}", other
    batch = candidate.batch // 2
    while batch:
        for other in _cuts(thrifty.with_batch(batch)):
            yield f"batch={batch}, mesh={other.mesh} and rules={other.rules}", other
        batch //= 2
    for topology in candidate.topology.larger:
        for other in _cuts(replace(thrifty, topology=topology), a_row_each=True):
            said = "" if other.batch == candidate.batch else f", batch={other.batch}"
            yield f"{topology}, mesh={other.mesh} and rules={other.rules}{said}", other


def _cuts(candidate: Candidate, *, a_row_each: bool = False) -> list[Candidate]:
    """The candidate over every usual mesh and preset, the fastest by formulas first. a_row_each: with rows enough for
    the parts that the batch is cut into."""
    found = []
    for rules, mesh in ways(candidate.topology, USUAL):
        rows = max(candidate.batch, sharding.mesh_shape(mesh).get("data", 1)) if a_row_each else candidate.batch
        with suppress(ValueError):  # mesh, batch and model do not fit each other
            found.append(by_formulas(replace(candidate, rules=rules, mesh=mesh).with_batch(rows)))
    return [estimate.candidate for estimate in sorted(found, key=_rank)]


def _halves(config: Config) -> list[int]:
    batch, parts = config.data.batch, config.train.accumulate
    return [each for each in (2 * parts, 4 * parts, 8 * parts) if batch % each == 0]


def ways(topology: Topology, presets: Iterable[str] = sharding.PRESETS) -> list[tuple[str, str]]:
    """(rules, mesh) of presets over every mesh of all devices that they leave no axis of idle."""
    found = []
    for name in presets:
        rules = sharding.PRESETS[name]
        axes = [axis for axis in sharding.MESH_AXES if axis in rules.values()]
        for sizes in _factors(topology.count, len(axes)):
            shape = dict(zip(axes, sizes, strict=True))
            idle = {axis for axis, size in shape.items() if size == 1}
            if idle <= ({"data"} if "fsdp" not in name and "ep" not in name and len(axes) > 1 else set()):
                found.append((name, ",".join(f"{axis}={size}" for axis, size in shape.items() if axis not in idle)))
            elif topology.count == 1 and name == "dp":
                found.append((name, "data=1"))
    return found


def _factors(count: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to write a count as a product of so many numbers."""
    if parts == 1:
        yield (count,)
        return
    for first in range(1, count + 1):
        if count % first == 0:
            yield from ((first, *rest) for rest in _factors(count // first, parts - 1))


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
