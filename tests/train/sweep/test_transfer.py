"""The command that says where the best rate goes: refused before the first step, told from what a sweep gives."""

import json
import math
import sys

import pytest

from train import cli
from train.run import devices
from train.sweep import transfer as room

TEXT = """[model]
heads = 2
depth = 1
[data]
task = "copy"
length = 12
batch = 4
validation = 4
[train]
steps = 2
base_width = 16
[grid.product]
parametrization = ["standard", "mup"]
width = WIDTHS
lr = RATES
seed = [0, 1, 2]
"""


@pytest.fixture
def written(tmp_path):
    """A sweep of these widths and rates, in a folder of its own."""

    def write(widths, rates):
        file = tmp_path / "small.toml"
        file.write_text(TEXT.replace("WIDTHS", str(widths)).replace("RATES", str(rates)))
        (tmp_path / "small").mkdir(exist_ok=True)
        return str(file), "--set", f"out={tmp_path}"

    return write


def planted(config):
    """Losses whose best rate falls as 1 / width, and not under muP; as `ablate` would return them."""
    cells = [config.with_settings(cell) for cell in config.cells]

    def loss(cell):
        best = 4e-3 * (1 if cell.train.parametrization == "mup" else 16 / cell.model["width"])
        return math.log2(cell.train.lr / best) ** 2 + cell.train.seed

    return [{"args": cell.settings(), "val_loss": loss(cell), "initial_loss": None} for cell in cells]


def called(monkeypatch, *words):
    monkeypatch.setattr(devices, "use_host_devices", lambda count: None)
    monkeypatch.setattr(devices, "keep_compiled", lambda out: None)
    monkeypatch.setattr(sys, "argv", ["train", "transfer", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_the_command_tells_what_moves_and_what_stays(written, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(room, "ablate", planted)
    words = written([16, 32, 64], [1e-3 * 2**step for step in range(-3, 4)])
    assert called(monkeypatch, *words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  from 16 to 64: -2.00 [-2.00, -2.00] steps: moves by more than one step" in lines
    assert "  from 16 to 64: +0.00 [+0.00, +0.00] steps: stays within one step" in lines
    assert (tmp_path / "small" / "transfer-width.html").stat().st_size < 3e6
    assert called(monkeypatch, *words, "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert [each["best"][-1]["rate"] for each in told] == pytest.approx([1e-3, 4e-3])


def test_a_grid_that_says_no_place_is_refused_before_the_first_step(written, monkeypatch, capsys):
    def started(config):
        raise AssertionError("it was run")

    monkeypatch.setattr(room, "ablate", started)
    assert called(monkeypatch, *written([16, 32], [1e-3, 2e-3, 8e-3])) == 2
    assert "rates are 2 to 4 times the ones before; give an evenly spaced grid" in capsys.readouterr().err
