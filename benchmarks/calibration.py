"""Calibration of the verdicts on simulated truth: what may be said, against what is true.

    python -m benchmarks.calibration [--sweeps 1000] [--races 1000]

A shape is a sweep that could be: how losses depend on the rate, how noisy they are, how often arms fail. Each is drawn
many times, with a difference that is known, and goes through the same functions as the records of a real sweep. Beside
them stand the verdicts of the laboratory's first edition: each arm at the rate of its least mean loss over seeds,
failures capped and averaged in, Student's paired t, Holm over the cells.
"""

import argparse
import base64
import math
import zlib
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from train.verdict.cells import of_two
from train.verdict.choice import Choice, Rates
from train.verdict.claims import Claim, claims, draw, effects, levelled
from train.verdict.estimate import LEVEL, Estimate
from train.verdict.measures import Reading, Readings, Side
from train.verdict.outcome import FAILED
from train.verdict.plan import MOST_SEEDS, POWER, plan, seeds_needed
from train.verdict.question import Question
from train.verdict.runs import by, loss_of
from train.verdict.sequential import FIRST

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
WINDOWS = 64
UNIGRAM, INITIAL = 3.25, 5.6


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A sweep that could be. Losses are nats; two arms, `a` and `b`, of which b is worse by `effect` in every cell.

    seeds, cells: how many. own: do cells have seeds of their own, or one set for all? spread: standard deviation over
    seeds of one arm's loss at one rate, of each arm; noisy: how many times larger it is in every fourth cell.
    tails: degrees of freedom of Student's t that noise is drawn from; 0 is the normal distribution. shared: correlation
    of the arms by seed. common: share of the variance that a seed has in all cells. curvature: nats that a rate costs
    which is one octave off, of each arm. fails: chance that a run sticks, of each arm. window: standard deviation over
    windows of a difference.
    """

    name: str
    seeds: int = 5
    cells: int = 4
    own: bool = True
    effect: float = 0.0
    spread: tuple[float, float] = (0.006, 0.006)
    noisy: float = 1.0
    tails: int = 0
    shared: float = 0.47
    common: float = 0.0
    curvature: tuple[float, float] = (0.01, 0.01)
    fails: tuple[float, float] = (0.0, 0.0)
    window: float = 0.015


SHAPES = (
    Shape(name="3 seeds, 1 cell", seeds=3, cells=1),
    Shape(name="3 seeds, 8 cells", seeds=3, cells=8),
    Shape(name="5 seeds, 4 cells"),
    Shape(name="10 seeds, 1 cell", seeds=10, cells=1),
    Shape(name="5 seeds, 20 cells: 40 claims", seeds=5, cells=20),
    Shape(name="one set of seeds for all cells", own=False, common=0.5),
    Shape(name="heavy tails", tails=3),
    Shape(name="heavy tails, 3 seeds, 1 cell", tails=3, seeds=3, cells=1),
    Shape(name="unequal spread", spread=(0.004, 0.02)),
    Shape(name="every fourth cell 4 times as noisy", noisy=4, cells=8),
    Shape(name="one arm fails with 0.1", fails=(0.1, 0.0)),
    Shape(name="one arm fails with 0.3", fails=(0.3, 0.0)),
    Shape(name="one arm fails with 0.1, 3 seeds, 1 cell", fails=(0.1, 0.0), seeds=3, cells=1),
    Shape(name="both fail with 0.3, 10 seeds", fails=(0.3, 0.3), seeds=10, cells=1),
    Shape(name="flat against sharp", curvature=(0.002, 0.08)),
    Shape(name="flat against sharp, noisy", curvature=(0.001, 0.08), spread=(0.02, 0.02)),
    Shape(name="both flat and noisy", curvature=(0.001, 0.001), spread=(0.02, 0.02)),
    Shape(name="both flat and noisy, 3 seeds", curvature=(0.001, 0.001), spread=(0.02, 0.02), seeds=3),
    Shape(name="both flat and noisy, 10 seeds", curvature=(0.001, 0.001), spread=(0.02, 0.02), seeds=10, cells=1),
)


def sweep(shape: Shape, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The records of one sweep of this shape."""
    drawn = []
    difficulty_W = rng.normal(0, 0.4, WINDOWS)
    common = _noise(shape, rng, (shape.seeds, 1, 1))
    octaves = np.log2(np.array(RATES) / 1e-2)
    for cell in range(shape.cells):
        scale = shape.noisy if cell % 4 == 3 else 1.0
        both = _noise(shape, rng, (shape.seeds, 1, len(RATES)))
        alone = _noise(shape, rng, (shape.seeds, 2, len(RATES)))
        noise = math.sqrt(shape.shared) * both + math.sqrt(1 - shape.shared) * alone
        noise = math.sqrt(1 - shape.common) * noise
        noise[:, 1:] += math.sqrt(shape.common) * common
        for arm, name in enumerate("ab"):
            centre_R = 2.5 + 0.05 * cell + arm * shape.effect + shape.curvature[arm] * octaves**2
            beside_W = rng.normal(0, shape.window / 2, WINDOWS)
            own_RSW = rng.normal(0, shape.window / 2, (len(RATES), shape.seeds, WINDOWS))
            loss_RS = centre_R[:, None] + scale * shape.spread[arm] * noise[:, arm].T
            windows_RSW = loss_RS[..., None] + difficulty_W - difficulty_W.mean() + beside_W + own_RSW
            failed_RS = rng.random(loss_RS.shape) < shape.fails[arm]
            windows_RSW[failed_RS] = UNIGRAM
            drawn += _records(name, cell, shape, windows_RSW, failed_RS, centre_R)
    return drawn


def _records(
    arm: str, cell: int, shape: Shape, windows_RSW: np.ndarray, failed_RS: np.ndarray, centre_R: np.ndarray
) -> list[dict[str, Any]]:
    """The records of one arm in one cell, with what no record of a real sweep has: the true loss."""
    fixed = {"initial_loss": INITIAL, "params": 1e5, "tokens": 1e5, "flops": 1e11}
    losses_RS, true_R = windows_RSW.mean(axis=2).tolist(), centre_R.tolist()
    return [
        {
            "args": {"arm": arm, "depth": 2 ** (1 + cell), "lr": lr, "seed": s + shape.own * 100 * cell},
            "outcome": "stuck" if failed else "worked",
            "val_loss": loss,
            "windows": _text(windows_W),
            "true": true,
            **fixed,
        }
        for lr, loss_S, failed_S, windows_SW, true in zip(
            RATES, losses_RS, failed_RS.tolist(), windows_RSW, true_R, strict=True
        )
        for s, (loss, failed, windows_W) in enumerate(zip(loss_S, failed_S, windows_SW, strict=True))
    ]


def _text(losses_W: np.ndarray) -> str:
    """What `unpacked` reads, stored and not compressed: that is most of what a sweep here would cost."""
    return base64.b64encode(zlib.compress(losses_W.astype("<f2").tobytes(), 0)).decode("ascii")


def _noise(shape: Shape, rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    if not shape.tails:
        return rng.normal(size=size)
    return rng.standard_t(shape.tails, size=size) / math.sqrt(shape.tails / (shape.tails - 2))


PILOTS = (
    Shape(name="3 seeds, 4 cells", seeds=3, effect=0.003, window=0.0),
    Shape(name="5 seeds, 1 cell", seeds=5, cells=1, effect=0.005, window=0.0),
    Shape(name="8 seeds, 1 cell", seeds=8, cells=1, effect=0.004, window=0.0),
)


QUESTION = Question(compare=("arm",), across=("depth",), smallest=0.02)
FOUND = 0.02  # nats: the difference that power is told of
Tallies = dict[str, list[float]]


def coverage(shape: Shape, sweeps: int, *, seed: int = 0) -> dict[str, float]:
    """Shares of simulated sweeps: intervals that hold the truth, each alone at 95 %; `false`: sweeps in which one of
    those that are told, at their joint level, does not."""
    rng, told = np.random.default_rng(seed), defaultdict(list)
    for _ in range(sweeps):
        _new(sweep(shape, rng), shape, told)
    return _shares(told)


def _shares(told: Tallies) -> dict[str, float]:
    return {name: float(np.mean(each)) for name, each in told.items()}


def tally(shape: Shape, sweeps: int, *, seed: int = 0) -> dict[str, float]:
    """The same, and beside it how often a difference is found, and what the first edition says of these sweeps."""
    rng, told = np.random.default_rng(seed), defaultdict(list)
    for _ in range(sweeps):
        records = sweep(shape, rng)
        _new(records, shape, told)
        _old(records, shape, told)
        different = replace(shape, effect=FOUND)
        records = sweep(different, rng)
        told["found"].append(any(each.claim.high < 0 for each in effects(draw(records, QUESTION))))
        value_C, _, p_C = _first_edition(records, shape)
        told["old found"].append(any((p_C < LEVEL) & (value_C < 0)))
    return _shares(told)


def _new(records: list[dict[str, Any]], shape: Shape, told: Tallies) -> None:
    true, drawn = chosen_truth(records), draw(records, QUESTION)
    for each in drawn:
        if each.evidence is not None:
            low, high = each.evidence.interval(LEVEL)
            name = "failure" if each.claim.measure == "failure" else each.claim.kind
            told[name].append(low <= truth(each.claim, shape, true) <= high)
            if name == "effect":
                told["best"].append(low <= -shape.effect <= high)
    made = [c for c in levelled(drawn) if c.answer != "withheld"]
    told["false"].append(any(not c.low <= truth(c, shape, true) <= c.high for c in made))


def chosen_truth(records: list[dict[str, Any]]) -> dict[str, float]:
    """The true difference of losses in each cell, by its name, at the rates that each seed was judged at."""
    cells = {}
    for (depth,), group in by(records, "depth").items():
        a, b = by(group, "arm").values()
        told = of_two(_true, [Side(runs, (), ("lr",)) for runs in (a, b)], [Choice(runs, ("lr",)) for runs in (a, b)])
        if len(told.first) > 1:
            cells[f"depth {depth}"] = float(np.mean([told.first[s].value - told.second[s].value for s in told.first]))
    return cells


def _true(side: Side, rates: Rates) -> Readings:
    """The true loss at these rates, of each seed that works there."""
    return {seed: Reading(r["true"]) for seed, r in side.at(rates).items() if r["outcome"] not in FAILED}


def truth(claim: Claim, shape: Shape, cells: dict[str, float]) -> float:
    """The true difference that a claim is about: of losses at the chosen rates, of chances to fail, or of a slope."""
    if claim.measure == "failure":
        return shape.fails[0] - shape.fails[1]
    if claim.kind == "cell":
        return cells[claim.where]
    if claim.kind == "effect":
        return float(np.mean(list(cells.values())))
    return float(np.polyfit([math.log2(int(name.split()[1])) for name in cells], list(cells.values()), 1)[0])


def _old(records: list[dict[str, Any]], shape: Shape, told: Tallies) -> None:
    value_C, half_C, p_C = _first_edition(records, shape)
    told["old cell"] += list(abs(value_C + shape.effect) <= half_C)
    told["old false"].append(any(p_C < LEVEL) and shape.effect == 0)


def _first_edition(records: list[dict[str, Any]], shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Difference, half of its 95 % interval, and Holm's p of each cell [C]."""
    loss_CARN = np.reshape([loss_of(r) for r in records], (shape.cells, 2, len(RATES), shape.seeds))
    best_CA = loss_CARN.mean(axis=3).argmin(axis=2)
    arms_CAN = np.take_along_axis(loss_CARN, best_CA[..., None, None], axis=2)[:, :, 0]
    test = stats.ttest_rel(arms_CAN[:, 0], arms_CAN[:, 1], axis=1)
    low_C, high_C = test.confidence_interval(0.95)
    order_C = np.argsort(test.pvalue)
    p_C = np.empty(shape.cells)
    times_C = shape.cells - np.arange(shape.cells)
    p_C[order_C] = np.minimum(1, np.maximum.accumulate(times_C * test.pvalue[order_C]))
    return (low_C + high_C) / 2, (high_C - low_C) / 2, p_C


def races(shape: Shape, count: int, *, most: int = 20, seed: int = 0) -> float:
    """The share of races between equals that end with a claim: a seed is added, and looked at, until one is made.

    The smallest difference that matters is next to nothing: who is called the same is not called better.
    """
    rng, ended, question = np.random.default_rng(seed), 0, replace(QUESTION, smallest=FOUND / 1000)
    for _ in range(count):
        records = sweep(replace(shape, seeds=most, cells=1), rng)
        for looks, seeds in enumerate(range(3, most + 1)):
            seen = [r for r in records if r["args"]["seed"] % 100 < seeds]
            if any(c.answer == "better" for c in claims(seen, question, looks=looks)):
                ended += 1
                break
    return ended / count


@dataclass(frozen=True)
class Planned:
    """How many seeds were planned for an effect, and how often they find it."""

    effect: float
    seeds: int
    found: float


def planned(effect: float, sweeps: int, *, seed: int = 0) -> Planned:
    """Seeds for one cell by the plan, from a spread that is known, and the share of sweeps that make the claim."""
    shape = Shape(name="", cells=1, window=0.0)
    spread = shape.spread[0] * math.sqrt(2 * (1 - shape.shared))
    known = Estimate(0.0, spread / math.sqrt(1000), 999)
    seeds = seeds_needed(known, 1000, effect, LEVEL * FIRST).likely
    assert seeds is not None
    rng, found = np.random.default_rng(seed), 0
    for _ in range(sweeps):
        records = sweep(replace(shape, seeds=seeds, effect=effect), rng)
        found += any(c.high < 0 for c in claims(records, replace(QUESTION, smallest=effect / 10)))
    return Planned(effect, seeds, found / sweeps)


def detected(shape: Shape, sweeps: int, *, seed: int = 0) -> Planned:
    """Fresh seeds planned from pilots of this shape, for its effect: the median of how many, how often they find it."""
    question = replace(QUESTION, smallest=shape.effect / 10)
    rng, planned, found = np.random.default_rng(seed), [], 0
    for _ in range(sweeps):
        (pilot,) = effects(draw(sweep(shape, rng), question))
        asked = max(shape.effect, pilot.least)
        seeds = plan(pilot.estimate, pilot.seeds, asked, pilot.level, windows=WINDOWS, available=WINDOWS).seeds
        planned.append(max(seeds or MOST_SEEDS, shape.seeds + 1))
        made = claims(sweep(replace(shape, seeds=planned[-1]), rng), question)
        found += any(c.kind == "effect" and c.high < 0 for c in made)
    return Planned(shape.effect, int(np.median(planned)), found / sweeps)


COLUMNS = ("effect", "best", "trend", "cell", "failure", "false", "found", "old cell", "old false", "old found")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sweeps", type=int, default=1000)
    parser.add_argument("--races", type=int, default=1000)
    given = parser.parse_args()
    print(
        f"{given.sweeps} sweeps of each shape. effect, trend, cell, failure: share of 95 % intervals, each alone, that"
    )
    print("hold the true difference at the rates that were chosen; best: an effect's, of that at the truly best rates.")
    print("false: sweeps in which an interval, of all that are told at their joint level, does not.")
    print(f"found: sweeps that claim a difference of {FOUND} nats. old: the first edition, cell by cell.\n")
    print(f"{'shape':42}" + "".join(f"{name:>11}" for name in COLUMNS))
    for shape in SHAPES:
        told = tally(shape, given.sweeps)
        print(f"{shape.name:42}" + "".join(f"{told.get(name, math.nan):>11.3f}" for name in COLUMNS), flush=True)
    print(f"\n{given.races} races between equals, looked at after each of 3 to 20 seeds: share that ends with a claim")
    for shape in (SHAPES[0], replace(SHAPES[0], tails=3), replace(SHAPES[0], fails=(0.1, 0.1))):
        print(f"  tails {shape.tails}, fails {shape.fails}: {races(shape, given.races):.3f}", flush=True)
    print(f"\nseeds planned for an effect with power {POWER}, and how often they find it")
    for effect in (0.004, 0.005, 0.006):
        print(f"  {planned(effect, given.sweeps)}", flush=True)
    print("\nthe same from pilots, which tell a spread by their few seeds")
    for pilot in PILOTS:
        print(f"  {pilot.name}: {detected(pilot, given.sweeps // 2)}", flush=True)


if __name__ == "__main__":
    main()
