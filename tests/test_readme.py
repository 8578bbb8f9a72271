"""The README runs: its Python and its commands."""

import re
import shlex
import subprocess
import sys

import pytest

from tests.pages import ROOT, code_of, run

PAGE = ROOT / "README.md"
README = PAGE.read_text(encoding="utf8")


def test_python_runs_and_prints_what_it_says():
    assert run(PAGE) > 0


@pytest.mark.slow
def test_commands_run_in_order(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    commands = [line for code in code_of(PAGE) if code.language == "bash" for line in code.text.splitlines()]
    assert commands
    for command in commands:
        program, *words = shlex.split(command, comments=True)
        assert program == "python"
        subprocess.run([sys.executable, *words], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / "runs" / "shakespeare" / "log.jsonl").exists()


def test_what_installs_it_is_there():
    (install,) = [code.text.splitlines() for code in code_of(PAGE) if code.language == "console"]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf8"), flags=re.MULTILINE))
    assert install == ["make setup", ". .venv/bin/activate"]
    assert {
        each
        for name in re.findall(r"`make ([\w-]+)`|^make ([\w-]+)", README, flags=re.MULTILINE)
        for each in name
        if each
    } <= targets


def test_the_guide_stands_before_the_models():
    assert README.index("## Guide") < README.index("## The models")


def test_only_blocks_that_a_test_runs():
    assert {code.language for code in code_of(PAGE)} == {"python", "bash", "console"}
