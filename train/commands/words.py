"""The application that commands belong to, and arguments that several of them take."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from tyro.conf import Positional, UseAppendAction, arg
from tyro.constructors import PrimitiveConstructorSpec
from tyro.extras import SubcommandApp

Command = TypeVar("Command", bound=Callable[..., int])


def _of(kind: type[int] | type[float], said: str, metavar: str) -> PrimitiveConstructorSpec[Any]:
    """How a number is read from the command line: what is none is said in words."""

    def read(words: list[str]) -> int | float:
        try:
            return kind(words[0])
        except ValueError:
            raise ValueError(f"{words[0]!r} is no {said}") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, kind),
        str_from_instance=lambda value: [str(value)],
    )


Whole = Annotated[int, _of(int, "whole number", "INT")]
Number = Annotated[float, _of(float, "number", "FLOAT")]
MaybeWhole = Annotated[int | None, _of(int, "whole number", "INT")]
MaybeNumber = Annotated[float | None, _of(float, "number", "FLOAT")]

ConfigFile = Annotated[Positional[Path], arg(help="TOML file of the run or sweep")]
RunFolder = Annotated[Positional[Path], arg(help="folder of a run or sweep, like runs/norm_by_depth")]
SweepFolder = Annotated[Positional[Path], arg(help="folder of a sweep, like runs/norm_by_depth")]
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


class Commands:
    """The commands by their names."""

    def __init__(self) -> None:
        self._app = SubcommandApp()
        self.names: list[str] = []

    def command(self, function: Command) -> Command:
        """A decorator: this function is a command, of its own name."""
        self.names.append(function.__name__)
        self._app.command(function)
        return function

    def cli(self, *, prog: str | None = None, description: str | None = None, args: list[str] | None = None) -> int:
        """Run the command that the words of the command line, or `args`, begin with, and return its exit code."""
        return self._app.cli(prog=prog, description=description, args=args)


app = Commands()
