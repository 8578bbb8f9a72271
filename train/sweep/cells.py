"""The cells of a sweep, and groups of them: those of one structure, which one compiled program serves."""

from dataclasses import dataclass

from fxformer import accounting
from train.config import Config
from train.step import Recipe
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
