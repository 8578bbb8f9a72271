"""Each room of the laboratory says what it is for and what it may import, and has its tests; see import-linter too."""

from importlib import import_module
from pathlib import Path

import pytest

import train

ROOMS = sorted(path.parent.name for path in Path(train.__file__).parent.glob("*/__init__.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for_and_what_it_may_import(room):
    what, imports = (import_module(f"train.{room}").__doc__ or "").strip().split("\n\n")[:2]
    assert what.endswith(".") and "mport" in imports


def test_every_room_stands_on_a_floor():
    floors = {word for line in train.__doc__.splitlines()[2:] for word in line.split("  ")[0].split(" · ")}
    assert floors >= {*ROOMS, "errors", "step", "cli"}


def test_tests_mirror_the_rooms():
    assert {path.parent.name for path in Path(__file__).parent.glob("*/__init__.py")} == set(ROOMS)
