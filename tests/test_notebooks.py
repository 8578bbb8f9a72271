"""Notebooks: each is the page of Python beside it, executed, with pictures; and it runs again from the top."""

import resource

import nbformat
import pytest

jupytext = pytest.importorskip("jupytext")
from notebooks.__main__ import PAGES, SECONDS, executed  # noqa: E402

IDS = [page.stem for page in PAGES]
LARGEST = 300_000  # bytes


def pictures(book):
    """How many pictures each cell shows."""
    shown = [[out for out in cell.get("outputs", []) if "image/svg+xml" in out.get("data", {})] for cell in book.cells]
    return [len(each) for each in shown]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_a_notebook_is_in_step_with_its_source(page):
    """`python -m notebooks` makes it again."""
    source, book = jupytext.read(page), nbformat.read(page.with_suffix(".ipynb"), as_version=4)
    assert [(cell.cell_type, cell.source) for cell in source.cells] == [(c.cell_type, c.source) for c in book.cells]
    assert all(out.output_type != "error" for cell in book.cells for out in cell.get("outputs", []))
    assert sum(pictures(book)) >= 2 and page.with_suffix(".ipynb").stat().st_size < LARGEST
    nbformat.validate(book)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_a_notebook_runs_and_shows_its_pictures(page):
    before = seconds_of_children()
    book = executed(page)
    assert pictures(book) == pictures(nbformat.read(page.with_suffix(".ipynb"), as_version=4))
    assert seconds_of_children() - before < 2 * SECONDS, "a minute on two cores"


def seconds_of_children():
    """How long processors have worked for the processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_there_are_lessons():
    assert {"masks", "positions", "cache", "norms", "experts", "notes"} <= set(IDS)
