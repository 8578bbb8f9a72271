"""Which learning rates an arm can use, and how runs ended at each of them."""

from collections import Counter

from train.report.arms import Sweep, categories, rate
from train.report.charts.chart import Chart, Mark, Panel, Plot, add_marks, log_rates, titled
from train.verdict.cells import alone, estimate_of
from train.verdict.number import number_of
from train.verdict.outcome import OUTCOMES
from train.verdict.runs import by

# Worked to diverged; a pattern beside each colour, so that none is needed to tell them apart.
LOOKS = {
    "worked": ("#009e73", ""),
    "slow": ("#56b4e9", "."),
    "spiked": ("#cc79a7", "+"),
    "stuck": ("#e69f00", "/"),
    "diverged": ("#d55e00", "x"),
}
BAR = 0.9  # of the room of a cell
assert LOOKS.keys() == {*OUTCOMES}


def usable(sweep: Sweep) -> Chart | str:
    """The largest usable learning rate against the size: mean over seeds in octaves, with its interval."""
    if len(sweep.rates) < 2:
        return f"Only one learning rate was tried, {rate(sweep.rates[0])}."
    (axis, places), plot, said = sweep.stand(0.3), Plot(), []
    for name, runs in sweep.arms.of(sweep.results).items():
        marks = []
        for size, own in sweep.by_size(runs):
            cell = alone("largest rate", own, own, ("lr",))
            readings = list(cell.first.values())
            if len(readings) > 1:
                estimate = estimate_of([cell], [1.0])
                (low, high), mean = (2**end for end in estimate.interval()), 2**estimate.value
                bound = any(reading.bound for reading in readings)
                text = f"{name}<br>{sweep.called(size)}: works up to {mean:.2g} [{low:.2g}, {high:.2g}]"
                text += f", n = {len(readings)}" + "<br>some seeds end on the edge of the grid: a bound" * bound
                marks.append(Mark(places[name, size], mean, low, high, text, bound))
        if marks:
            add_marks(plot, name, sweep.arms.styles[name], marks)
            said.append(f"{name} {marks[-1].y:.2g}" + " (a bound)" * marks[-1].hollow)
    if not said:
        return "One seed says nothing of how sure a largest usable learning rate is."
    y_axis = {
        **titled("largest usable learning rate"),
        **log_rates(sweep.rates),
        "tickangle": 0,
        "autorange": True,
        "range": None,
    }
    plot.axes(x=axis, y=y_axis)
    where = f" at {sweep.called(sweep.sizes[-1][0])}" if sweep.size else ""
    return Chart(panels=[Panel(place=(), plot=plot)], finding=f"largest usable learning rate{where}: {', '.join(said)}")


def outcomes(sweep: Sweep) -> Chart:
    """How the runs of each arm ended at each learning rate, a panel a size: a bar a cell, as long as its share."""
    panels, names = [], list(sweep.arms.styles)
    for size, group in sweep.sizes:
        plot = Plot()
        arms = sweep.arms.of(group)
        cells = {(name, lr): Counter(r["outcome"] for r in each) for name, runs in arms.items()
                 for (lr,), each in by(runs, "lr").items()}  # fmt: skip
        for outcome, (colour, pattern) in LOOKS.items():
            for name in arms:
                _add_ends(plot, sweep, cells, outcome, name, names, colour, pattern)
        plot.layout["barmode"] = "overlay"
        down = {"range": [len(names) - 0.5, -0.5]}
        plot.axes(x={**titled("learning rate"), **categories([rate(lr) for lr in sweep.rates])},
                  y={**categories(names), **down})  # fmt: skip
        panels.append(Panel(place=(sweep.called(size),), plot=plot))
    counts = Counter(r["outcome"] for r in sweep.results)
    finding = f"of {number_of(len(sweep.results), 'run')} " + ", ".join(f"{counts[o]} {o}" for o in LOOKS if counts[o])
    return Chart(panels=panels, controls=(sweep.size or "runs",), together=True, finding=finding)


def _add_ends(
    plot: Plot,
    sweep: Sweep,
    cells: dict[tuple[str, float], Counter],
    outcome: str,
    name: str,
    names: list[str],
    colour: str,
    pattern: str,
) -> None:
    """The parts of an arm's bars that ended in one way, each after those of the ways before it."""
    base, width, text, hover = [], [], [], []
    before = list(LOOKS)[: list(LOOKS).index(outcome)]
    for k, lr in enumerate(sweep.rates):
        ends = cells.get((name, lr), Counter())
        if not ends[outcome]:
            continue
        base.append(k - BAR / 2 + BAR * sum(ends[o] for o in before) / ends.total())
        width.append(BAR * ends[outcome] / ends.total())
        text.append(str(ends[outcome]))
        every = ", ".join(f"{ends[o]} {o}" for o in LOOKS if ends[o])
        hover.append(f"{name}<br>learning rate {rate(lr)}<br>{every}")
    if width:
        marker = {"color": colour, "line": {"width": 0}, "pattern": {"shape": pattern, "size": 5, "solidity": 0.25}}
        plot.add(
 type="bar",
            orientation="h", y=[names.index(name)] * len(width), x=width, base=base, width=0.8, marker=marker,
            text=text, textposition="inside", insidetextanchor="middle", hovertext=hover, hoverinfo="text",
            meta={"arm": name, "outcome": outcome}, textfont={"color": "#111"},
        )  # fmt: skip
