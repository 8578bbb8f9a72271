"""Pages that are made from the code are what the code says now."""

import re
from importlib import import_module

import pytest

from tests.generated import DOCS, PAGES
from train.config.config import SECTIONS
from train.config.reference import ABOUT, one, settings
from train.verdict.question import Question


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_says_now(name):
    assert (DOCS / name).read_text(encoding="utf8") == PAGES[name](), f"docs/{name} is stale; write it by make pages"


def test_every_setting_is_described_and_nothing_else():
    known = {**{name: set(keys) for name, keys in SECTIONS.items()}, "question": set(Question.__dataclass_fields__)}
    described = {section: set(entries) for section, entries in ABOUT.items()}
    assert described == known, "describe it in train/config/reference.py, and write the page by make pages"
    assert all(each.about.what and each.values for each in settings())


@pytest.mark.parametrize("setting", settings(), ids=lambda each: f"{each.section}.{each.name}")
def test_what_reads_a_setting_is_there(setting):
    module = import_module(setting.about.file.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    assert setting.about.name in vars(module)


def test_one_setting_is_answered_whole():
    assert one("train.lr") == one("lr")
    assert one("lr").splitlines()[0] == "train.lr: the learning rate that the schedule rises to"
    assert "values   0 or more" in one("lr") and "default  0.003" in one("lr")
    assert "values   0 to below 1" in one("dropout")
    assert "values   whole, 1 to 65536" in one("heads")
    assert one("smallest").startswith("question.smallest: ")
    for name, ours in {"learning_rate": "'lr'", "train.n_layer": "'depth'", "warmpu": "'warmup'"}.items():
        with pytest.raises(ValueError, match=re.escape(f"setting={name!r} is unknown; did you mean {ours}?")):
            one(name)
