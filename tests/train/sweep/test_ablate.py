"""The default ablation in miniature: once, again, interrupted, and with a torn file."""

import hashlib
import json
import math
import os
import re
import shutil
import signal
import threading
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import fxformer as fx
from train.config import Config, load
from train.config.ask import rows_of
from train.data.corpus import load_corpus
from train.errors import UserError
from train.run.loop import held_out_windows
from train.run.provenance import source_digest
from train.run.sample import load_run
from train.sweep import group
from train.sweep.ablate import STRANGE, ablate
from train.sweep.best import run_of
from train.sweep.cells import cells_of, groups_of
from train.sweep.due import missing_of
from train.sweep.kept import AGAIN, answered, standing
from train.sweep.plans import kept_plan
from train.sweep.population import Plan
from train.sweep.preview import preview
from train.sweep.results import Results, checksum
from train.sweep.watch import view_of
from train.verdict.asked import objections
from train.verdict.outcome import classify
from train.verdict.question import Question, arms_of, cells_over, pairs_of
from train.verdict.runs import unpacked

NO_PLAN = Plan(name="loop", reason="no plan", seconds=1.0, devices=1)
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
    return {name: value for name, value in result.items() if name not in ("seconds", "seconds_a_step", "provenance")}


def test_every_cell_runs_once_and_says_everything(swept):
    _, results = swept
    assert [(r["args"]["placement"], r["args"]["lr"], r["args"]["seed"]) for r in results] == [
        (p, lr, s) for p in ("pre", "post") for lr in (1e-3, 1e-2) for s in (0, 1)
    ]
    for r in results:
        assert len(r["loss"]) == 20
        assert len(r["grad_norm"]) == len(r["stats_final"]["residual_rms"]) == 2
        assert r["stats_every"] == 2 and {len(looks) for looks in r["stats_curve"].values()} == {11}
        assert r["stats_curve"]["grad_norm"][0] == r["grad_norm"] and r["stats_curve"].keys() == r["stats_final"].keys()
        assert r["stats_curve"]["grad_norm"][-1] == r["stats_final"]["grad_norm"]
        assert 0 < r["seconds_a_step"] < r["seconds"]
        assert r["val_loss"] < r["initial_loss"]
        assert r["tokens"] == 20 * 4 * 12
        assert r["cache_bytes"] == 2 * 2 * 16 * 2  # layers x (key, value) x width x bytes
        windows = unpacked(r["windows"])
        assert len(windows) == 8 and abs(np.mean(windows) - r["val_loss"]) < 2**-9


def test_results_of_an_older_edition_are_named_and_their_cells_run_again(swept, tmp_path, capsys):
    """They kept no loss of each window, and called a run converged; nothing of them is lost."""
    folder, results = swept
    few = config(tmp_path)
    few = replace(few, cells=few.cells[:1])
    file = tmp_path / "out" / "mini" / "results.jsonl"
    file.parent.mkdir(parents=True)
    shutil.copy(folder / "out" / "mini" / "plan.json", file.parent)
    older = [{**{k: v for k, v in r.items() if k != "windows"}, "outcome": "converged"} for r in results[:2]]
    file.write_text("".join(json.dumps({**r, "checksum": checksum(r)}) + "\n" for r in older))
    before, sentence = file.read_bytes(), "of an older edition, without the loss of each window"
    with pytest.raises(UserError, match=f"all 2 results of .* are {sentence}; run the sweep again"):
        answered(file.parent)
    assert f"has results {sentence}: they stay there, and are no part of the answer (2)" in preview(few)
    assert [without_time(r) for r in ablate(few)] == [without_time(r) for r in results[:1]]
    assert f"has results {sentence}" in capsys.readouterr().out
    assert file.read_bytes().startswith(before) and [r["key"] for r in answered(file.parent)[1]] == [results[0]["key"]]


def test_an_outcome_is_judged_against_the_frequency_of_bytes_on_the_same_text(tmp_path, monkeypatch):
    """Training text of two bytes, equally many; held-out text of every other, which count as if seen once."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.txt").write_bytes(b"ab" * 500)
    (tmp_path / "text" / "other.txt").write_bytes(bytes(range(97)) * 8)
    judged = []

    def spy(losses, **told):
        judged.append(told)
        return classify(losses, **told)

    monkeypatch.setattr("train.sweep.group.classify", spy)
    few = config(tmp_path, "task=text", f"path={tmp_path / 'text'}")
    results = ablate(replace(few, cells=few.cells[:2]))
    for told, result in zip(judged, results, strict=True):
        assert np.allclose(told["unigram"], np.log(2)) and len(told["unigram"]) == 20
        assert np.allclose(told["unigram_windows"], np.log(1000)) and len(told["unigram_windows"]) == 8
        assert np.mean(told["windows"]) == pytest.approx(result["val_loss"], rel=1e-5)
        assert np.mean(told["initial"]) == pytest.approx(result["initial_loss"], rel=1e-5)


def test_a_second_call_trains_nothing(swept, capsys):
    folder, results = swept
    assert ablate(config(folder)) == results
    said = capsys.readouterr().out
    assert "8 known, 0 to run" in said
    assert "compiled" not in said


def test_what_is_measured_beside_is_in_the_record_and_known_records_without_it_are_run_again(swept, tmp_path, capsys):
    folder, results = swept
    shutil.copytree(folder / "out", tmp_path / "out")
    few = config(tmp_path)
    few = replace(few, cells=few.cells[:4])

    def largest_row(recipe, numbers, params, held_out):
        return held_out.max() + numbers.seed

    again = ablate(few, beside={"largest_row": largest_row})
    assert "4 cells, 0 known, 4 to run" in capsys.readouterr().out
    assert [r["beside"]["largest_row"] - r["args"]["seed"] for r in again] == [26] * 4
    assert [r["val_loss"] for r in again] == [r["val_loss"] for r in results[:4]]
    ablate(few, beside={"largest_row": largest_row})
    assert "4 known, 0 to run" in capsys.readouterr().out


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


def loss_on_held_out_text(config, spec, params):
    """Mean cross entropy of each token given those before it, in NumPy."""
    rows = held_out_windows(config, load_corpus("", "copy"))[1].astype(int)
    logits = np.asarray(fx.apply(spec, params, rows[:, :-1]).logits, float)
    log_z = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    return np.mean(log_z - np.take_along_axis(logits, rows[:, 1:, None], -1)[..., 0])


def test_an_interrupted_sweep_goes_on_within_its_groups_to_the_same_bits(swept, tmp_path, monkeypatch, capsys):
    """The signal comes in the third chunk of ten; what was done by then is not done again."""
    folder, results = swept
    home, done, signals, advance = tmp_path / "out" / "mini", [], [], group._advance
    home.mkdir(parents=True)
    shutil.copy(folder / "out" / "mini" / "plan.json", home)

    def counted(crew, course, tokens):
        if course.step == 4 and not signals:
            signals.append(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            while not crew.sweep.stopped():  # the main thread hears it when it gets its turn
                time.sleep(0.001)
        done.append(tokens.shape[1])
        return advance(crew, course, tokens)

    monkeypatch.setattr(group, "_advance", counted)
    with pytest.raises(group.Interrupted):
        ablate(config(tmp_path))
    seen = view_of(home)
    assert (seen.state, seen.far) == ("interrupted", "0 done of 8 runs")
    assert {path.suffix for path in (home / "at_work").iterdir()} == {".npz"} and not (home / "results.jsonl").exists()
    (home / "at_work" / "0123456789abcdef.npz").write_bytes(b"of other code")
    again = ablate(config(tmp_path, "keep=best"))
    assert [without_time(r) for r in again] == [without_time(r) for r in results]
    for arm in ("pre", "post"):
        best = min((r for r in results if r["args"]["placement"] == arm), key=lambda r: r["val_loss"])
        kept, spec, params = load_run(home / "best" / arm)
        assert kept.settings() == best["args"] and run_of(home, best["key"]) == home / "best" / arm
        assert loss_on_held_out_text(kept, spec, params) == pytest.approx(best["val_loss"], rel=1e-4)
    assert sum(done) == 2 * 20 and not (home / "at_work").exists()
    seen = view_of(home)
    assert (seen.state, seen.far, sum(seen.counts.values())) == ("done", "8 done of 8 runs", 8)
    assert [curve.title for curve in seen.curves] == ["pre", "post"] and len(seen.curves[0].losses) == 20
    said = capsys.readouterr().out
    assert "4 runs go on from step" in said and f"at_work has 1 {STRANGE}" in said


@pytest.mark.parametrize(
    ("plan", "what"),
    [
        ("{", "it is not JSON"),
        ("[]", "it is no JSON object"),
        ('{"name": "loop", "reason": "", "seconds": 1.0}', "it has no devices"),
        ('{"name": "sard", "reason": "", "seconds": 1.0, "devices": 8}', "its name is 'sard', not one of loop, vmap"),
        ('{"name": "loop", "reason": "", "seconds": NaN, "devices": 8}', "its seconds is nan, not a finite number"),
        ('{"name": "loop", "reason": "", "seconds": 1.0, "devices": "8"}', "its devices is '8', not a whole number"),
    ],
)
def test_a_damaged_plan_is_one_sentence(tmp_path, plan, what):
    """The plan decides how losses round: none is taken in its place without a word."""
    (tmp_path / "plan.json").write_text(plan)
    with pytest.raises(UserError) as refused:
        kept_plan(tmp_path, None, None)
    said = str(refused.value)
    assert said.startswith(f"{tmp_path / 'plan.json'} is damaged: {what}") and "; remove it, and" in said


def test_one_program_serves_all_numbers_of_a_structure(tmp_path):
    c = config(tmp_path)
    groups = groups_of(cells_of(c, load_corpus("", "copy")))
    assert [len(group.cells) for group in groups] == [4, 4]


def test_the_default_ablation_takes_12_programs_for_720_runs():
    c = load("configs/norm_by_depth.toml")
    cells = cells_of(c, load_corpus("", "copy"))
    assert (len(cells), len(groups_of(cells))) == (720, 12)


def test_the_preview_says_what_it_will_cost_and_trains_nothing(tmp_path):
    text = preview(config(tmp_path))
    assert "8 cells over lr, placement, seed" in text
    assert "2 compilations" in text
    assert re.search(r"about \d+:\d\d: \d+:\d\d of training, \d+:\d\d of compilation, \d+ groups at once", text)
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


def test_records_are_json_with_a_checksum_in_the_order_they_were_done(swept):
    folder, results = swept
    file = folder / "out" / "mini" / "results.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for record in records:
        said = record.pop("checksum")
        assert said == hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16]
    assert sorted(records, key=lambda record: record["place"]) == results == Results(file).in_order()


def test_a_short_group_waits_for_no_long_one(tmp_path, monkeypatch):
    """The second group is on the disk while the first is still at work."""
    file, second = tmp_path / "out" / "mini" / "results.jsonl", threading.Event()
    waiting = config(tmp_path)

    def run_group(group, *_):
        placement = group.config.model["placement"]
        if placement == "pre":
            assert second.wait(30), "the second group was kept back"
        return [
            {
                "key": cell.key,
                "place": cell.place,
                "args": {},
                "outcome": "worked",
                "provenance": {"code": source_digest()},
            }
            for cell in group.cells
        ]

    class Seen(Results):
        def add(self, records):
            super().add(records)
            second.set()

    monkeypatch.setattr("train.sweep.ablate.run_group", run_group)
    monkeypatch.setattr("train.sweep.ablate.kept_plan", lambda *_: NO_PLAN)
    monkeypatch.setattr("train.sweep.ablate.Results", Seen)
    assert [r["place"] for r in ablate(waiting)] == list(range(8))
    assert [json.loads(line)["place"] for line in file.read_text().splitlines()] == [4, 5, 6, 7, 0, 1, 2, 3]


def test_a_grid_of_rates_grows_while_a_best_one_lies_on_its_edge(tmp_path, monkeypatch, capsys):
    """Losses fall towards a rate of 0.02 for pre and 0.005 for post: both get 0.1, and none gets more; run again, the
    same cells are known."""
    best = {"pre": 0.02, "post": 0.005}
    config(tmp_path)
    (tmp_path / "mini.toml").write_text((tmp_path / "mini.toml").read_text() + "[question]\nextend = 3\n")
    asked, trained = load(tmp_path / "mini.toml"), []

    def run_group(group, sweep):
        trained.extend(cell.key for cell in group.cells)
        return [
            {"key": cell.key, "place": cell.place, "args": cell.config.settings(), "outcome": "worked",
             "val_loss": 2 + math.log10(cell.config.train.lr / best[cell.config.model["placement"]]) ** 2,
             "initial_loss": 6.0, "windows": "", "corpus": {"sha256": sweep.corpus.sha256},
             "provenance": {"code": source_digest()}}
            for cell in group.cells
        ]  # fmt: skip

    monkeypatch.setattr("train.sweep.ablate.run_group", run_group)
    monkeypatch.setattr("train.sweep.ablate.kept_plan", lambda *_: NO_PLAN)
    monkeypatch.setattr("train.sweep.results.fault", lambda record: "")
    results = ablate(asked)
    rates = {p: sorted({r["args"]["lr"] for r in results if r["args"]["placement"] == p}) for p in ("pre", "post")}
    assert rates == {"pre": [1e-3, 1e-2, 0.1], "post": [1e-3, 1e-2, 0.1]}
    said = capsys.readouterr().out
    assert "the best lr of pre and post lies on the edge, 0.01: 0.1 is tried for all arms, rung 1 of 3" in said
    assert len(trained) == len(set(trained)) == 12
    assert ablate(asked) == results and len(trained) == 12
    said = capsys.readouterr().out
    assert "mini: 12 cells, 12 known, 0 to run" in said and "not in this grid" not in said
    assert "mini: 12 cells over" in preview(asked)
    assert json.loads((tmp_path / "out" / "mini" / "question.json").read_text())["arms"].keys() == set(trained)


def test_what_else_lies_in_a_folder_is_named_whoever_asks(swept, tmp_path, capsys):
    """`ablate` and `report` say the same: what is in the configuration, and what is not."""
    folder, _ = swept
    shutil.copytree(folder / "out", tmp_path / "out")
    home = tmp_path / "out" / "mini"
    assert standing(home) == [f"{home} has results of 8 of the 8 cells of its configuration"]
    few = config(tmp_path)
    ablate(replace(few, cells=few.cells[:3]))
    said = standing(home)
    others = f"has results of cells that are not in this grid: they stay there, and are no part of the answer; {AGAIN}"
    assert said == [
        f"{home} has results of 3 of the 3 cells of its configuration",
        f"{home / 'results.jsonl'} {others} (5)",
    ]
    assert said[1] in capsys.readouterr().out and len(answered(home)[1]) == 3
    (home / "question.json").unlink()
    assert standing(home) == [f"{home} holds no question, of an earlier version: all its 8 results are taken"]


def test_results_of_other_code_are_none(swept, monkeypatch):
    """They are named, and their cells run again; the same code knows them all."""
    folder, _ = swept
    cells, results = (
        cells_of(config(folder), load_corpus("", "copy")),
        Results(folder / "out" / "mini" / "results.jsonl"),
    )
    assert missing_of(cells, results) == []
    monkeypatch.setattr("train.sweep.due.source_digest", lambda: "changed")
    assert missing_of(cells, results) == cells


def test_two_arms_of_the_same_settings_are_refused(tmp_path):
    """Their runs would be the same ones, under two names."""
    config(tmp_path)
    file = tmp_path / "mini.toml"
    file.write_text(file.read_text().replace(AXES, 'arm = ["a", "b"]\nplacement = ["pre"]\nlr = [1e-3, 1e-2]\n'))
    with pytest.raises(UserError, match="arms 'a' and 'b' have the same settings"):
        cells_of(load(file), load_corpus("", "copy"))


@pytest.mark.parametrize(
    ("name", "arms", "pairs"),
    [
        ("qk_norm", 2, 1),
        ("fixed_rate", 2, 1),
        ("kv_heads", 4, 3),
        ("equal_parameters", 2, 1),
        ("deepnorm", 3, 2),
    ],
)
def test_questions_of_the_repository_are_asked(name, arms, pairs):
    asked = load(f"configs/questions/{name}.toml")
    rows = rows_of(asked, asked.cells)
    assert (len(arms_of(rows, asked.question)), len(pairs_of(rows, asked.question))) == (arms, pairs)
    assert list(objections(asked.question, rows)) == []
    assert cells_over(rows, asked.question) == list(asked.question.across)  # in all of these, arms meet


def test_a_race_runs_rung_by_rung_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    """Rates far from each arm's best get one seed; killed after the first rung, the same runs follow."""
    file = tmp_path / "mini.toml"
    config(tmp_path)
    rates = "[1e-4, 1e-3, 1e-2, 1e-1]"
    text = file.read_text().replace(
        "lr = [1e-3, 1e-2]\nseed = [0, 1]", f"lr = {rates}\nseed = [0, 1, 2, 3]\ndepth = [2, 4]"
    )
    file.write_text(text.replace("depth = 2\n", "") + '[question]\nrun = "racing"\n')
    trained = []

    def run_group(group, sweep):
        trained.extend(cell.key for cell in group.cells)
        assert len(group.crew) >= 4 and len(group.cells) <= 4  # a rate each, of one seed: one program for all rungs
        return [
            {"key": cell.key, "place": cell.place, "args": cell.config.settings(), "outcome": "worked",
             "val_loss": 2 + abs(math.log10(cell.config.train.lr) + 2) + 0.01 * (cell.place * 7 % 5),
             "initial_loss": 6.0, "windows": "", "corpus": {"sha256": sweep.corpus.sha256},
             "provenance": {"code": source_digest()}}
            for cell in group.cells
        ]  # fmt: skip

    monkeypatch.setattr("train.sweep.ablate.run_group", run_group)
    monkeypatch.setattr("train.sweep.ablate.kept_plan", lambda *_: NO_PLAN)
    monkeypatch.setattr("train.sweep.results.fault", lambda record: "")
    results = ablate(load(file))
    seeds = Counter((r["args"]["placement"], r["args"]["depth"], r["args"]["lr"]) for r in results)
    assert all(count == (4 if lr == 1e-2 else 1) for (_, _, lr), count in seeds.items()) and len(seeds) == 16
    assert len(trained) == len(set(trained)) == len(results) == 28
    said = capsys.readouterr().out
    assert "64 cells, 0 known, 16 to run, then the race says what else\n" in said
    assert "64 cells, 28 known, 0 to run\n" in said
    written = tmp_path / "out" / "mini" / "results.jsonl"
    lines = written.read_bytes().splitlines(keepends=True)
    written.write_bytes(b"".join(lines[:19]))
    assert ablate(load(file)) == results and len(trained) == 28 + 9


def test_a_run_that_is_dead_stops_and_touches_no_other(tmp_path):
    """lr = 1e30 is no number after a step: its record is that of two chunks, 4 steps of 20."""
    asked = replace(config(tmp_path), cells=[{"placement": "pre", "lr": lr, "seed": 0} for lr in (1e-3, 1e30)])
    alive, dead = ablate(replace(asked, question=Question(compare=("lr",), tune=(), at="the same rate", run="racing")))
    assert (dead["outcome"], dead["stopped"], len(dead["loss"])) == ("diverged", 4, 4)
    assert dead["tokens"] == 4 * 4 * 12 and {len(looks) for looks in dead["stats_curve"].values()} == {3}
    assert (alive["stopped"], len(alive["loss"])) == (None, 20)
    whole = ablate(asked)
    assert whole[0] == alive and (whole[1]["stopped"], len(whole[1]["loss"])) == (None, 20)
