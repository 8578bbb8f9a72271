"""The best run of each arm: whose parameters are kept, and where they are found."""

from pathlib import Path

import jax
import numpy as np
import pytest

from train.config import Config
from train.data.corpus import load_corpus
from train.errors import UserError
from train.run.sample import load_run
from train.step import numbers_of, recipe_of, start
from train.sweep.best import Best, kept_in, run_of
from train.verdict.question import Question

MODEL = {"width": 8, "heads": 1, "depth": 1}
ROWS = {
    f"{k}{norm}": {"norm": norm, "placement": "post", "lr": lr}
    for norm in ("rms", "layer")
    for k, lr in enumerate((0.1, 0.2, 0.3))
}
QUESTION = Question(compare=("norm", "placement"))


def best_in(folder, question=QUESTION, rows=ROWS, code="code"):
    return Best(folder / "best", question, rows, code)


@pytest.fixture(scope="module")
def trained():
    """A configuration, its text, and a state that its model could have come to."""
    config = Config(name="x", model=MODEL).with_settings({"length": 8, "batch": 2, "task": "copy", "steps": 3})
    return config, load_corpus("", "copy"), start(recipe_of(config), numbers_of(config))


def keep(best, trained, key, val_loss):
    config, corpus, state = trained
    best.keep(config, key, corpus, state, val_loss)


def test_the_best_run_of_each_arm_is_chosen():
    losses = {"0rms": 2.0, "1rms": 1.5, "2rms": float("nan"), "0layer": 1.9, "2layer": float("nan")}
    assert best_in(Path("nowhere")).better(losses) == ["1rms", "0layer"]


def test_what_is_kept_is_a_run_and_makes_way_for_a_better_one_only(tmp_path, trained):
    best, (config, _, state) = best_in(tmp_path), trained
    keep(best, trained, "1rms", 1.5)
    assert best.better({"0rms": 1.6, "0layer": 9.0}) == ["0layer"]
    assert best.better({"0rms": 1.5}) == [] and best.better({"0rms": 1.4}) == ["0rms"]
    keep(best, trained, "0rms", 1.4)
    assert [place.name for place in (tmp_path / "best").iterdir()] == ["rms-post"]
    loaded, spec, params = load_run(tmp_path / "best" / "rms-post")
    assert (loaded.settings(), spec) == (config.settings(), config.spec())
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_other_code_or_another_grid_kept_makes_way(tmp_path, trained):
    keep(best_in(tmp_path), trained, "1rms", 1.5)
    assert best_in(tmp_path, code="other").better({"0rms": 1.6}) == ["0rms"]
    others = {key: row for key, row in ROWS.items() if key != "1rms"}
    assert best_in(tmp_path, rows=others).better({"0rms": 1.6}) == ["0rms"]


def test_a_run_is_found_by_its_key(tmp_path, trained):
    best = best_in(tmp_path)
    assert run_of(tmp_path / "other", "") == tmp_path / "other"
    with pytest.raises(UserError, match="is no sweep; leave out --cell"):
        run_of(tmp_path, "1rms")
    (tmp_path / "results.jsonl").write_text("")
    with pytest.raises(UserError, match="is a sweep that kept no parameters; run it with --set keep=best"):
        run_of(tmp_path, "")
    keep(best, trained, "1rms", 1.5)
    keep(best, trained, "0layer", 1.5)
    assert run_of(tmp_path, "1r") == tmp_path / "best" / "rms-post" and len(kept_in(tmp_path)) == 2
    with pytest.raises(UserError, match=r"name the run of an arm, or its --cell: .*layer-post \(0layer\), .*rms-post"):
        run_of(tmp_path, "")


def test_an_arm_whose_best_run_was_not_kept_is_named(tmp_path, trained):
    best = best_in(tmp_path)
    runs = [{"key": key, "val_loss": loss} for key, loss in (("0rms", 1.49999), ("1rms", 1.6), ("0layer", None))]
    (said,) = best.lacking(runs)
    assert said.startswith("the parameters of the best run of rms · post, 0rms, were not kept: it ran before they were")
    keep(best, trained, "0rms", 1.499994)  # as the run had it; its record has six digits
    assert list(best.lacking(runs)) == []


def test_arms_that_would_share_a_folder_do_not():
    rows = {"a": {"arm": "x y"}, "b": {"arm": "x/y"}, "c": {"arm": "../.."}}
    best = best_in(Path("runs"), Question(compare=("arm",)), rows)
    places = [best._place(key) for key in rows]
    assert [place.name for place in places] == ["x-y", "x-y~2", "all"]


def test_a_sweep_that_compares_nothing_keeps_one(tmp_path, trained):
    best = best_in(tmp_path, question=None)
    assert best.better({"0rms": 1.6, "0layer": 1.5}) == ["0layer"]
    keep(best, trained, "0layer", 1.5)
    assert [place.name for place in kept_in(tmp_path)] == ["all"]
