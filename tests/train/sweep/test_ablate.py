"""The default ablation in miniature: once, again, interrupted, and with a torn file."""

import json
import shutil
from dataclasses import replace

import pytest

from train.config import Config, load
from train.data.corpus import load_corpus
from train.sweep.ablate import Results, ablate, cells_of, groups_of, preview
from train.verdict.outcome import classify

AXES = 'placement = ["pre", "post"]\nlr = [1e-3, 1e-2]\nseed = [0, 1]\n'


def config(tmp_path, *settings):
    file = tmp_path / "mini.toml"
    file.write_text(
        f'[model]\nwidth = 16\nheads = 2\ndepth = 2\n[data]\ntask = "copy"\nlength = 12\nbatch = 4\nvalidation = 8\n'
        f'[train]\nsteps = 20\n[run]\nout = "{tmp_path / "out"}"\n[grid.product]\n{AXES}'
    )
    return load(file, settings)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    results = ablate(config(folder))
    return folder, results


def without_time(result):
    return {name: value for name, value in result.items() if name not in ("seconds", "provenance")}


def test_every_cell_runs_once_and_says_everything(swept):
    _, results = swept
    assert [(r["args"]["placement"], r["args"]["lr"], r["args"]["seed"]) for r in results] == [
        (p, lr, s) for p in ("pre", "post") for lr in (1e-3, 1e-2) for s in (0, 1)
    ]
    for r in results:
        assert len(r["loss"]) == 20
        assert len(r["grad_norm"]) == len(r["stats_final"]["residual_rms"]) == 2
        assert r["val_loss"] < r["initial_loss"]
        assert r["tokens"] == 20 * 4 * 12


def test_an_outcome_is_judged_by_training_losses_alone(tmp_path, monkeypatch):
    """Training text of one byte, held-out text of every other: their losses at initialisation differ, as they must."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.txt").write_bytes(b"ab" * 500)
    (tmp_path / "text" / "other.txt").write_bytes(bytes(range(128)) * 8)
    judged = []

    def spy(losses, *, initial_loss, unigram_entropy):
        judged.append((initial_loss, losses[0], unigram_entropy))
        return classify(losses, initial_loss=initial_loss, unigram_entropy=unigram_entropy)

    monkeypatch.setattr("train.sweep.ablate.classify", spy)
    few = config(tmp_path, "task=text", f"path={tmp_path / 'text'}")
    results = ablate(replace(few, cells=few.cells[:2]))
    for (initial, first, _), result in zip(judged, results, strict=True):
        assert abs(initial - first) < 0.1 < abs(initial - result["initial_loss"])


def test_a_second_call_trains_nothing(swept, capsys):
    folder, results = swept
    assert ablate(config(folder)) == results
    said = capsys.readouterr().out
    assert "8 known, 0 to run" in said
    assert "compiled" not in said


def test_what_is_missing_and_what_is_torn_runs_again_to_the_same_results(swept, tmp_path):
    folder, results = swept
    file = tmp_path / "out" / "mini" / "results.jsonl"
    file.parent.mkdir(parents=True)
    shutil.copy(folder / "out" / "mini" / "plan.json", file.parent)
    lines = (folder / "out" / "mini" / "results.jsonl").read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]) + lines[3][:50])
    again = ablate(config(tmp_path))
    assert [without_time(r) for r in again] == [without_time(r) for r in results]
    assert file.with_suffix(".torn").read_bytes() == lines[3][:50]
    assert len(Results(file)) == 8


def test_a_broken_line_in_the_middle_is_not_lost_silently(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text('{"key": "a"}\nnonsense\n{"key": "b"}\n')
    with pytest.raises(ValueError, match="line 2 of"):
        Results(file)
    assert file.read_text().count("\n") == 3


def test_one_program_serves_all_numbers_of_a_structure(tmp_path):
    c = config(tmp_path)
    groups = groups_of(cells_of(c, load_corpus("", "copy")))
    assert [len(group.cells) for group in groups] == [4, 4]


def test_the_default_ablation_takes_16_programs_for_240_runs():
    c = load("configs/norm_by_depth.toml")
    cells = cells_of(c, load_corpus("", "copy"))
    assert (len(cells), len(groups_of(cells))) == (240, 16)


def test_the_preview_says_what_it_will_cost_and_trains_nothing(tmp_path):
    text = preview(config(tmp_path))
    assert "8 cells over lr, placement, seed" in text
    assert "2 compilations" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        ("[grid.product]\nplacment = ['pre']", "setting='placment' is unknown; did you mean 'placement'"),
        ("[grid.zip]\nwidth = [16, 32]\nheads = [2]", "zip needs axes of one length, not width of 2, heads of 1"),
        ("[grid.product]\nlr = 0.1", "lr takes a list"),
        ("[grid.product]\nmesh = ['data=2', '']", "mesh changes no result; take it out of the grid"),
        ("[grid.product]\nout = ['a', 'b']", "out changes no result; take it out of the grid"),
        ("[train]\nlearning_rate = 1", "did you mean"),
        ("[model]\nnorm = 'rsm'", "rsm"),
        ("[model]\nplacement = 3", "placement=3 is not a name"),
        ("[modle]\nwidth = 3", "did you mean 'model'"),
        ("width = 3", "section='width' is unknown; use one of model, data, train, run, grid"),
        ("[train", "is not TOML"),
    ],
)
def test_unknown_names_and_values_fail_at_once_in_one_sentence(tmp_path, grid, sentence):
    file = tmp_path / "bad.toml"
    file.write_text(grid)
    with pytest.raises(ValueError, match=sentence) as error:
        load(file)
    assert "\n" not in str(error.value)


def test_settings_have_one_name_dotted_or_not():
    base = Config(name="x")
    assert base.with_settings({"train.lr": 0.5, "model.width": 32}) == base.with_settings({"lr": 0.5, "width": 32})


def test_records_are_json(swept):
    folder, results = swept
    lines = (folder / "out" / "mini" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == results
