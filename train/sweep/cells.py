"""The cells of a sweep, and groups of them: those of one structure, which one compiled program serves."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from fxformer import accounting
from train.config import Config
from train.config.grid import cell_key
from train.config.values import short
from train.data.corpus import Corpus
from train.errors import UserError, user_input
from train.step import Recipe, recipe_of
from train.sweep.population import fill


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a sweep: its resolved settings, the key under which its result is kept, and its place in the grid."""

    config: Config
    key: str
    place: int


@dataclass(frozen=True, slots=True)
class Group:
    """Cells that one compiled program serves. size: how many it takes; it may serve other groups too."""

    recipe: Recipe
    cells: tuple[Cell, ...]
    size: int

    @property
    def config(self) -> Config:
        """Settings that all cells of the group share, and some that they do not: use it for the shared ones."""
        return self.cells[0].config

    @property
    def crew(self) -> list[Cell]:
        """The cells, the last one repeated until they are as many as the program takes."""
        return fill([*self.cells, *[self.cells[-1]] * (self.size - len(self.cells))])

    @property
    def work(self) -> float:
        """FLOPs of training the group, for estimates of time."""
        return len(self.cells) * self.work_of_one

    @property
    def work_of_one(self) -> float:
        """FLOPs of training one of them."""
        return self.config.train.steps * self.flops_a_step

    @property
    def flops_a_step(self) -> float:
        """FLOPs of a step of one of them."""
        return self.config.tokens_a_step * flops_per_token(self.config)


def flops_per_token(config: Config) -> float:
    """FLOPs of training on one token."""
    return 3 * accounting.flops(config.spec(), config.data.length)


def cells_of(config: Config, corpus: Corpus) -> list[Cell]:
    """Every cell of the grid, resolved; two that say the same are one. Raises UserError for one that cannot be."""
    cells: dict[str, Cell] = {}
    for settings in config.cells:
        with user_input():
            resolved = config.cell(settings)
        content = {name: value for name, value in resolved.settings().items() if name != "arm"}
        key = cell_key({**content, "corpus": corpus.sha256})
        cell = cells.setdefault(key, Cell(resolved, key, len(cells)))
        if cell.config.run.arm != resolved.run.arm:
            arms = f"{cell.config.run.arm!r} and {resolved.run.arm!r}"
            raise UserError(f"arms {arms} have the same settings, {short(settings)}; let them differ, or remove one")
    return list(cells.values())


def groups_of(cells: Sequence[Cell], grid: Sequence[Cell] = ()) -> list[Group]:
    """Cells by compiled program: those of equal recipe and number of steps.

    grid: all cells of a race, of which these are a rung. A program then takes as many as run with one seed, so that one
    serves all rungs.
    """
    groups, together = defaultdict(list), Counter((program_of(cell), cell.config.train.seed) for cell in grid)
    for cell in cells:
        groups[program_of(cell)].append(cell)
    cut = []
    for program, members in groups.items():
        size = max((count for (each, _), count in together.items() if each == program), default=len(members))
        cut += [Group(program[0], tuple(members[i : i + size]), size) for i in range(0, len(members), size)]
    return cut


def program_of(cell: Cell) -> tuple[Recipe, int]:
    """What tells one compiled program from another."""
    return recipe_of(cell.config), cell.config.train.steps
