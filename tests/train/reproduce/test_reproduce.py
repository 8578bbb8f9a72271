"""The command: what it prints, what it writes, and what it refuses; training is stood in for."""

import json
import re

import pytest

from tests.train.reproduce.planted import result
from train.commands import sweeps
from train.errors import UserError
from train.reproduce.reproduce import chosen
from train.run import devices


@pytest.fixture
def stand_in(monkeypatch):
    def ablate(config, *, beside):
        return [result(config, cell, gradient=config.with_settings(cell).flat()["depth"] ** -0.5)
                for cell in config.cells]  # fmt: skip

    monkeypatch.setattr("train.reproduce.reproduce.ablate", ablate)
    monkeypatch.setattr(devices, "use_host_devices", lambda count: None)
    monkeypatch.setattr(devices, "keep_compiled", lambda out: None)


def test_claims_are_printed_and_a_report_is_written(stand_in, tmp_path, capsys):
    assert sweeps.reproduce(("e1",), quick=True, out=tmp_path) == 0
    said = capsys.readouterr().out
    assert "pre-norm: the gradient of the last feed-forward matrix at initialisation falls" in said
    assert "(Xiong et al. 2020, theorem 1): expected an exponent of -0.5 +- 0.1, measured -0.5 [" in said
    assert "]: reproduced\n" in said and "]: contradicted\n" in said
    page = (tmp_path / "quick" / "report.html").read_text()
    assert '<h2 id="E1">E1: Gradient at initialisation by depth</h2>' in page
    assert '<tr class="reproduced">' in page and 'id="plot-E1"' in page
    assert len(page) < 3_000_000 and "http" not in re.sub(r'(?s)<script type="text/plain".*?</script>', "", page)


def test_json_is_alone_on_the_output(stand_in, tmp_path, capsys):
    assert sweeps.reproduce(("E1",), quick=True, as_json=True, out=tmp_path) == 0
    claims = json.loads(capsys.readouterr().out)
    assert [claim["answer"] for claim in claims] == ["contradicted", "reproduced"]
    low, high = claims[1]["interval"]
    assert low <= claims[1]["measured"] <= high and claims[1]["expected"]["low"] == -0.6


def test_experiments_are_named_in_any_case_and_an_unknown_one_is_a_sentence():
    assert chosen(["e7", "E1"]) == ["E1", "E7"]
    assert chosen([])[0] == "E1" and len(chosen([])) >= 10
    with pytest.raises(UserError, match="experiment='E99' is unknown"):
        chosen(["E99"])
