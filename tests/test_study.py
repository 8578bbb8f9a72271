"""A new user's path, docs/study.md: its commands one after the other, in a folder with a text and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import ROOT, code_of
from tests.train.test_trackers import scalars

PAGE = ROOT / "docs" / "study.md"
OURS = [line for code in code_of(PAGE) if code.language == "console" for line in code.text.splitlines()]
ELSEWHERE = ("source .venv/bin/activate", "tensorboard --logdir runs/study")  # the shell's, and another package's


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the page was followed; what each command printed is in `said`, by its first words."""
    place = tmp_path_factory.mktemp("study")
    pages = [page.read_text(encoding="utf8") for page in sorted((ROOT / "docs").glob("*.md"))]
    (place / "book.txt").write_text("\n".join(pages), encoding="utf8")
    (toml,) = [code.text for code in code_of(PAGE) if code.language == "toml"]
    (place / "study.toml").write_text(toml)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for k, line in enumerate(line for line in OURS if line not in ELSEWHERE):
        done = subprocess.run(
            ["bash", "-c", line], cwd=place, env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, (line, done.stderr)
        (place / f"said_{k}.txt").write_text(done.stdout)
    return place


@pytest.mark.slow
def test_the_page_is_followed_to_an_answer(folder):
    said = [(folder / f"said_{k}.txt").read_text() for k in range(5)]
    assert "1 pair of arms" in said[1]
    assert "\nheads 1 " in said[2], "an answer of the two, which is not withheld"
    assert said[2].rstrip().endswith("report: runs/study/report.html")
    assert "24" in said[3]
    assert "64 runs:" in said[4], "five more seeds for two arms at four rates"
    assert "looked at before" in (folder / "runs" / "study" / "report.md").read_text()


@pytest.mark.slow
def test_its_results_go_into_pandas_a_paper_and_a_tracker(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (code,) = [code.text for code in code_of(PAGE) if code.language == "py"]
    exec(compile(code, str(PAGE), "exec"), {})
    table = capsys.readouterr().out
    assert all(word in table for word in ("mean", "std", "count", "0.01"))
    assert (folder / "runs/study/figure.svg").read_text().startswith("<svg")
    told = scalars(folder / "runs" / "study")
    assert max(told) == 60 and any("loss" in name for values in told.values() for name in values)
