"""Grids changed at the command line: more seeds and rates for all arms alike, and parts of a grid."""

import pytest

from train.config import Edits, load
from train.errors import UserError

TEXT = """
[model]
width = 16
heads = 2
depth = 1
[data]
task = "copy"
[grid.product]
placement = ["pre", "post"]
depth = [1, 2]
lr = [1e-3, 1e-2, 1e-1]
seed = [3, 4]
[question]
compare = ["placement"]
across = ["depth"]
versus = "pre"
measure = ["loss", "depth reach"]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(TEXT)
    return path


def cells(file, **edits):
    return [tuple(cell.values()) for cell in load(file, (), Edits(**edits)).cells]


BASE = [(p, d, r, s) for p in ("pre", "post") for d in (1, 2) for r in (1e-3, 1e-2, 1e-1) for s in (3, 4)]


@pytest.mark.parametrize(("count", "seeds"), [(1, (3,)), (2, (3, 4)), (4, (3, 4, 5, 6))])
def test_each_cell_begins_with_its_own_seeds_and_goes_on_from_the_last(file, count, seeds):
    assert cells(file) == BASE
    assert cells(file, seeds=count) == [(p, d, r, s) for p, d, r, t in BASE if t == 3 for s in seeds]


def test_seeds_of_each_depth_stay_apart(file):
    own = "{ chain = [{ product = { depth = [1], seed = [0, 1] } }, { product = { depth = [2], seed = [10] } }] }"
    file.write_text(f"[grid.product]\nlr = [1e-3]\nof = [{own}]\n")
    found = {(cell["depth"], cell["seed"]) for cell in load(file, (), Edits(seeds=3)).cells}
    assert found == {(1, 0), (1, 1), (1, 2), (2, 10), (2, 11), (2, 12)}


def test_seeds_may_be_asked_for_where_the_grid_has_none(file):
    file.write_text(TEXT.replace("seed = [3, 4]", ""))
    assert len(cells(file, seeds=5)) == 60


def test_more_rates_are_given_to_all_arms_and_none_twice(file):
    more = cells(file, add_rates="3e-4,0.01")
    assert more[:24] == BASE
    assert more[24:] == [(p, d, s, 3e-4) for p in ("pre", "post") for d in (1, 2) for s in (3, 4)]


@pytest.mark.parametrize(
    ("edits", "kept"),
    [
        ({"only": ("placement=pre,post",)}, lambda p, d, r, s: True),
        ({"only": ("depth=2", "lr=1e-2,0.1")}, lambda p, d, r, s: d == 2 and r > 1e-3),
        ({"exclude": ("depth=2",)}, lambda p, d, r, s: d == 1),
        ({"exclude": ("train.seed=3", "lr=0.1"), "only": ("depth=1",)},
         lambda p, d, r, s: d == 1 and s == 4 and r < 0.1),
    ],
)  # fmt: skip
def test_a_part_of_the_grid(file, edits, kept):
    assert cells(file, **edits) == [cell for cell in BASE if kept(*cell)]


def test_a_part_is_asked_what_it_can_answer(file):
    """One depth has nothing to pool over and no reach; one rate is the same for all."""
    shallow = load(file, (), Edits(only=("depth=1",))).question
    assert (shallow.across, shallow.measure, shallow.versus) == ((), ("loss",), "pre")
    fixed = load(file, (), Edits(only=("lr=1e-2",))).question
    assert (fixed.tune, fixed.at) == ((), "the same rate")


@pytest.mark.parametrize(
    ("edits", "sentence"),
    [
        ({"seeds": 0}, "seeds=0 is no number of seeds; use 1 to 10000"),
        ({"seeds": 9999}, "a grid of 119988 cells is too large"),
        ({"add_rates": "1e-4;3e-4"}, "--add-rates has '1e-4;3e-4', which is no number; write rates like 1e-4,3e-4"),
        ({"add_rates": "-1"}, "lr=-1.0 is out of range"),
        ({"add_rates": "nan"}, "lr=nan is not finite"),
        ({"only": ("placement",)}, "--only 'placement' has no value; write --only name=value"),
        ({"only": ("placment=pre",)}, "setting='placment' is unknown; did you mean 'placement'"),
        ({"only": ("placement=res",)}, "--only placement=res is the value of no cell; placement is pre, post"),
        ({"exclude": ("norm=layer",)}, "--exclude norm=layer is the value of no cell; norm is rms"),
        ({"exclude": ("depth=1,2",)}, "--only and --exclude leave no cell of the grid"),
        ({"only": ("placement=pre",)}, "--only and --exclude leave nothing of what is asked: placement is compared"),
    ],
)  # fmt: skip
def test_edits_that_are_none(file, edits, sentence):
    with pytest.raises(UserError) as refused:
        cells(file, **edits)
    assert str(refused.value).startswith(sentence) and "\n" not in str(refused.value)
