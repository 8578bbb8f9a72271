"""The application that commands belong to, and arguments that several of them take."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, UseAppendAction, arg

ConfigFile = Annotated[Positional[Path], arg(help="TOML file of the run or sweep")]
RunFolder = Annotated[Positional[Path], arg(help="folder of a run or sweep, like runs/norm_by_depth")]
Settings = Annotated[
    UseAppendAction[tuple[str, ...]],
    arg(name="set", metavar="NAME=VALUE", help="change a setting, like lr=1e-3 or data.path=book.txt; may be repeated"),
]
Cells = Annotated[
    UseAppendAction[tuple[str, ...]],
    arg(metavar="NAME=VALUES", help="cells of the grid, like depth=2,4 or placement=pre; may be repeated"),
]
Resources = Annotated[
    UseAppendAction[tuple[str, ...]],
    arg(name="resource", metavar="NAME=VALUE", help="of each worker that is launched, like gpus=1; may be repeated"),
]
app = tyro.extras.SubcommandApp()
