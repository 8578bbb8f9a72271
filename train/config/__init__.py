"""Settings and grids, as data: what a run is, and which runs a sweep has.

Imports data, objectives, optim and errors.

    config   what a configuration is          values   what a setting may hold
    read     how TOML and --set become one    fit      which objective a model can be trained with
    grid     the algebra of sweeps            sample   cells drawn from ranges
    edit     grids changed by a command       ask      the question that a grid is asked
    match    sizes that make arms equal
"""

from train.config.config import Config, defaults
from train.config.edit import Edits
from train.config.read import load

__all__ = ["Config", "Edits", "defaults", "load"]
