"""Settings and grids, as data: what a run is, and which runs a sweep has.

Imports data, objectives, optim and errors.

    config   what a configuration is          values   what a setting may hold
    read     how TOML and --set become one    fit      which objective a model can be trained with
    grid     the algebra of sweeps
"""

from train.config.config import Config
from train.config.read import load

__all__ = ["Config", "load"]
