"""Every entry of every table has its page: a formula, code that is where it says, and costs of a model that has it."""

import re
from pathlib import Path

import pytest

from fxformer import accounting
from fxformer.__main__ import main
from fxformer.commands import explain
from fxformer.zoo.toy import toy
from tests.quick import NAMED, TYPED

ROOT = Path(__file__).parent.parent
EVERY = [entry for found in explain.entries().values() for entry in found]


@pytest.fixture(scope="module")
def pages():
    return {entry: list(explain.page(entry, *explain.example(entry))) for entry in EVERY}


def test_all_tables_are_explained():
    found = {(entry.table, entry.name) for entry in EVERY}
    assert found >= {
        (table, kind.__name__)
        for table, kinds in TYPED.items()
        for kind in kinds
        if kind.__name__ not in ("Both", "Either")
    }
    assert found >= {(table, name) for table, (names, _) in NAMED.items() for name in names}


def test_every_page_says_what_it_is_where_it_is_and_what_it_costs(pages):
    for entry, lines in pages.items():
        text = "\n".join(lines)
        assert entry.about and lines[1].startswith("  formula  "), entry
        for title in ("code", "costs", "laws"):
            assert f"\n  {title} " in text, (entry, title)
        for file, line, name in re.findall(r"(fxformer/\S+\.py):(\d+)  (\w+)", text):
            assert re.search(r"\b(?:class|def|@\w+)\b|@", (ROOT / file).read_text().splitlines()[int(line) - 1]), name


def test_every_variant_has_a_source_and_an_oracle(pages):
    """What nobody published is none: masks and heads of every model, gains of nothing, ways to compute."""
    plain = {"masks", "HEADS", "KERNELS", "DISPATCHES", "POSITIONS", "ACTIVATIONS", "PAIRINGS"}
    for entry, lines in pages.items():
        text = "\n".join(lines)
        assert "\n  oracle " in text or entry.name in ("Transformed", "Bare"), entry  # those are in tests/parity
        if entry.table not in plain and entry.name not in ("none", "l2"):
            assert re.search(r"\n  source .*(?:19|20)\d\d", text), entry


def test_the_numbers_are_those_of_the_accounting(capsys):
    assert main(["explain", "mla"]) == 0
    text = capsys.readouterr().out
    spec = toy(attention="mla")
    assert "MLA, of ATTENTION\n  formula  softmax(scale (q . W_UK c + q_r . k_r)) W_UV c in each head" in text
    assert "\n  source   DeepSeek-AI 2024 (V2), 2.1\n" in text
    assert re.search(r"fxformer/layers/attention/mla\.py:\d+  MLAModule", text)
    assert re.search(rf"parameters +{accounting.count(spec):,} ", text)
    assert re.search(rf"cache bytes a token +{accounting.cache_bytes(spec):,} ", text)
    assert "cached = uncached" in text and "every split" in text


@pytest.mark.parametrize(
    ("name", "found"), [("talking-heads", "mix_logits"), ("SwiGLU", "GLU"), ("layer-scale", "layer_scale")]
)
def test_names_of_the_field_find_their_entry(name, found, capsys):
    assert main(["explain", name]) == 0
    assert capsys.readouterr().out.startswith(f"{found}, of ")


def test_an_unknown_entry_is_told_the_nearest(capsys):
    assert main(["explain", "sandwhich"]) == 2
    assert capsys.readouterr().err == "error: entry='sandwhich' is unknown; did you mean 'sandwich'?\n"
