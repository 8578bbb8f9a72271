"""Settings and grids, as data: what a run is, and which runs a sweep has.

Imports data, objectives, optim and errors.
"""

from train.config.config import Config, load

__all__ = ["Config", "load"]
