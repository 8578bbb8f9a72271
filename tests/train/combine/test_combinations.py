"""Covering arrays meet every pair; a model that is tried passes, and one that breaks a law does not."""

import random
from itertools import product
from pathlib import Path

import jax
import pytest

import fxformer as fx
from train.combine import combinations, trial
from train.combine.combinations import AXES, attempt, batch_of, refusal, spec_of
from train.combine.covering import covering, met_by, pairs
from train.commands.models import combine
from train.objectives import OBJECTIVES

SMALL = {"a": ("0", "1", "2", "3"), "b": ("0", "1", "2"), "c": ("0", "1"), "d": ("0", "1", "2", "3", "4")}


def apart(row):
    """Excludes (a=3, b=2) whatever the rest is, and c=1 where both a and d are not 0: a third value is to blame."""
    if row["a"] == "3" and row["b"] == "2":
        return "a and b"
    return "a, c and d" if row["c"] == "1" and row["a"] != "0" and row["d"] != "0" else None


@pytest.mark.parametrize("refuse", [lambda row: None, apart])
def test_each_pair_is_met_by_an_accepted_row_where_there_is_one(refuse):
    rows, refused = covering(SMALL, refuse)
    every = [dict(zip(SMALL, values, strict=True)) for values in product(*SMALL.values())]
    possible = {pair for row in every if refuse(row) is None for pair in met_by(row)}
    assert all(refuse(row) is None for row in rows)
    assert {pair for row in rows for pair in met_by(row)} == possible
    assert set(refused) == set(pairs(SMALL)) - possible
    assert all(refuse(row) and set(pair) <= set(row.items()) for pair, row in refused.items())


def test_an_array_is_the_same_each_time_and_small():
    """20 pairs of the two longest axes need 20 rows; all four axes together, 120 rows, take little more."""
    assert covering(SMALL, apart) == covering(SMALL, apart)
    rows, _ = covering(SMALL, lambda row: None)
    assert 20 <= len(rows) <= 24


def test_pairs_are_of_two_axes():
    sizes = [len(values) for values in SMALL.values()]
    assert len(set(pairs(SMALL))) == (sum(sizes) ** 2 - sum(size**2 for size in sizes)) // 2


@pytest.fixture(scope="module")
def array():
    return covering(AXES, refusal)


def test_choices_are_those_of_the_tables():
    assert set(AXES["objective"]) == set(OBJECTIVES)
    chosen = {"position", "attention", "mask", "norm", "placement", "ffn", "gate", "talking_heads", "objective"}
    assert set(AXES) == chosen | {"value_residual", "layer_scale", "memory_tokens"}
    assert sum(len(values) for values in AXES.values()) == len({(axis, v) for axis in AXES for v in AXES[axis]})


def test_what_is_refused_is_refused_beside_any_other_choice(array):
    """By one sentence; and each choice is accepted beside some others."""
    rows, refused = array
    rng = random.Random(0)
    for pair in refused:
        for _ in range(10):
            sentence = refusal({**{axis: rng.choice(values) for axis, values in AXES.items()}, **dict(pair)})
            assert sentence and "\n" not in sentence
    assert {choice for row in rows for choice in row.items()} == {(axis, v) for axis in AXES for v in AXES[axis]}


def test_the_guide_says_how_many_there_are(array):
    rows, refused = array
    total = sum(1 for _ in pairs(AXES))
    page = (Path(__file__).parents[3] / "docs" / "library.md").read_text(encoding="utf8")
    assert f"{total}: {total - len(refused)} met in {len(rows)} models, {len(refused)} refused" in page


ROW = {
    "position": "rotary",
    "attention": "gqa",
    "mask": "causal",
    "norm": "rms",
    "placement": "pre",
    "ffn": "mlp",
    "gate": "none",
    "talking_heads": "none",
    "value_residual": None,
    "layer_scale": None,
    "memory_tokens": 0,
    "objective": "causal",
}
TRIED = {  # what each objective adds to a model, and what cannot be cached
    "encoder": {"objective": "span_corruption", "placement": "dual", "position": "t5"},
    "pooler": {"objective": "sentence_order", "mask": "full", "norm": "dyt"},
    "mtp": {"objective": "multi_token", "norm": "batch", "placement": "rezero"},
    "two streams": {"objective": "blank_infilling", "mask": "prefix", "position": "rotary-2d"},
}
CACHED = {"cached = uncached", "ragged rows are alone", "the future is unseen"}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIED)
def test_a_combination_learns_decodes_and_obeys(name):
    outcome = attempt(ROW | TRIED[name])
    assert not outcome.failures
    found = {finding.name for finding in outcome.findings}
    assert (found >= CACHED) == (outcome.uncached is None) == (name in ("encoder", "two streams"))
    assert ("the source is seen" in found) == (name == "encoder")
    assert found >= {"a step lowers the loss", "execution changes nothing", "the past is seen"}


def test_a_step_that_climbs_is_noticed(monkeypatch):
    spec = spec_of(ROW)
    monkeypatch.setattr(trial, "SHARE", -trial.SHARE)
    *_, step = trial.learning(spec, fx.init(spec, jax.random.key(0)), batch_of("causal"))
    assert step.name == "a step lowers the loss" and step.deviation > 1


@pytest.mark.slow
def test_the_command_counts_and_fails_where_something_failed(monkeypatch, capsys):
    few = {axis: (value,) for axis, value in ROW.items()}
    axes = few | {"attention": ("gqa", "mla"), "position": ("rotary", "none"), "norm": ("batch",)}
    monkeypatch.setattr(combinations, "AXES", axes)
    assert combine() == 0
    text = capsys.readouterr().out
    assert "combinations      3 tried, 0 of them failed" in text
    assert "pairs of choices  89: 88 met, 1 refused" in text
    assert '    1  attention="mla" compares a rotated part of every key; use position="rotary"' in text
    assert "    3  norm 'batch' mixes all tokens of a batch" in text
    monkeypatch.setattr(trial, "SHARE", -trial.SHARE)
    assert combine() == 1
    assert capsys.readouterr().out.count("FAILED a step lowers the loss: 1.0e+00 > 1.0e+00 in position=") == 3
