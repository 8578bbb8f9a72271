"""Reductions of a sweep to numbers, and of numbers to verdicts that say no more than they know.

A result is a record of results.jsonl. A loss is the validation loss in nats per token, capped at the loss at
initialisation: a run that blew up did not learn, and how far it flew says nothing. Wortsman et al. 2023, section 2.
"""

import bisect
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import stats as scipy_stats

from train.verdict.outcome import WORKED
from train.verdict.question import label

Result = Mapping[str, Any]
LEVEL = 0.05  # a claim is made where its corrected p is below
POWER = 0.8  # the chance to see a difference, in estimates of how many seeds it would take
FEWEST_SEEDS = 3


def loss_of(result: Result) -> float:
    """Validation loss, at most the loss at initialisation; null in a record stands for a number that is none."""
    val_loss, cap = result["val_loss"], result["initial_loss"]
    cap = math.inf if cap is None else cap
    return cap if val_loss is None or not math.isfinite(val_loss) else min(val_loss, cap)


def by(results: Sequence[Result], *names: str) -> dict[tuple, list[Result]]:
    """Results grouped by the values of some settings, in order of appearance."""
    groups: dict[tuple, list[Result]] = defaultdict(list)
    for result in results:
        groups[tuple(result["args"].get(name) for name in names)].append(result)
    return dict(groups)


def lr_sensitivity(results: Sequence[Result]) -> float:
    """Mean over the rates of the loss, less the best mean loss of a rate: what a wrong rate costs, in nats.

    Wortsman et al. 2023, section 2.2, on the grid of the sweep.
    """
    means = [np.mean([loss_of(r) for r in group]) for group in by(results, "lr").values()]
    return float(np.mean(means) - np.min(means))


def largest_stable_lr(results: Sequence[Result]) -> float | None:
    """The largest rate at which at least half of the seeds worked, as they did at all smaller ones; None if none is."""
    stable = None
    for (lr,), group in sorted(by(results, "lr").items()):
        if 2 * sum(r["outcome"] in WORKED for r in group) < len(group):
            break
        stable = lr
    return stable


def depth_reach(results: Sequence[Result]) -> int | None:
    """The largest depth up to which at least half of the seeds work at the best rate of the shallowest."""
    depths = sorted(by(results, "depth").items())
    rate = best_lr(depths[0][1])
    reach = None
    for (depth,), group in depths:
        runs = [r for r in group if r["args"]["lr"] == rate]
        if not runs or 2 * sum(r["outcome"] in WORKED for r in runs) < len(runs):
            break
        reach = depth
    return reach


def best_lr(results: Sequence[Result]) -> float:
    """The rate of the least mean loss over seeds."""
    return min(by(results, "lr").items(), key=lambda item: np.mean([loss_of(r) for r in item[1]]))[0][0]


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % interval by Student's t; of one value all three are the value."""
    n, mean = len(values), float(np.mean(values))
    half = scipy_stats.t.ppf(0.975, n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    return mean, mean - half, mean + half


class Slope(NamedTuple):
    """A straight line in log-log, and the standard error of its slope."""

    slope: float
    error: float
    intercept: float


def loglog_slope(x: Sequence[float], y: Sequence[float]) -> Slope:
    """The exponent of y ~ x^slope by least squares on logarithms. Raises ValueError for fewer than 3 points."""
    if len(x) < 3:
        raise ValueError(f"a slope with an error needs 3 points or more, there are {len(x)}")
    fit = scipy_stats.linregress(np.log(x), np.log(y))
    return Slope(float(fit.slope), float(fit.stderr), float(fit.intercept))


class Comparison(NamedTuple):
    """Paired differences a - b: mean, 95 % interval, effect size d_z, number of pairs, p, and seeds needed."""

    difference: float
    low: float
    high: float
    effect: float
    n: int
    p: float
    needed: int | None


def paired_comparison(a: Sequence[float], b: Sequence[float], *, level: float = LEVEL) -> Comparison:
    """Student's paired t. `needed`: pairs that would show this effect at `level` with POWER; None is more than 999."""
    differences = np.asarray(a, float) - np.asarray(b, float)
    n, mean, spread = len(differences), float(np.mean(differences)), float(np.std(differences, ddof=1))
    if spread == 0:
        sure = mean != 0
        effect = math.copysign(math.inf, mean) if sure else 0.0
        return Comparison(mean, mean, mean, effect, n, 0.0 if sure else 1.0, n if sure else None)
    half = scipy_stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n)
    p = float(scipy_stats.ttest_rel(a, b).pvalue)
    effect = mean / spread
    return Comparison(mean, mean - half, mean + half, effect, n, p, pairs_needed(effect, level=level))


def pairs_needed(effect: float, *, level: float = LEVEL) -> int | None:
    """Pairs at which a two-sided paired t test at `level` finds an effect d_z with POWER: noncentral t. Cohen 1988."""

    def power(n: int) -> float:
        critical = scipy_stats.t.ppf(1 - level / 2, n - 1)
        return float(scipy_stats.nct.sf(critical, n - 1, abs(effect) * math.sqrt(n)))

    sizes = range(2, 1000)
    found = bisect.bisect_left(sizes, POWER, key=power)
    return sizes[found] if found < len(sizes) else None


def holm(p_values: Sequence[float]) -> list[float]:
    """p corrected for making several claims at once, in the order given. Holm 1979."""
    order = np.argsort(p_values)
    corrected, largest = np.empty(len(p_values)), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected.tolist()


class Rivals(NamedTuple):
    """Two arms to compare: the settings they differ in, their names, what they share in words, and their runs."""

    axis: str
    first: str
    second: str
    where: str
    a: list[Result]
    b: list[Result]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One claim. axis: what is compared. first, second: its values. where: the settings that both share.

    kind: "claim" where they are separated, "open" where they are not, "withheld" where it would not be fair to say.
    claim: "pre better than post", "not separable at n = 3; …" or "withheld: …". failure: "every run of post is stuck at
    depth 16 (15 of 15)" where one side worked nowhere, else "". comparison: at each side's best rate, None where
    nothing can be compared. p: corrected over the family. outcomes: of all runs of each side.
    """

    axis: str
    first: str
    second: str
    where: str
    kind: str
    claim: str
    failure: str
    comparison: Comparison | None
    p: float | None
    rates: tuple[float, float]
    outcomes: tuple[str, str]

    @property
    def sentence(self) -> str:
        """The claim, and the failure that explains it."""
        return self.claim + (": " if self.kind == "claim" else "; ") * bool(self.failure) + self.failure


def verdicts(results: Sequence[Result], axes: Sequence[str], context: Sequence[str] = ()) -> list[Verdict]:
    """For each two arms that no third one lies between: which is better, at each one's best rate.

    An arm is one combination of the values of `axes`; it lies between two others where it has each value from one of
    them. So arms of a product differ in one setting, and arms that were zipped in all that change together.
    context: settings that are swept but not compared, like depth, equal on both sides. Seeds pair the runs. Holm's
    correction is over all claims that are not withheld, and the seeds needed are those that pass its strictest step.
    """
    rivals = _rivals(results, axes, context)
    reasons = [_reason_to_withhold(each.a, each.b) for each in rivals]
    open_ = [i for i, reason in enumerate(reasons) if reason is None]
    level = LEVEL / max(1, len(open_))
    comparisons = [None if _seeds(each.a, each.b) < 2 else _compare(each.a, each.b, level) for each in rivals]
    corrected = dict(zip(open_, holm([_p(comparisons[i]) for i in open_]), strict=True)) if open_ else {}
    return [_verdict(each, comparisons[i], corrected.get(i), reasons[i]) for i, each in enumerate(rivals)]


def outcomes(results: Sequence[Result]) -> str:
    """How many runs ended how: "9 converged, 6 stuck"."""
    return ", ".join(f"{count} {name}" for name, count in Counter(r["outcome"] for r in results).most_common())


def _rivals(results: Sequence[Result], axes: Sequence[str], context: Sequence[str]) -> list[Rivals]:
    """Pairs of arms of equal context with no arm between them; by what they differ in, then by what they share."""
    found: dict[tuple, list[Rivals]] = {}
    for sizes, group in by(results, *context).items():
        arms = by(group, *axes)
        for (a, first), (b, second) in itertools.combinations(arms.items(), 2):
            differing = [i for i in range(len(axes)) if a[i] != b[i]]
            if any(arm not in (a, b) and arm in arms for arm in itertools.product(*zip(a, b, strict=True))):
                continue
            alike = [(axes[i], a[i]) for i in range(len(axes)) if i not in differing]
            pair = Rivals(
                axis=", ".join(axes[i] for i in differing),
                first=" · ".join(label(axes[i], a[i]) for i in differing),
                second=" · ".join(label(axes[i], b[i]) for i in differing),
                where=", ".join(f"{name} {value}" for name, value in [*alike, *zip(context, sizes, strict=True)]),
                a=first,
                b=second,
            )
            found.setdefault((tuple(differing), tuple(alike)), []).append(pair)
    return [pair for key in sorted(found, key=lambda key: (len(key[0]), key[0])) for pair in found[key]]


def _at_best(results: Sequence[Result]) -> dict[int, float]:
    rate = best_lr(results)
    runs = [r for r in results if r["args"]["lr"] == rate]
    losses = {r["args"]["seed"]: loss_of(r) for r in runs}
    if len(losses) < len(runs):
        raise ValueError(
            f"an arm has {len(runs)} runs of {len(losses)} seeds; name all that is swept, as axes or context"
        )
    return losses


def _seeds(a: Sequence[Result], b: Sequence[Result]) -> int:
    return len(_at_best(a).keys() & _at_best(b).keys())


def _compare(a: Sequence[Result], b: Sequence[Result], level: float) -> Comparison:
    first, second = _at_best(a), _at_best(b)
    seeds = sorted(first.keys() & second.keys())
    return paired_comparison([first[s] for s in seeds], [second[s] for s in seeds], level=level)


def _p(comparison: Comparison | None) -> float:
    assert comparison is not None, "a claim that is not withheld has been compared"
    return comparison.p


def _reason_to_withhold(a: Sequence[Result], b: Sequence[Result]) -> str | None:
    if not any(r["outcome"] in WORKED for r in (*a, *b)):
        return "no run of either worked"
    for side in (a, b):
        rates = sorted({r["args"]["lr"] for r in side})
        if len(rates) < 2:
            return f"only the rate {rates[0]:g} was tried"
        if not any(r["outcome"] in WORKED for r in side):
            continue  # no rate is best where none works: how it failed is the finding
        if best_lr(side) in (rates[0], rates[-1]):
            return f"a best rate, {best_lr(side):g}, lies on the edge of the grid"
    if _seeds(a, b) < FEWEST_SEEDS:
        return f"{_seeds(a, b)} seeds ran, {FEWEST_SEEDS} are needed"
    for budget in ("params", "tokens", "flops"):
        first, second = a[0][budget], b[0][budget]
        if abs(first - second) > BUDGET_TOLERANCE * max(first, second):
            return f"the budgets differ: {first:g} and {second:g} {budget}"
    return None


BUDGET_TOLERANCE = 0.05  # of parameters, tokens and FLOPs: a norm's bias is within it, a wider layer is not


def _verdict(rivals: Rivals, comparison: Comparison | None, p: float | None, reason: str | None) -> Verdict:
    kind, claim = _claim(rivals.first, rivals.second, comparison, p, reason)
    return Verdict(
        axis=rivals.axis,
        first=rivals.first,
        second=rivals.second,
        where=rivals.where,
        kind=kind,
        claim=claim,
        failure=_failure(rivals),
        comparison=comparison,
        p=p,
        rates=(best_lr(rivals.a), best_lr(rivals.b)),
        outcomes=(outcomes(rivals.a), outcomes(rivals.b)),
    )


def _claim(
    first: str, second: str, comparison: Comparison | None, p: float | None, reason: str | None
) -> tuple[str, str]:
    if reason is not None:
        return "withheld", f"withheld: {reason}"
    assert comparison is not None and p is not None
    if p < LEVEL:
        better, worse = (first, second) if comparison.difference < 0 else (second, first)
        return "claim", f"{better} better than {worse}"
    needed = "more than 999" if comparison.needed is None else f"about {comparison.needed}"
    return "open", f"not separable at n = {comparison.n}; {needed} seeds would be needed"


def _failure(rivals: Rivals) -> str:
    """Said where no run of one side worked, and some of the other did."""
    worked = [any(r["outcome"] in WORKED for r in side) for side in (rivals.a, rivals.b)]
    if worked[0] == worked[1]:
        return ""
    name, runs = (rivals.second, rivals.b) if worked[0] else (rivals.first, rivals.a)
    how = " or ".join(dict.fromkeys(r["outcome"] for r in runs))
    at = f" at {rivals.where}" if rivals.where else ""
    return f"every run of {name} is {how}{at} ({len(runs)} of {len(runs)})"
