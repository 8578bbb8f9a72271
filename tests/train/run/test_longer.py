"""Runs that are made longer: bit for bit what they would have been, or a sentence why not."""

import json

import numpy as np
import pytest

from tests.train.run.test_loop import config, kept
from train.errors import UserError
from train.optim.schedule import SCHEDULES
from train.run import loop
from train.run.log import read
from train.run.longer import agreed
from train.run.loop import run

ALIKE = {"constant": 100, "noam": 100, "rsqrt": 100, "wsd": 90, "multistep": 60, "cosine": 20, "linear": 20}


def float_rate(name, step, total, warmup=20, final=0.1):
    """A schedule in Python's own numbers, as a share of lr."""
    rise = min(step / warmup, 1)
    done = min(max((step - warmup) / (total - warmup), 0), 1)
    return {
        "constant": rise,
        "noam": min(step / warmup, (warmup / step) ** 0.5),
        "rsqrt": (warmup / max(step, warmup)) ** 0.5,
        "wsd": rise * (final + (1 - final) * min(max((total - step) / (0.1 * total), 0), 1)),
        "multistep": rise * 0.316 ** ((step > 0.6 * total) + (step > 0.9 * total)),
        "cosine": rise * (final + (1 - final) * 0.5 * (1 + np.cos(np.pi * done))),
        "linear": rise * (final + (1 - final) * (1 - done)),
    }[name]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_longer_run_is_the_same_until_its_rates_differ(tmp_path, name):
    longer = config(tmp_path, schedule=name, steps=200, warmup=20)
    rates = [[float_rate(name, step, total) for step in range(1, 101)] for total in (100, 200)]
    assert agreed(longer, 100) == ALIKE[name]
    np.testing.assert_array_equal(*(each[: ALIKE[name]] for each in rates))
    assert ALIKE[name] == 100 or rates[0][ALIKE[name]] != rates[1][ALIKE[name]]


def test_a_finished_run_is_lengthened_bit_for_bit(tmp_path, monkeypatch):
    """Its decay began after step 9, of which it has a checkpoint; what it did then is not part of the longer run."""
    settings = {"schedule": "wsd", "warmup": 2, "save_every": 3}
    run(config(tmp_path / "longer", **settings, steps=10))
    with monkeypatch.context() as patched:
        patched.setattr(loop, "agreed", lambda *_: 2)
        home = tmp_path / "longer" / "run" / "config.json"
        before = home.read_text()
        with pytest.raises(
            UserError, match=r"cannot be lengthened: it is of 10 steps, and with schedule='wsd' one of 18"
        ):
            run(config(tmp_path / "longer", **settings, steps=18))
        assert home.read_text() == before
    assert run(config(tmp_path / "longer", **settings, steps=18)).outcome == "finished"
    assert json.loads(home.read_text())["settings"]["steps"] == 18
    run(config(tmp_path / "whole", **settings, steps=18))
    assert kept(tmp_path / "longer" / "run") == kept(tmp_path / "whole" / "run")
    logs = [read(tmp_path / name / "run" / "log.jsonl") for name in ("longer", "whole")]
    judged = [{line["step"]: line["val_loss"] for line in log if "val_loss" in line} for log in logs]
    assert judged[0] == judged[1] and list(judged[0]) == [3, 6, 9, 12, 15, 18]
    with pytest.raises(UserError, match="steps is 18 there and 10 here"):
        run(config(tmp_path / "longer", **settings, steps=10))
