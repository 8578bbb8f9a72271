"""What a setting may hold: every number has a range, checked before anything is built from it."""

import math
import typing

import numpy as np
import pytest

from train.config import Config
from train.config.config import NAMES, SECTIONS
from train.config.values import RANGES, check_number
from train.errors import UserError, user_input


def numbers():
    """Settings that hold a number, by name."""
    for settings in SECTIONS.values():
        for name, kind in settings.items():
            kinds = typing.get_args(kind) or (kind,)
            if {int, float} & set(kinds):
                yield name, int in kinds


def test_every_number_has_a_range_and_every_range_a_number():
    assert {name for name, _ in numbers()} == RANGES.keys()
    assert RANGES.keys() <= NAMES.keys()


@pytest.mark.parametrize(("name", "whole"), sorted(numbers()))
def test_a_number_outside_of_its_range_is_refused_through_every_door(name, whole):
    least, most = RANGES[name]
    beyond = [least - 1, most + 1, 2**63, 10**400] if whole else [-2 * most - 1, 2 * most, 10**400, math.inf, math.nan]
    for value in beyond:
        with (
            pytest.raises(UserError, match=f"^{name}=.*(out of range; use .* to |not finite)") as refused,
            user_input(),
        ):
            Config(name="x").with_settings({name: value})
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 200
    check_number(name, least), check_number(name, most)


@pytest.mark.parametrize(("name", "whole"), sorted(numbers()))
def test_a_number_is_the_same_in_float32(name, whole):
    """A number that is written is not 0, 1 or infinite where it is computed with."""
    if whole:
        least, most = RANGES[name]
        assert np.int64(np.int32(most) if name != "seed" else np.uint32(most)) == most and least == int(least)
        return
    least, most = (np.float32(bound) for bound in RANGES[name])
    assert np.isfinite(most) and (float(least), float(most)) == RANGES[name]
    with pytest.raises(ValueError, match=r"is 0 in float32; use 0, or 1.175494e-38 or more|out of range"):
        check_number(name, 1e-46)


def test_sizes_that_int32_cannot_count_together_are_refused():
    with pytest.raises(ValueError, match=r"batch=4096 of length=1048576 are 4294967296 tokens; use 2147"):
        Config(name="x").with_settings({"batch": 4096, "length": 2**20})
    with pytest.raises(ValueError, match=r"watch=2147483647 of length=64 are"):
        Config(name="x").with_settings({"watch": 2**31 - 1})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"path": ""}, "path is empty; give a name, or . for the current folder"),
        ({"out": ""}, "out is empty"),
        ({"path": "a\0b"}, r"path='a\x00b' has control characters"),
        ({"out": "a\nb"}, r"out='a\nb' has control characters"),
        ({"out": "a\udcff"}, r"out='a\udcff' is not UTF-8; give another text"),
        ({"mesh": "data=99999"}, "mesh='data=99999' takes more devices than there are; use 4096 or fewer"),
        ({"mesh": "data=1\x7f"}, "mesh="),
        ({"rules": "ddp"}, "rules='ddp' is unknown; did you mean 'dp'?"),
        ({"path": ["a"]}, "path=['a'] is not a name"),
        ({"lr": list(range(99))}, "lr=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16... is not a number"),
    ],
    ids=str,
)
def test_a_text_that_names_nothing_is_refused(settings, sentence):
    with pytest.raises(ValueError) as refused:
        Config(name="x").with_settings(settings)
    assert str(refused.value).startswith(sentence) and "\n" not in str(refused.value)


def test_the_name_of_a_run_is_a_name():
    for name, sentence in (("a\nb", "control characters"), ("\udcff", "not UTF-8"), ("", "empty")):
        with pytest.raises(ValueError, match=f"name.*{sentence}"):
            Config(name=name)
