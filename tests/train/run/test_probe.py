"""Models of all objectives are asked the same question, and none is shown the answer."""

import math
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer import zoo
from train import cli as command_line
from train.config import load
from train.errors import UserError
from train.objectives import OBJECTIVES
from train.run import devices
from train.run.loop import run
from train.run.probe import ASKED, bits_per_byte, holes, probe, question, table

ROOT = Path(__file__).parents[3]
LENGTH, SIZE, ROWS = 21, 4, 3
HOLES = holes(LENGTH, SIZE)
TEXT = np.random.default_rng(0).integers(0, 256, (ROWS, LENGTH), np.int32)
BLIND = ("causal", "multi_token", "prefix")  # to what follows a hole
ASKABLE = [(name, hole) for name in OBJECTIVES for hole in HOLES if hole == "continuation" or name not in BLIND]
CONFIGS = {path.stem: path for path in (ROOT / "configs" / "objectives").glob("*.toml")}


def test_the_hole_is_in_the_middle_or_at_the_end():
    assert HOLES == {"cloze": (8, 12, 21), "continuation": (17, 21, 21)}
    with pytest.raises(ValueError, match="a hole of 9 in rows of 10 bytes leaves nothing before it"):
        holes(10, 9)


def test_every_objective_can_be_asked():
    assert {type(objective) for objective in OBJECTIVES.values()} == set(ASKED)


@pytest.mark.parametrize(("name", "hole"), ASKABLE)
def test_what_is_asked_are_the_bytes_of_the_hole_in_order(name, hole):
    batch = question(name, jnp.asarray(TEXT), HOLES[hole])
    asked = np.asarray(batch.targets)[np.asarray(batch.weights) == 1]
    start, stop, _ = HOLES[hole]
    np.testing.assert_array_equal(asked.reshape(ROWS, SIZE), TEXT[:, start:stop])
    assert set(np.unique(batch.weights)) == {0, 1}


@pytest.mark.parametrize("name", BLIND)
def test_who_sees_only_what_stands_before_says_so(name):
    with pytest.raises(ValueError, match="it sees only what stands before the hole"):
        question(name, jnp.asarray(TEXT), HOLES["cloze"])


def answers(spec, params, name, text, hole):
    """Logits [ROWS, SIZE, V] of each byte of the hole."""
    batch = question(name, jnp.asarray(text), hole)
    reads = {"encoder_tokens": batch.encoder_tokens, "encoder_coords": batch.encoder_coords}
    logits = np.asarray(fx.apply(spec, params, batch.inputs, coords=batch.coords, **reads).logits)
    return logits[np.asarray(batch.weights) == 1].reshape(ROWS, SIZE, -1)


def changed(text, place):
    other = text.copy()
    other[:, place] = (other[:, place] + 1) % 256
    return other


@pytest.mark.parametrize("name", ["masked", "sentence_order", "span_corruption", "blank_infilling", "causal", "prefix"])
def test_a_byte_is_told_from_what_stands_around_it_and_not_from_itself(name):
    """With any byte of the hole changed, those up to it are told as before, exactly; one beside the hole matters."""
    spec = load(CONFIGS[name]).spec()
    params = jax.tree.map(lambda leaf: 2 * leaf, fx.init(spec, jax.random.key(0)))
    for hole in (hole for asked, hole in ASKABLE if asked == name):
        start, stop, length = HOLES[hole]
        told = answers(spec, params, name, TEXT, HOLES[hole])
        for k in range(SIZE):
            other = answers(spec, params, name, changed(TEXT, start + k), HOLES[hole])
            same = [np.array_equal(other[:, i], told[:, i]) for i in range(SIZE)]
            assert same == [i <= k for i in range(SIZE)]
        for place in {start - 1, min(stop, length - 1)} - set(range(start, stop)):
            assert not np.any(answers(spec, params, name, changed(TEXT, place), HOLES[hole])[:, 0] == told[:, 0])


@pytest.mark.parametrize("name", ["causal", "masked"])
def test_a_model_that_knows_nothing_needs_the_bits_of_its_vocabulary(name):
    spec = zoo.toy(width=16, depth=1, heads=2, mask="full" if name == "masked" else "causal", vocab=365)
    nothing = jax.tree.map(jnp.zeros_like, fx.init(spec, jax.random.key(0)))
    batch = question(name, jnp.asarray(TEXT), HOLES["continuation"])
    assert bits_per_byte(spec, nothing, batch, rows=2) == pytest.approx(math.log2(365))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    settings = [f"out={out}", f"path={ROOT / 'README.md'}", "steps=2", "batch=4", "validation=4", "warmup=1"]
    for name in ("causal", "masked"):
        run(load(CONFIGS[name], settings))
    shutil.copytree(out / "causal", out / "other")
    config = out / "other" / "config.json"
    config.write_text(config.read_text().replace("README.md", "Makefile"))
    return out


def test_runs_are_asked_on_their_common_text(runs, monkeypatch, capsys):
    monkeypatch.setattr(devices, "use_host_devices", lambda count: None)
    words = ["train", "probe", str(runs / "causal"), str(runs / "masked"), "--count", "5"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        command_line.main()
    assert not end.value.code
    title, causal, masked, single, reason = capsys.readouterr().out.splitlines()
    assert title.split() == ["run", "objective", "parameters", "steps", "cloze", "continuation"]
    assert causal.split()[:2] == ["causal", "causal"] and causal.split()[-2] == "-"
    assert 4 < float(causal.split()[-1]) < 9 and all(4 < float(bits) < 9 for bits in masked.split()[-2:])
    assert single.startswith("(single bytes)") and 4 < float(single.split()[-1]) < 6
    assert reason == "causal, cloze: it sees only what stands before the hole"


def test_what_cannot_be_compared_is_refused(runs):
    with pytest.raises(UserError, match=r"causal was trained on README.md, other on Makefile"):
        probe([runs / "causal", runs / "other"])
    with pytest.raises(UserError, match="there is no run to ask"):
        probe([])
    with pytest.raises(UserError, match="nowhere does not exist"):
        probe([runs / "nowhere"])
    with pytest.raises(UserError, match="leaves nothing before it"):
        probe([runs / "causal"], length=8, size=8)
    with pytest.raises(UserError, match="is longer than the 96 learned positions"):
        probe([runs / "masked"], length=97)


def test_a_run_that_is_asked_twice_answers_alike(runs):
    first, second = (table(probe([runs / "masked"], count=5)) for _ in range(2))
    assert first == second
