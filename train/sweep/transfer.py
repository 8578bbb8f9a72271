"""A sweep over rates and sizes, and where the best rate goes: `ablate`, and an answer."""

from train.config import Config
from train.errors import UserError, user_input
from train.sweep.ablate import ablate
from train.sweep.cells import cells_of
from train.verdict.runs import Result
from train.verdict.transfer import SIZES, Transfer, transfers


def transfer(config: Config) -> tuple[list[Result], list[list[Transfer]]]:
    """All results, and the best rates of each arm across the widths, and across the depths, that the grid varies.

    Raises UserError before the first step where the grid varies neither, or has rates that say no place.
    """
    corpus = config.corpus()
    planned: list[Result] = [
        {"args": cell.config.settings(), "val_loss": 0.0, "initial_loss": None} for cell in cells_of(config, corpus)
    ]
    varied = [name for name in SIZES if len({run["args"][name] for run in planned}) > 1]
    if not varied:
        raise UserError("the grid has one width and one depth; give 2 or more of either")
    with user_input():
        for across in varied:
            transfers(planned, across)  # of equal losses: what it refuses is the grid
    results = ablate(config)
    return results, [transfers(results, across) for across in varied]
