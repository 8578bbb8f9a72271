"""What finds an effect is planned from a pilot: how many seeds, which ones, on how much text, and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest

from train.config import Edits, load
from train.errors import UserError
from train.report.looks import looked_at
from train.sweep import detect as planning
from train.verdict.question import question_of
from train.verdict.runs import packed

OWN = """of = [{ chain = [{ product = { depth = [1], seed = [0, 1, 2] } }, { product = { depth = [2], seed = [3] } }] }]
"""


def config(folder, more="", seeds=(0, 1, 2), edits=None):
    file = folder / "mini.toml"
    file.write_text(
        '[model]\nwidth = 16\nheads = 2\ndepth = 2\n[data]\ntask = "copy"\nlength = 12\nbatch = 4\nvalidation = 8\n'
        f'[run]\nout = "{folder / "out"}"\n[grid.product]\nplacement = ["pre", "post"]\nlr = [1e-3, 1e-2, 1e-1]\n'
        + f"seed = {list(seeds)}\n" * bool(seeds)
        + more
    )
    return load(file, (), edits or Edits())


def pilots(monkeypatch, *, spread=0.02, effect=0.0, text=0.0, lost=()):
    """Let every sweep end so, without training; of the arms that are lost no run works. Returns the sweeps that ran."""
    ran = []

    def ablate(config):
        ran.append(config)
        return [record(cell) for cell in config.cells]

    def record(cell):
        rng = np.random.default_rng([cell["seed"], cell["placement"] == "post", round(1e4 * cell["lr"])])
        post, off = cell["placement"] == "post", abs(math.log10(cell["lr"] / 1e-2))
        loss = 2.5 + effect * post + off + spread * rng.standard_normal()
        windows = loss + text * post * np.array([1, -1, 2, -2, 3, -3, 4, -4])
        failed = cell["placement"] in lost
        return {"args": {**cell, "depth": 2}, "outcome": "stuck" if failed else "worked", "initial_loss": 5.0,
                "val_loss": loss, "windows": packed(windows), "params": 1e5, "tokens": 1e5, "flops": 1e9}  # fmt: skip

    monkeypatch.setattr(planning, "ablate", ablate)
    return ran


def seeds_of(config):
    return list(dict.fromkeys(cell["seed"] for cell in config.cells))


def test_the_pilot_plans_and_other_seeds_answer(tmp_path, monkeypatch):
    ran = pilots(monkeypatch)
    given = config(tmp_path)
    planned, said = planning.detect(given, 0.05)
    assert ran == [given]
    seeds = seeds_of(planned)
    assert seeds == list(range(3, 3 + len(seeds))) and len(seeds) > 4
    assert len(planned.cells) == 2 * 3 * len(seeds)
    assert said[0].startswith(f"pre against post: {len(seeds)} seeds a cell find 0.05 nats with chance 0.8 (")
    assert said[1] == f"the 3 seeds of the pilot plan, and {len(seeds)} others answer: 3 to {seeds[-1]}"
    assert len(seeds_of(planning.detect(given, 0.1).config)) < len(seeds)


def test_a_gap_that_the_pilot_shows_is_found_again_by_few(tmp_path, monkeypatch):
    pilots(monkeypatch, effect=1.0)
    planned, said = planning.detect(config(tmp_path), 0.02)
    assert seeds_of(planned) == [3, 4, 5, 6]
    assert "the least that the pilot leaves" in said[0]


def test_the_look_at_what_was_planned_changes_no_plan_and_an_earlier_one_does(tmp_path, monkeypatch):
    pilots(monkeypatch)
    given = config(tmp_path)
    folder = tmp_path / "out" / "mini"
    folder.mkdir(parents=True)
    first = planning.detect(given, 0.05)
    question = question_of([{**cell, "depth": 2} for cell in given.cells])
    looked_at(folder, question, [{"args": cell} for cell in first.config.cells])
    assert planning.detect(given, 0.05) == first
    looked_at(folder, question, [{"args": cell} for cell in given.cells])
    again, said = planning.detect(given, 0.05)
    assert seeds_of(again) == list(range(len(seeds_of(again))))  # added to those of the pilot
    assert len(seeds_of(again)) > 1.5 * len(seeds_of(first.config))
    assert said[-1].startswith("this question was looked at before")


def test_where_the_text_is_too_short_all_runs_get_more_of_it(tmp_path, monkeypatch):
    pilots(monkeypatch, text=0.02)
    planned, said = planning.detect(config(tmp_path), 0.05)
    assert planned.data.validation > 8
    assert (
        f"8 windows leave more than a tenth of the variance to the text: all runs get {planned.data.validation}" in said
    )


def test_what_would_take_too_many_seeds_is_refused_with_what_they_find(tmp_path, monkeypatch):
    pilots(monkeypatch, spread=0.3)
    with pytest.raises(UserError, match=r"pre against post would take .* to find 0.05 nats, and at most 100 are") as e:
        planning.detect(config(tmp_path), 0.05)
    larger = float(str(e.value).split("which find ")[1].split(";")[0])
    assert len(seeds_of(planning.detect(config(tmp_path), 1.05 * larger).config)) <= 100


def test_where_no_effect_can_be_judged_nothing_is_planned(tmp_path, monkeypatch):
    pilots(monkeypatch, lost=("post",))
    with pytest.raises(UserError, match="nothing can be planned: pre against post is withheld, too few runs"):
        planning.detect(config(tmp_path), 0.05)


@pytest.mark.parametrize(
    ("effect", "given", "sentence"),
    [
        (0.0, {}, "detect=0 is no effect; give nats, more than 0"),
        (math.nan, {}, "detect=nan is no effect"),
        (0.01, {}, "detect=0.01 nats is less than the smallest difference that matters, 0.02"),
        (0.02, {"seeds": (0, 1)}, "a pilot takes 3 seeds, and the grid has 2; add --seeds 3"),
        (0.02, {"more": '[question]\ncompare = ["placement"]\nmeasure = ["failure"]\n'}, "is failure; add loss to it"),
        (0.02, {"edits": Edits(only=("placement=pre", "lr=0.01"))}, "plans for what is compared, and nothing is"),
        (0.02, {"more": OWN, "seeds": ()}, "seeds that all cells share, and here some have their own"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_before_training(tmp_path, monkeypatch, effect, given, sentence):
    ran = pilots(monkeypatch)
    for plan in (planning.detect, planning.preview_detection):
        with pytest.raises(UserError, match=sentence):
            plan(config(tmp_path, **given), effect)
    assert ran == []


def test_a_preview_trains_nothing_and_says_what_is_missing_for_a_plan(tmp_path, monkeypatch):
    ran = pilots(monkeypatch)
    monkeypatch.setattr(planning, "preview", lambda config: f"{len(config.cells)} cells")
    assert planning.preview_detection(config(tmp_path), 0.05).startswith(
        "18 cells\nthe grid as it is written is the pilot"
    )
    monkeypatch.setattr(planning, "_known", lambda config: planning.ablate(config))
    told = planning.preview_detection(config(tmp_path), 0.05).splitlines()
    planned = planning.detect(config(tmp_path), 0.05)
    assert told == [*planned.said, f"{len(planned.config.cells)} cells"]
    assert all(replace(each, cells=()) == replace(config(tmp_path), cells=()) for each in ran)
