"""The command's reading of a sweep: rungs by compute, rates of each, and what is withheld; nothing is trained."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from train.commands import sweeps
from train.config import load
from train.errors import UserError
from train.run import devices
from train.sweep.ladder import as_data, question_of_ladder, read_ladder, table
from train.verdict.outcome import WORKED

GAIN = 1.25


@pytest.fixture(scope="module")
def asked():
    config = load("configs/ladder.toml")
    return config, question_of_ladder(config)


def results(config, *, best=None, fails=()):
    """Rotary needs 1 / GAIN of the compute. best: the best rate by width, of which 1e-2 is that of all others."""
    records = []
    for cell in config.cells:
        args = config.flat() | cell
        rotary = args["position"] == "rotary"
        flops = 1e9 * args["width"] ** 2 * args["steps"]
        step = abs(np.log(args["lr"] / (best or {}).get((args["position"], args["width"]), 1e-2)))
        noise = 3e-3 * np.random.default_rng([args["seed"], args["width"], rotary]).normal()
        law = 1.5 + 1.2 * ((GAIN if rotary else 1.0) * flops / 2.56e13) ** -0.3
        works = (args["position"], args["width"], args["seed"]) not in fails
        records.append({"args": args, "flops": flops, "initial_loss": 5.6, "val_loss": law + 0.05 * step + noise,
                        "outcome": WORKED[0] if works else "stuck"})  # fmt: skip
    return records


def test_the_gain_of_a_planted_law_is_stated_with_its_interval(asked):
    config, question = asked
    ladder = read_ladder(results(config), question)
    (worth,) = ladder.worths
    assert worth.gain.factor.low < GAIN < worth.gain.factor.high < 1.2 * worth.gain.factor.low
    assert worth.sentence.startswith("rotary: 1.2") and worth.sentence.endswith("] of learned")
    assert [rung.size for rung in ladder.rungs["rotary"]] == [f"width {w}" for w in (16, 24, 32, 48)]
    assert ladder.laws["rotary"].exponent.low < 0.3 < ladder.laws["rotary"].exponent.high
    said = "\n".join(table(ladder))
    assert "rotary: L = E + A C^-a with E 1." in said and worth.sentence in said
    assert as_data(ladder)["gains"][0]["gain"] == list(worth.gain.factor)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"best": {("rotary", 24): 3e-2}}, "rotary has no interior optimum: the best rate, 0.03, is the largest tried "
         "at rung 2 (width 24)"),
        ({"best": {("learned", 16): 3e-3}}, "learned has no interior optimum: the best rate, 0.003, is the least tried "
         "at rung 1 (width 16)"),
        ({"fails": [("rotary", 48, 1)]}, "rotary has 1 of 3 runs at the best rate did not work at rung 4 (width 48)"),
    ],
)  # fmt: skip
def test_a_gain_is_withheld_where_a_rung_does_not_show_what_an_arm_can_do(asked, changed, sentence):
    config, question = asked
    ladder = read_ladder(results(config, **changed), question)
    (worth,) = ladder.worths
    assert worth.gain is None and sentence in worth.sentence
    assert len(ladder.laws) == 1  # of the other arm


def test_what_is_no_ladder_is_refused_before_training(asked):
    config, _ = asked
    few = replace(config, cells=[cell for cell in config.cells if cell["width"] < 48])
    with pytest.raises(UserError, match=r"learned has 3 sizes \(width\); a ladder needs 4 or more"):
        question_of_ladder(few)
    lone = replace(config, cells=[cell for cell in config.cells if cell["seed"] == 0])
    with pytest.raises(UserError, match="between seeds, and there is 1; use 2 or more"):
        question_of_ladder(lone)
    bare = replace(config, question=None, cells=[cell for cell in config.cells if cell["width"] == 16])
    with pytest.raises(UserError, match="is no ladder: it compares nothing across sizes"):
        question_of_ladder(bare)


def test_the_command_prints_the_gain_and_keeps_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("train.sweep.ablate.ablate", lambda config: results(config))
    monkeypatch.setattr(devices, "use_host_devices", lambda count: None)
    monkeypatch.setattr(devices, "keep_compiled", lambda out: None)
    (tmp_path / "ladder").mkdir()
    assert sweeps.ladder(Path("configs/ladder.toml"), (f"out={tmp_path}",)) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["arm", "rung", "size", "FLOPs", "best", "rate", "loss", "seeds"]
    assert said[-2].startswith("rotary: 1.2") and said[-1] == f"written: {tmp_path / 'ladder' / 'ladder.json'}"
    (gain,) = json.loads((tmp_path / "ladder" / "ladder.json").read_text())["gains"]
    assert gain["gain"][1] < GAIN < gain["gain"][2] and gain["withheld"] == ""
