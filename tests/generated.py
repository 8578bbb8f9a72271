"""Pages of the guide that are made from the code: `make pages` writes them, and a test says when one is stale."""

from collections.abc import Callable
from pathlib import Path

from fxformer import zoo
from fxformer.commands.describe import COLUMNS, row
from train.config.reference import page as settings

DOCS = Path(__file__).parent.parent / "docs"
MODELS = """# The models

Made by `make pages` from the zoo; `python -m fxformer list` prints it, `python -m fxformer describe NAME` one of them
with its formulas and source. `fx.zoo.get(NAME)` is the published model, exactly; `fx.zoo.tiny(NAME)` its structure at
toy widths.

"""


def models() -> str:
    """The models of the zoo as a Markdown table."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *(row(name, zoo.family_of(name), zoo.get(name)) for name in zoo.names())]
    return MODELS + "".join("| " + " | ".join(cells) + " |\n" for cells in rows)


PAGES: dict[str, Callable[[], str]] = {"settings.md": settings, "models.md": models}


def write() -> None:
    """Write every page."""
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding="utf8")


if __name__ == "__main__":
    write()
