"""What is compared, and how it looks: a name, a colour, a dash and a mark for each arm, in every chart alike."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from train.verdict.question import SEED, SIZES, Arm, Question, arms_of, cells_over, label, varying
from train.verdict.runs import Result, by

# Okabe & Ito 2008: told apart by the colour-blind too. On a dark page each has a lighter one of the same hue.
LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d1f", "#666666")
DARK = ("#4da3ff", "#ff8c42", "#2ecc9b", "#e39cc5", "#f5b93d", "#8fd3ff", "#c9a94f", "#b0b0b0")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")  # five and eight: forty arms before two look the same
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "star", "pentagon", "hexagram")


class Style(NamedTuple):
    """How an arm looks. Later ones are thinner and broken: an earlier one shows beneath where curves coincide."""

    colour: str
    dash: str
    symbol: str
    width: float

    def line(self, **more: Any) -> dict[str, Any]:
        return {"color": self.colour, "dash": self.dash, "width": self.width, **more}

    def marker(self, **more: Any) -> dict[str, Any]:
        return {"color": self.colour, "symbol": self.symbol, "size": 8, **more}


class Arms:
    """One arm for each combination of some settings, with a name and a look of its own."""

    def __init__(self, results: Sequence[Result], axes: Sequence[str], named: Sequence[Arm] = ()) -> None:
        """named: arms whose names take the place of the values of their own settings."""
        self._axes, self._named = axes, named
        distinct = dict.fromkeys(self.name(result) for result in results)
        widths = np.linspace(3.5, 1.5, len(distinct)).round(2).tolist()
        looks = zip(itertools.cycle(LIGHT), itertools.cycle(DASHES), itertools.cycle(SYMBOLS), strict=False)
        self.styles = {name: Style(*look, width) for name, look, width in zip(distinct, looks, widths, strict=False)}

    def name(self, result: Result) -> str:
        """Like "pre · width 32"."""
        args = result["args"]
        parts = [arm.name for arm in self._named if arm.has(args)]
        return " · ".join([*parts, *(label(axis, args.get(axis)) for axis in self._axes)]) or "all runs"

    def of(self, results: Sequence[Result]) -> dict[str, list[Result]]:
        """Results by arm, in the order of the styles; an arm without results is left out."""
        arms: dict[str, list[Result]] = {name: [] for name in self.styles}
        for result in results:
            arms[self.name(result)].append(result)
        return {name: runs for name, runs in arms.items() if runs}


class Sweep:
    """Results as charts are drawn of them: the arms, and the size they are looked at over, "" where none varies."""

    def __init__(self, results: Sequence[Result], question: Question | None) -> None:
        self.results, self.question = results, question
        cells = [result["args"] for result in results]
        self.swept = varying(cells)
        compared = [name for name in self.swept if name not in TUNED] if question is None else list(question.compare)
        over = self.swept if question is None else cells_over(cells, question)
        free = [name for name in over if name not in (*compared, *TUNED)]
        self.size = "" if question is None else _size_of(free, cells)
        if question is None and "depth" in compared:
            compared.remove("depth")
            self.size = "depth"
        named = [] if question is None else arms_of(cells, question)
        shown = compared if question is None else []
        self.arms = Arms(results, [*shown, *(name for name in free if name != self.size)], named)
        self.place = {id(result): place for place, result in enumerate(results)}

    @property
    def sizes(self) -> list[tuple[Any, list[Result]]]:
        """All results by size, the smallest first."""
        return self.by_size(self.results)

    def by_size(self, runs: Sequence[Result]) -> list[tuple[Any, list[Result]]]:
        """Some results by size, the smallest first; a published model has none of its own, and goes before all."""
        if not self.size:
            return [(None, list(runs))]
        groups = [(size, group) for (size,), group in by(runs, self.size).items()]
        return sorted(groups, key=lambda item: item[0] or 0)

    def called(self, size: Any) -> str:
        """Like "depth 8"."""
        return f"{self.size} {size}" if self.size and size is not None else "all runs"

    def stand(self, width: float) -> tuple[dict[str, Any], dict[tuple[str, Any], float]]:
        """Where the marks of arms stand beside each other: the names of the places on an axis, and the place of each
        arm and size. One place a size, as wide as `width`; where none varies, one an arm."""
        names, sizes = list(self.arms.styles), [size for size, _ in self.sizes]
        if not self.size:
            return categories(names), {(name, None): float(k) for k, name in enumerate(names)}
        step = width / max(len(names), 4)
        places = {(name, size): at + step * (k - (len(names) - 1) / 2) for at, size in enumerate(sizes)
                  for k, name in enumerate(names)}  # fmt: skip
        return categories([self.called(size) for size in sizes]), places

    @property
    def rates(self) -> list[float]:
        """The learning rates that were tried."""
        return sorted({result["args"]["lr"] for result in self.results})


TUNED = ("lr", SEED)  # chosen for each arm, and paired


def _size_of(names: Sequence[str], cells: Sequence[dict[str, Any]]) -> str:
    """The setting that charts have a panel for each value of: the depth, or else the first other size."""
    sizes = [name for name in names if name in SIZES and all(isinstance(cell.get(name), int) for cell in cells)]
    return "depth" if "depth" in names else sizes[0] if sizes else ""


def categories(names: Sequence[str]) -> dict[str, Any]:
    """An axis of names at 0, 1, 2, beside which marks may stand."""
    ticks = {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": list(names)}
    return {**ticks, "range": [-0.6, len(names) - 0.4], "showgrid": False, "zeroline": False}


def rate(value: float) -> str:
    """A learning rate as it was written: "0.003"."""
    return f"{value:.6g}"
