"""Killed at any moment, and two at once: nothing that was done is lost, and one folder has one that works in it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.train.killed import MOMENTS
from train.run.checkpoint import Checkpoints
from train.run.log import read
from train.step import State
from train.sweep.results import Results


def run_left(folder):
    """Losses and validation losses by step, and the bytes of the last checkpoint."""
    lines = [(line["step"], line.get("loss"), line.get("val_loss")) for line in read(folder / "run" / "log.jsonl")]
    like = State(np.zeros((), np.int32), {"w": np.zeros(64, np.float32)}, {"m": np.zeros(64, np.float32)})
    with Checkpoints(folder / "run" / "checkpoints", keep=2) as checkpoints:
        return lines, [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(checkpoints.restore(like))]


OUTER = ("seconds", "seconds_a_step", "provenance")


def sweep_left(folder):
    """All results, but for how long they took, and at which state of the source."""
    results = Results(folder / "sweep" / "results.jsonl")
    return [{name: value for name, value in r.items() if name not in OUTER} for r in results.in_order()]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What `killed` says of runs and sweeps; their programs are compiled once for all tests."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.train.killed", str(tmp_path_factory.mktemp("killed"))],
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir},
        stdout=subprocess.PIPE, text=True, timeout=900,
    )  # fmt: skip
    assert ended.returncode == 0
    return json.loads(ended.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "left"),
    [("train", run_left), ("sweep", sweep_left), ("race", sweep_left)],
    ids=["run", "sweep", "race"],
)
def test_killed_at_20_moments_it_goes_on_to_the_same_bits(told, work, left):
    whole, *others = (left(Path(folder)) for folder in told[work]["folders"])
    assert MOMENTS == 20 and len(others) > 1
    assert len(whole) > 1 and all(other == whole for other in others)


@pytest.mark.slow
def test_a_kill_costs_the_two_groups_at_work_a_chunk_each_at_most(told):
    """Each chunk is kept before the next one; what was done before it is not done again."""
    whole, *killed, _ = ((Path(folder) / "sweep" / "chunks").stat().st_size for folder in told["race"]["folders"])
    assert whole >= 50  # rung by rung, groups of 10 chunks, of which some end before
    assert len(killed) * whole <= sum(killed) <= len(killed) * whole + 2 * MOMENTS
    assert not list((Path(told["race"]["folders"][1]) / "sweep").glob("at_work"))


@pytest.mark.slow
@pytest.mark.parametrize("work", ["train", "sweep"])
def test_a_second_one_in_a_folder_is_told_who_works_there(told, work):
    said = told[work]
    assert (said["code"], said["done"]) == (2, 0)
    used = rf"is being used by process {said['first']} on \S+ since \S+; wait for it, or choose another name or run.out"
    assert re.search(used, said["said"])
