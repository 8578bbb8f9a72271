"""The README runs: its Python, its commands, and its table of models, which is made from the zoo."""

import re
import shlex
import subprocess
import sys

import pytest

from fxformer import zoo
from fxformer.commands.describe import COLUMNS, row
from tests.pages import ROOT, code_of, run

PAGE = ROOT / "README.md"
README = PAGE.read_text(encoding="utf8")


def table() -> str:
    """The models of the zoo as a Markdown table."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *(row(name, zoo.family_of(name), zoo.get(name)) for name in zoo.names())]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def test_the_table_of_models_is_that_of_the_zoo():
    between = re.search(r"<!-- zoo -->\n(.*?)\n<!-- /zoo -->", README, flags=re.DOTALL)
    assert between is not None
    assert between.group(1) == table(), f"put this table into README.md:\n{table()}"


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


def test_only_blocks_that_a_test_runs():
    assert {code.language for code in code_of(PAGE)} == {"python", "bash"}
