"""The laboratory, in rooms; each says what it is for, and import-linter keeps the floors. From the ground up:

errors · objectives · optim · verdict    what is predicted; how parameters move; what may be claimed
files · trackers                         what is left on the disk: read, written, locked; and who else is told
data · report                            which bytes; how results are shown
config                                   settings and grids, as data
step · combine                           one update, pure; every pair of choices
run · plan                               one model: loop, checkpoints, log, progress, signals; what it would take
sweep                                    many models: cells, groups, populations
reproduce                                published results, run again
commands                                 arguments in words, and what is printed
cli                                      the command line, and what becomes of errors
"""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {  # modules of version 0.1 that had other places, which answer until the next version
    "synthetic": "data.synthetic", "optimizer": "optim.optimizer", "schedule": "optim.schedule",
    "signature": "optim.signature", "grid": "config.grid", "loop": "run.loop", "layout": "run.layout",
    "checkpoint": "run.checkpoint", "log": "run.log", "progress": "run.progress", "signals": "run.signals",
    "provenance": "run.provenance", "sample": "run.sample", "probe": "run.probe", "ablate": "sweep.ablate",
    "population": "sweep.population", "outcome": "verdict.outcome", "stats": "verdict.stats",
    "figures": "report.charts", "svg": "report.svg", "combinations": "combine.combinations",
    "covering": "combine.covering", "trial": "combine.trial",
}  # fmt: skip


class _Moved(MetaPathFinder, Loader):
    """Finds a module under its old name, with a warning that says the new one."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.removeprefix("train.") in MOVED and name.startswith("train.") else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        now = f"train.{MOVED[spec.name.removeprefix('train.')]}"
        warnings.warn(f"{spec.name} is called {now} now", FutureWarning, stacklevel=2)
        return import_module(now)

    def exec_module(self, module: ModuleType) -> None:
        pass  # it was executed under its own name


if not any(type(finder).__qualname__ == _Moved.__qualname__ for finder in sys.meta_path):
    sys.meta_path.append(_Moved())
