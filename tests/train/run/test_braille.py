"""Curves in a terminal: each point is one dot, at its place."""

import numpy as np
import pytest

from train.run.braille import picture


def dots(lines):
    """[rows, columns] of a picture, by the order of dots that Unicode gives Braille patterns (U+2800)."""
    order = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1)]
    rows = np.zeros((4 * len(lines), 2 * len(lines[0])), int)
    for i, line in enumerate(lines):
        for j, letter in enumerate(line):
            for bit, (row, column) in enumerate(order):
                rows[4 * i + row, 2 * j + column] = (ord(letter) - 0x2800) >> bit & 1
    return rows


def test_a_line_down_is_a_diagonal():
    assert np.array_equal(dots(picture([[7, 6, 5, 4, 3, 2, 1, 0]], width=4, height=2)), np.eye(8, dtype=int))


def test_two_curves_share_a_scale_and_a_gap_stays_one():
    told = dots(picture([[3, None, 3, 3], [0, 0, float("nan"), 0]], width=2, height=1))
    assert np.argwhere(told).tolist() == [[0, 0], [0, 2], [0, 3], [3, 0], [3, 1], [3, 3]]


@pytest.mark.parametrize("count", [9, 16, 1000])
def test_of_many_points_a_column_has_the_mean(count):
    told = dots(picture([np.linspace(7, 0, count)], width=4, height=2))
    assert np.array_equal(told.sum(0), np.ones(8)) and np.all(np.diff(told.argmax(0)) >= 0)
    assert told.argmax(0)[[0, -1]].tolist() == [0, 7]


def test_what_is_flat_or_empty_has_a_picture_too():
    assert dots(picture([[2, 2]], width=1, height=1)).sum() == 2
    assert picture([[], [None]], width=3, height=1) == [chr(0x2800) * 3]
