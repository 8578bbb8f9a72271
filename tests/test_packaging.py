"""What others get: a wheel and a source archive that run without the repository, the site, and what forges read."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
SMALL = '[model]\nwidth = 8\nheads = 1\ndepth = 1\n[data]\ntask = "copy"\nlength = 8\nbatch = 2\nvalidation = 4\n'
BUILD = "from setuptools import build_meta as b; print(b.build_sdist('dist'), b.build_wheel('dist'))"
ELSEWHERE = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTEST_ADDOPTS")}


def read(name: str):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf8"))


def said(*words: object, cwd: Path) -> str:
    done = subprocess.run([*map(str, words)], cwd=cwd, env=ELSEWHERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The folder of a wheel that is built from the source archive, which is built from a copy of the repository."""
    first, second = (tmp_path_factory.mktemp(name) for name in ("copy", "unpacked"))
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if name.startswith(("fxformer/", "train/", "configs/")) or "/" not in name:
            (first / name).parent.mkdir(parents=True, exist_ok=True)
            (first / name).write_bytes((ROOT / name).read_bytes())
    archive, _ = said(sys.executable, "-c", BUILD, cwd=first).splitlines()[-1].split()
    with tarfile.open(first / "dist" / archive) as tar:
        tar.extractall(second, filter="data")
    (source,) = second.iterdir()
    said(sys.executable, "-c", BUILD, cwd=source)
    return source / "dist"


@pytest.fixture(scope="module")
def python(dist, tmp_path_factory):
    """Python of a new environment that has the wheel; what it depends on is read from that of the tests."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=True)
    (packages,) = home.glob("lib/python*/site-packages")
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        wheel.extractall(packages)
    (packages / "dependencies.pth").write_text(str(Path(yaml.__file__).parents[1]))
    return home / "bin" / "python"


@pytest.mark.slow
def test_a_wheel_from_the_source_archive_runs_where_the_repository_is_not(python, tmp_path):
    where = said(python, "-c", "import fxformer, train; print(fxformer.__file__, train.__file__)", cwd=tmp_path)
    assert all(Path(file).is_relative_to(python.parents[1]) for file in where.split())
    assert said(python, "-m", "fxformer", "count", "gpt2", cwd=tmp_path).strip() == "124439808"
    assert said(python, "-m", "train", "settings", "lr", cwd=tmp_path).startswith("train.lr: ")
    (tmp_path / "small.toml").write_text(SMALL + "[train]\nsteps = 1\n[grid.product]\nlr = [0.1]\n")
    told = said(python, "-m", "train", "ablate", "small.toml", cwd=tmp_path)
    assert (
        "report: runs/small/report.html" in told and (tmp_path / "runs" / "small" / "report.html").stat().st_size > 1e4
    )


@pytest.mark.slow
def test_the_wheel_has_what_the_packages_have(dist):
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    here = {
        file.relative_to(ROOT).as_posix()
        for package in ("fxformer", "train")
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert names == here
    with tarfile.open(next(dist.parent.parent.glob("*/dist/*.tar.gz"))) as tar:
        assert any(name.endswith("/configs/norm_by_depth.toml") for name in tar.getnames())


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    env = {**ELSEWHERE, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    for page, text in {
        "index": "Guide",
        "api/library": "fxformer.model.apply",
        "source/CONTRIBUTING": "Contributing",
    }.items():
        assert text in (tmp_path / f"{page}.html").read_text(encoding="utf8")
    fetched = [
        (page.name, address)
        for page in tmp_path.rglob("*.html")
        for address in re.findall(r'(?:src|<link[^>]* href)="(\w+://[^"]*)"', page.read_text(encoding="utf8"))
    ]
    assert not fetched, "a page of the site fetches nothing from elsewhere"


def test_extras_are_no_files_of_packages():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["tool"]["setuptools"]["package-data"]
    assert all(list((ROOT / name.replace(".", "/")).glob(kind)) for name, kinds in told.items() for kind in kinds)


def test_hooks_are_what_make_lint_runs():
    makefile = (ROOT / "Makefile").read_text(encoding="utf8")
    (recipe,) = re.findall(r"^lint: setup\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE)
    commands = recipe.replace("$(RUN)", ".venv/bin/python").replace("$(VENV)", ".venv").split("\n\t")
    (local,) = read(".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    assert [hook["entry"] for hook in local["hooks"]] == [command.strip() for command in commands]


def test_three_pythons_run_the_two_commands():
    jobs = read(".github/workflows/test.yml")["jobs"]
    matrix = jobs["test"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"] and matrix["command"] == ["test", "ablation"]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf8"), flags=re.MULTILINE)
    assert {"test", "ablation", "site", "dist"} <= set(targets)
    assert any(step.get("run") == "make site dist" for step in jobs["site"]["steps"])


def test_the_citation_is_of_this_version():
    cited = read("CITATION.cff")
    assert (cited["cff-version"], cited["version"], cited["license"]) == (
        "1.2.0",
        PROJECT["version"],
        PROJECT["license"],
    )
    assert cited["message"] and cited["title"] and cited["authors"]


@pytest.mark.parametrize("name", ["bug", "variant"])
def test_templates_ask_for_what_is_needed(name):
    template = read(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert template["name"] and template["description"]
    assert all(field["attributes"]["label"] for field in template["body"])
    assert any(field.get("validations", {}).get("required") for field in template["body"])
