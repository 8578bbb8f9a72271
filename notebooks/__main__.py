"""python -m notebooks: make each .ipynb again from the .py of its name, executed, with its pictures."""

from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
PAGES = sorted(path for path in HERE.glob("*.py") if not path.name.startswith("_"))
SECONDS = 60  # for one of them


def executed(page: Path) -> nbformat.NotebookNode:
    """The notebook of a page of Python, run from the top; what its cells say stands in it, and when does not."""
    book = jupytext.read(page)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book.metadata = nbformat.NotebookNode({"kernelspec": kernel})
    NotebookClient(book, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(HERE)}}).execute()
    for i, cell in enumerate(book.cells):
        cell.id = f"{page.stem}-{i}"
        cell.metadata = nbformat.NotebookNode()
    return book


if __name__ == "__main__":
    for page in PAGES:
        nbformat.write(executed(page), page.with_suffix(".ipynb"))
        print(page.stem, page.with_suffix(".ipynb").stat().st_size, "bytes")
