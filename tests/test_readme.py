"""The README runs: its Python, its commands, and its table of models, which is made from the zoo."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fxformer import zoo
from fxformer.describe import COLUMNS, row

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def table() -> str:
    """The models of the zoo as a Markdown table."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *(row(name, zoo.family_of(name), zoo.get(name)) for name in zoo.names())]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def test_the_table_of_models_is_that_of_the_zoo():
    between = re.search(r"<!-- zoo -->\n(.*?)\n<!-- /zoo -->", README, flags=re.DOTALL)
    assert between is not None
    assert between.group(1) == table(), f"put this table into README.md:\n{table()}"


@pytest.mark.parametrize("code", [code for language, code in BLOCKS if language == "python"])
def test_python_runs_and_prints_what_it_says(code, capsys):
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == "68976648192\n"


@pytest.mark.slow
def test_commands_run_in_order(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    commands = [line for language, code in BLOCKS if language == "bash" for line in code.splitlines()]
    assert commands
    for command in commands:
        program, *words = shlex.split(command, comments=True)
        assert program == "python"
        subprocess.run([sys.executable, *words], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / "runs" / "shakespeare" / "log.jsonl").exists()


def test_only_blocks_that_a_test_runs():
    assert {language for language, _ in BLOCKS} == {"python", "bash"}
