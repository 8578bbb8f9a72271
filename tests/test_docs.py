"""The guide: its Python runs, its configurations load, its links lead somewhere, and the notes name what is there."""

import re
import shlex
from itertools import pairwise

import pytest

from tests.pages import ROOT, code_of, run
from train.__main__ import app
from train.config import load

PAGES = sorted((ROOT / "docs").glob("*.md"))
LINKED = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
CODE = {page: code_of(page) for page in PAGES}
RUN = [page for page in PAGES if any(code.language == "python" for code in CODE[page])]
IDS = [f"{letter}{i + 1}" for letter, count in (("A", 29), ("B", 30), ("C", 27)) for i in range(count)]

NOTES = (ROOT / "docs" / "notes.md").read_text(encoding="utf8")
ROWS = {
    cells[0]: cells
    for line in NOTES.splitlines()
    if re.match(r"\| [ABC]\d+ \|", line)
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}
NAMED = [
    (number, path, name)
    for number, cells in ROWS.items()
    for path, names in re.findall(r"\[`([^`]+)`\]\(\.\./\1\)((?:,? `\w+`)+)", cells[-1])
    for name in re.findall(r"`(\w+)`", names)
]
ANSWERS = re.findall(r"\[`([^`]+)`\]\(\1\) `(\w+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf8"))


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_python_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(page) > 0


def test_a_page_that_prints_something_else_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nx = 2\n```\n\n```python\nprint(x + x)  # 5\n```\n")
    with pytest.raises(AssertionError, match=r"page.md, line 8"):
        run(page)
    page.write_text(page.read_text().replace("# 5", "# 4"))
    assert run(page) == 1


def test_only_blocks_that_a_test_knows():
    languages = {code.language for codes in CODE.values() for code in codes}
    assert languages == {
        "python",
        "toml",
        "console",
        "text",
        "diff",
        "py",
    }  # diffs: tests/test_variants.py; py: test_study.py


FOLLOWED = ("study.md", "pod.md")  # their commands are run, by test_study.py and test_processes.py


def blocks(language, without=()):
    return [
        pytest.param(code.text, id=f"{page.stem}-{code.line}")
        for page in PAGES
        for code in CODE[page]
        if code.language == language and page.name not in without
    ]


@pytest.mark.parametrize("text", blocks("toml"))
def test_configurations_load(text, tmp_path):
    file = tmp_path / "page.toml"
    file.write_text(text)
    config = load(file)
    for cell in config.cells:
        config.with_settings(cell).spec()


@pytest.mark.parametrize("text", blocks("console", without=FOLLOWED))
def test_commands_name_commands_options_and_settings_that_exist(text, capsys):
    for line in text.splitlines():
        command, _, _ = line.partition(" && ")  # what follows is another program's
        python, flag, module, name, place, *words = shlex.split(command)
        assert (python, flag, module) == ("python", "-m", "train")
        with pytest.raises(SystemExit) as end:
            app.cli(prog="python -m train", args=[name, "--help"])
        assert end.value.code == 0
        known = capsys.readouterr().out
        assert all(word in known for word in words if word.startswith("--"))
        if name in ("run", "ablate"):
            load(ROOT / place, [value for option, value in pairwise(words) if option == "--set"])


def anchors(text):
    """What headings of a page are called in links."""
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    text = page.read_text(encoding="utf8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf8"))):
            broken.append(target)
    assert not broken


def test_the_guide_is_found_from_its_first_page_and_from_the_readme():
    for start in (ROOT / "docs" / "index.md", ROOT / "README.md"):
        text = start.read_text(encoding="utf8")
        assert [page.name for page in PAGES if page != start and page.name not in text] == []


def test_every_claim_has_a_row_in_order():
    assert list(ROWS) == IDS


def test_every_row_has_a_verdict_and_they_are_counted():
    counts = dict.fromkeys(("right", "loose", "wrong"), 0)
    for _, _, says, verdict, fact, _ in ROWS.values():
        counts[verdict] += 1
        assert says and fact
    said = re.search(r"Of (\d+) claims (\d+) are right, (\d+) loose and (\d+) wrong", NOTES)
    assert said is not None
    assert [int(number) for number in said.groups()] == [len(IDS), *counts.values()]


def test_every_file_in_the_last_column_comes_with_names():
    files = [path for cells in ROWS.values() for path in re.findall(r"\[`([^`]+)`\]", cells[-1])]
    assert len(files) == len({(number, path) for number, path, _ in NAMED}) > 100


def names(path, name):
    """Whether a file of the repository defines the name."""
    source = (ROOT / path).read_text(encoding="utf8")
    return re.search(rf"^\s*(?:def|class) {name}\b|^{name}\b[^=\n]*=", source, flags=re.MULTILINE) is not None


@pytest.mark.parametrize(("number", "path", "name"), NAMED, ids=["-".join(named) for named in NAMED])
def test_what_the_notes_name_is_there(number, path, name):
    assert names(path, name)


def test_a_strangers_questions_are_answered_by_what_is_there():
    assert len(ANSWERS) >= 10
    assert [answer for answer in ANSWERS if not names(*answer)] == []
