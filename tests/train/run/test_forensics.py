"""What broke a run is named right: step, layer, tensor and operation; the case that it leaves is looked at again."""

import json
import sys
from functools import partial

import jax
import numpy as np
import pytest

from train import cli as command_line
from train.config import Config
from train.data.corpus import load_corpus
from train.files import json_lines
from train.run import devices, loop
from train.run.forensics import _case, _taps, examine_again, examine_cell
from train.run.log import read, settings_of
from train.run.loop import run
from train.run.taps import Value
from train.step import numbers_of, recipe_of, start, train_step
from train.sweep.results import Results
from train.verdict.outcome import SUSTAINED

MODEL = {"width": 16, "heads": 2, "depth": 2}
SETTINGS = {"length": 12, "batch": 4, "steps": 30, "save_every": 6, "log_every": 1, "validation": 8, "task": "copy"}
BLOCK = "params/stack/group_0/blocks/block_0/"
PATH = partial(jax.tree_util.keystr, simple=True, separator="/")


def config(tmp_path, **settings):
    return Config(name="run", model=MODEL).with_settings({**SETTINGS, "out": str(tmp_path), **settings})


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """(recipe, numbers, state, tokens, a step with taps) of a run that begins."""
    settings = config(tmp_path_factory.mktemp("begun"))
    recipe, numbers = recipe_of(settings), numbers_of(settings)
    state = jax.jit(start, static_argnums=0)(recipe, numbers)
    tokens = np.random.default_rng(0).integers(0, 255, (4, 13)).astype(np.uint8)
    return recipe, numbers, state, tokens, _taps(recipe, numbers, state, tokens)


def changed(state, path, change, place=...):
    """The state with the entries of one leaf at `place` changed."""

    def of(found, leaf):
        leaf = np.array(leaf)
        if PATH(found) == path:
            leaf[place] = change(leaf[place])
        return leaf

    return jax.tree_util.tree_map_with_path(of, state)


def logits_overflow(state):
    for part in ("query", "key"):
        state = changed(state, f"{BLOCK}attention/{part}/weight", lambda x: 1e20 * x, 1)
    return state


def gradient_overflows(state):
    """The attention of layer 1 speaks with 1e30, its way out takes that back, and the gradients are 1e10."""
    for part, factor in (("value", 1e30), ("out", 1e-30)):
        state = changed(state, f"{BLOCK}attention/{part}/weight", lambda x, factor=factor: factor * x, 1)
    return changed(state, "params/stack/final_norm/scale", lambda x: 1e10 * x)


FAULTS = {  # a fault written into the state, and what is to be named
    "an attention logit overflows": (
        logits_overflow, ("forward", 1, "attention", "logits_BGQTS", "dot_general btgqk,bgsk->bgqts")),
    "a gradient overflows": (gradient_overflows, ("backward", 1, "attention/out", "y", "dot_general")),
    "one parameter is no number": (
        lambda state: changed(state, f"{BLOCK}ffn/up/weight", lambda x: np.nan, (1, 3, 5)),
        ("state", 1, "ffn/up", "weight of params", "")),
    "a row of the embedding is infinite": (
        lambda state: changed(state, "params/embed/table", lambda x: np.inf, 97),
        ("state", None, "embed", "table of params", "")),
    "a moment overflows when it is corrected": (
        lambda state: changed(state, f"optimizer/1/mu{BLOCK.removeprefix('params')}ffn/down/weight",
                              lambda x: 3e38, (1, 3, 5)),
        ("update", 1, "ffn/down/weight", "updates", "div")),
    "a residual stream overflows": (
        lambda state: changed(state, f"{BLOCK}ffn/down/weight", lambda x: 3e38 * np.sign(x), 0),
        ("forward", 0, "ffn/down", "y", "dot_general")),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_the_first_array_that_is_not_finite_is_named(begun, fault):
    _, _, state, tokens, taps = begun
    spoil, named = FAULTS[fault]
    finding = _case(taps, spoil(state), tokens, {}).finding
    assert finding.name == ("non-finite", 1, *named)
    assert all(str(part) in finding.sentence for part in named if part)


def test_a_case_says_where_the_first_entry_stands_and_what_it_was_made_of(begun):
    _, _, state, tokens, taps = begun
    told = _case(taps, FAULTS["one parameter is no number"][0](state), tokens, {}).finding.sentence
    weight = np.abs(state.params["stack"]["group_0"]["blocks"]["block_0"]["ffn"]["up"]["weight"][1])
    share = f"{100 / weight.size:.3g} % of the entries are not finite"
    assert told.endswith(f": {share}, the first at [3, 5]; the others are at most {weight.max():.3g}")
    told = _case(taps, logits_overflow(state), tokens, {}).finding
    assert told.place.startswith("fxformer/ops/scores.py:")
    q, k = (float(number) for number in told.sentence.split("entries up to ")[1].split(":")[0].split(" and "))
    assert 1e20 < q < 1e21 and 1e20 < k < 1e21 and q > 3.4e38 / k


def test_the_taps_are_on_the_step_itself(begun):
    """Its results and statistics come from the compiled step, which has no taps."""
    recipe, numbers, state, tokens, taps = begun
    after, metrics = jax.jit(partial(train_step, recipe))(numbers, state, tokens)
    (tapped, loss), _ = taps(state, tokens)
    values = jax.tree.leaves(tapped, is_leaf=lambda node: isinstance(node, Value))
    for wanted, value in zip(jax.tree.leaves(after), values, strict=True):
        np.testing.assert_allclose(value.array, wanted, atol=1e-6)
    assert float(loss.array) == pytest.approx(float(metrics.loss), rel=1e-6)
    rows = {row.name: row for row in _case(taps, state, tokens, {}).rows}
    for layer in range(2):
        highest = float(metrics.layers["attention_logit_max"][layer])
        assert rows["forward", layer, "attention", "logits_BGQTS"].largest >= highest > 0
        step = after.params["stack"]["group_0"]["blocks"]["block_0"]["ffn"]["up"]["weight"][layer]
        step -= state.params["stack"]["group_0"]["blocks"]["block_0"]["ffn"]["up"]["weight"][layer]
        assert rows["update", layer, "ffn/up/weight", "updates"].rms == pytest.approx(
            float(np.sqrt(np.mean(np.square(step)))), rel=1e-3
        )


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A run in float16 whose rate rises until it breaks, and its result."""
    settings = config(tmp_path_factory.mktemp("broken"), dtype="float16", lr=40.0, warmup=60, steps=60, save_every=3)
    return settings, run(settings)


def test_a_run_that_breaks_names_the_tensor_and_leaves_a_case(broken):
    _, result = broken
    case, found = examine_again(result.case)
    step = found.step
    assert result.outcome == "non-finite" and step in (result.step - 1, result.step) and step > 3
    assert result.case.name == f"step_{step}" and result.cause == found.sentence == case.finding.sentence
    assert found.kind == "non-finite" and found.layer is not None and f"step {step}, layer" in found.sentence
    assert float(found.sentence.rpartition(" ")[2]) < 65504.5, "what is left is finite in float16"


def test_the_state_of_a_case_is_that_before_the_step_bit_for_bit(broken, tmp_path):
    settings, result = broken
    held = np.load(result.case / "arrays.npz")
    recipe, numbers = recipe_of(settings), numbers_of(settings)
    state = jax.jit(start, static_argnums=0)(recipe, numbers)
    advance = jax.jit(partial(train_step, recipe))
    corpus = load_corpus("", "copy")
    with loop.layout_of(settings) as layout:
        steps = loop.steps_of(settings, corpus, layout)
        for step in range(1, int(held["state/step"]) + 1):
            state, _ = advance(numbers, state, steps.tokens(step))
    for path, leaf in jax.tree.leaves_with_path({"state": state}):
        assert np.array_equal(held[PATH(path)], leaf), PATH(path)


def test_a_spike_is_looked_at_and_changes_nothing(tmp_path, monkeypatch):
    plain = run(config(tmp_path / "plain"))
    assert not (tmp_path / "plain" / "run" / "forensics").exists()
    monkeypatch.setattr(loop, "has_spiked", lambda losses: len(losses) == 12)
    step = 13 - SUSTAINED
    spiked = run(config(tmp_path / "spiked"))
    logs = [read(tmp_path / name / "run" / "log.jsonl") for name in ("plain", "spiked")]
    losses = [{line["step"]: line["loss"] for line in log if "loss" in line} for log in logs]
    assert losses[0] == losses[1] and plain.val_loss == spiked.val_loss
    assert [line for line in logs[1] if "event" in line] == [{"step": step, "event": "spike"}]
    case, found = examine_again(tmp_path / "spiked" / "run" / "forensics" / f"step_{step}")
    assert case.finding.name == found.name and found.name[:3] == ("growth", step, "forward")
    layers = {line["step"]: line["layers"] for line in logs[1] if "layers" in line}
    for layer, told in enumerate(zip(*(layers[each]["residual_rms"] for each in (step - 1, step)), strict=True)):
        (row,) = (row for row in case.rows if row.name == ("forward", layer, "ffn_residual", "stream"))
        assert (row.before, row.rms) == pytest.approx(told, rel=1e-5)
    most = max((row for row in case.rows if row.phase == "forward"), key=lambda row: row.rms / (row.before or np.inf))
    assert most.name == found[2:6]


def test_a_run_of_a_sweep_is_made_again_and_looked_at(tmp_path):
    settings = config(tmp_path, dtype="float16", lr=40.0, warmup=60, steps=60)
    corpus = {"sha256": load_corpus("", "copy").sha256}
    record = {"key": "0123abcd", "args": settings_of(settings), "corpus": corpus, "outcome_step": 60}
    case, folder = examine_cell(tmp_path, record)
    assert folder == tmp_path / "forensics" / "0123abcd" / f"step_{case.finding.step}"
    assert case.finding.kind == "non-finite" and case.finding.step < 60
    with pytest.raises(ValueError, match="0123abcd was trained on another text than copy is now"):
        examine_cell(tmp_path, {**record, "corpus": {"sha256": "other"}})


def called(monkeypatch, *words) -> int:
    monkeypatch.setattr(devices, "keep_compiled", lambda out: None)
    monkeypatch.setattr(sys, "argv", ["train", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    return ended.value.code


def test_the_command_runs_a_case_again(broken, tmp_path, monkeypatch, capsys):
    _, result = broken
    assert called(monkeypatch, "replay", result.case) == 0
    told = capsys.readouterr().out
    assert told.strip().endswith(result.cause)
    assert {line.split()[0] for line in told.splitlines()[1:-2]} == {"forward", "backward", "update"}
    found = json.loads((result.case / "found.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    for name in ("arrays.npz", "config.json"):
        (other / name).write_bytes((result.case / name).read_bytes())
    (other / "found.json").write_text(json.dumps({**found, "finding": {**found["finding"], "layer": 7}}))
    assert called(monkeypatch, "replay", other) == 1
    assert "before, something else was found" in capsys.readouterr().out
    (other / "arrays.npz").write_bytes(b"no arrays")
    assert called(monkeypatch, "replay", other) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {other / 'arrays.npz'} is damaged") and told.count("\n") == 1


def test_a_run_of_a_sweep_is_singled_out_or_the_difference_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("train.sweep.results.fault", lambda record: "")
    records = [{"key": f"{lr}f", "args": {"lr": lr, "seed": 0, "norm": "rms"}} for lr in (1, 2)]
    (tmp_path / "results.jsonl").write_bytes(json_lines(records))
    results = Results(tmp_path / "results.jsonl")
    assert results.one("2", {}) == results.one("", {"lr": 2}) == records[1]
    with pytest.raises(ValueError, match=r"has 2 runs of norm=rms; say lr too"):
        results.one("", {"norm": "rms"})
    with pytest.raises(ValueError, match=r"has no run of 3; it has 2 others"):
        results.one("3", {})
