"""Counts in words."""

from train.verdict.number import number_of


def test_one_is_no_plural():
    assert [number_of(count, "seed") for count in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]
