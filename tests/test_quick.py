"""What `make quick` tries beside the oracles of every op: one law of each kind, every part and every command once."""

import math
import re
from functools import partial
from itertools import cycle
from pathlib import Path

import jax
import numpy as np
import pytest

import fxformer as fx
from fxformer import zoo
from fxformer.__main__ import main
from fxformer.verify import DECODE_LAWS, LAWS, lawful, text_of
from tests.laws import reference
from tests.laws.specs import apart
from tests.laws.test_structures import COORDS, case_of, influence, reachable
from tests.quick import AXES, EVERY, HANDFUL, entries
from train import cli
from train.combine import combinations
from train.commands import models, reports, runs, sweeps
from train.config import load
from train.objectives import OBJECTIVES
from train.optim.optimizer import OPTIMIZERS
from train.optim.schedule import SCHEDULES
from train.run import devices
from train.step import numbers_of, recipe_of, start, train_step

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.quick


def test_a_handful_of_structures_has_every_entry_of_every_table():
    assert set().union(*map(entries, HANDFUL.values())) == EVERY
    assert len(HANDFUL) <= max(map(len, AXES.values())) + 7, "a structure a placement, and few others"


def test_every_op_has_an_oracle():
    ops = {path.stem for path in (ROOT / "fxformer" / "ops").glob("[a-z]*.py")}
    assert {name for name in ops if "@pytest.mark.oracle" in (ROOT / f"tests/ops/test_{name}.py").read_text()} == ops


@pytest.fixture(scope="module")
def case(request):
    return case_of(HANDFUL[request.param])


KNOWN = [name for name, spec in HANDFUL.items() if reference.knows(spec)]


@pytest.mark.parametrize("case", KNOWN, indirect=True)
def test_logits_equal_float64_numpy(case):
    for coords in COORDS.values():
        exact, _, _ = reference.forward(case.spec, case.params, case.tokens, coords)
        np.testing.assert_allclose(case.says(coords).logits, exact, atol=2e-5 * np.abs(exact).max())


@pytest.mark.parametrize("case", [name for name in KNOWN if name in apart(HANDFUL)], indirect=True)
def test_a_token_influences_exactly_what_the_masks_let_it_reach(case):
    np.testing.assert_array_equal(influence(case, COORDS["packed"]), reachable(case, COORDS["packed"]))


def one_each(laws, structures) -> list[tuple[str, str]]:
    """(law, structure): each law with the first structure that it concerns, and where it can with one of its own."""
    chosen: dict[str, str] = {}
    for name, law in laws.items():
        concerned = [structure for structure in structures if law.concerns(HANDFUL[structure])]
        chosen[name] = next((each for each in concerned if each not in chosen.values()), concerned[0])
    return list(chosen.items())


@pytest.mark.parametrize(("law", "structure"), one_each(LAWS, sorted(HANDFUL, key=KNOWN.__contains__)))
def test_each_law_holds_for_a_model(law, structure):
    deviation, allowed = LAWS[law].check(text_of(lawful(HANDFUL[structure])))
    assert deviation <= allowed


def first(law) -> str:
    """The first structure that a law concerns: laws of decoding share its programs."""
    return next(name for name in [*KNOWN, *HANDFUL] if law.concerns(HANDFUL[name]))


@pytest.mark.parametrize(("law", "structure"), [(name, first(law)) for name, law in DECODE_LAWS.items()])
def test_each_law_of_decoding_holds_for_a_model(law, structure):
    deviation, allowed = DECODE_LAWS[law].check(text_of(lawful(HANDFUL[structure])))
    assert deviation <= allowed


CONFIGURED = {load(path).train.objective: load(path) for path in (ROOT / "configs" / "objectives").glob("*.toml")}


def steps() -> list[tuple[str, str, str]]:
    """Every objective, optimizer and schedule: the longest of the tables once, the others in turn."""
    assert len(OBJECTIVES) >= max(len(OPTIMIZERS), len(SCHEDULES))
    return list(zip(OBJECTIVES, cycle(OPTIMIZERS), cycle(SCHEDULES), strict=False))  # a cycle has no end


@pytest.mark.parametrize(("objective", "optimizer", "schedule"), steps())
def test_a_step_gives_back_a_state_of_the_shapes_and_types_it_was_given(objective, optimizer, schedule):
    """Traced, not compiled: what a loop over steps needs. Other mixtures of blanks are learned by the same model."""
    base = CONFIGURED.get(objective, CONFIGURED["blank_infilling"])
    config = base.with_settings({"objective": objective, "optimizer": optimizer, "schedule": schedule})
    recipe, numbers = recipe_of(config), numbers_of(config)
    state = jax.eval_shape(partial(start, recipe), numbers)
    tokens = jax.ShapeDtypeStruct((config.data.batch, config.row), np.int32)
    after, _ = jax.eval_shape(partial(train_step, recipe), numbers, state, tokens)
    assert after == state


def small(tmp_path, more: str = "") -> Path:
    """A configuration of a run of two steps, or with a grid of a sweep."""
    file = tmp_path / "small.toml"
    file.write_text(
        f'[model]\nwidth = 16\nheads = 2\ndepth = 1\n[data]\ntask = "markov"\nlength = 12\nbatch = 4\nvalidation = 4\n'
        f'[train]\nsteps = 2\nwarmup = 1\n[run]\nout = "{tmp_path}"\n{more}'
    )
    return file


def checkpoint(tmp_path) -> Path:
    """A folder that `generate` reads: a model of bytes."""
    spec = zoo.tiny("llama-7b")
    fx.hf.save(spec, fx.init(spec, jax.random.key(0)), tmp_path / "bytes")
    return tmp_path / "bytes"


@pytest.fixture
def laboratory(monkeypatch):
    """The commands of the laboratory, in this process with its devices and programs; `combine` is left what is refused,
    which is soon said: see its own tests."""
    monkeypatch.setattr(devices, "use_host_devices", lambda count: None)
    monkeypatch.setattr(devices, "keep_compiled", lambda out: None)
    refused = {axis: values[:1] for axis, values in combinations.AXES.items()} | {"attention": ("mla",)}
    monkeypatch.setattr(combinations, "AXES", refused)


def test_each_command_of_the_laboratory_works_once(tmp_path, laboratory, capsys):
    folder = tmp_path / "small"
    said = {}

    def call(command, *arguments, **options):
        assert command(*arguments, **options) == 0
        said[command.__name__] = capsys.readouterr().out

    call(runs.run, small(tmp_path))
    call(runs.sample, folder, prompt="ab", tokens=3)
    call(runs.probe, (folder,), length=12, size=4, count=4)
    call(reports.watch, folder)
    call(models.settings, "lr")
    call(models.plan, "gpt2", "h100:1", formulas=True)
    call(models.combine)
    swept = small(tmp_path, "[grid.product]\nlr = [1e-3, 1e-2]\nseed = [0, 1]\n")
    call(sweeps.ablate, swept, settings=(f"out={tmp_path / 'sweeps'}",))
    call(reports.report, tmp_path / "sweeps" / "small")
    call(runs.replay, tmp_path / "sweeps" / "small", settings=("lr=1e-3", "seed=0"))
    arms = [f"{tmp_path / 'sweeps' / 'small'}:{name}" for name in ("lr 0.001", "lr 0.01")]
    assert reports.judge(*arms) == 2, "two seeds are no comparison"
    said["judge"] = capsys.readouterr().out
    # Sweeps over sizes, each of which is compiled: see tests/train/sweep and tests/train/reproduce.
    elsewhere = {"coords", "transfer", "ladder", "reproduce"}
    assert set(said) | elsewhere == commands("train", capsys)
    assert "at step 2 of 2: validation loss" in said["run"] and "small  done" in said["watch"]
    assert said["sample"].startswith("ab")
    assert f"0 met, {math.comb(len(combinations.AXES), 2)} refused" in said["combine"]
    assert said["report"] in said["ablate"] and "it fits" in said["plan"]
    assert ": all is finite; " in said["replay"]


def test_each_command_of_the_library_works_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(zoo, "names", lambda: ["gpt2", "llama-7b"])  # counting all takes a moment, and so do all laws
    monkeypatch.setattr("fxformer.verify.LAWS", {"the past is seen": LAWS["the past is seen"]})
    said = {}
    for words in (
        ("list",),
        ("describe", "gpt2"),
        ("count", "gpt2"),
        ("verify", "llama-7b"),
        ("explain", "mla"),
        ("generate", str(checkpoint(tmp_path)), "--prompt", "ab", "--max-new-tokens", "3"),
    ):
        assert main(words) == 0
        said[words[0]] = capsys.readouterr().out
    assert set(said) == commands("fxformer", capsys)
    assert said["count"] == "124439808\n" and "124,439,808" in said["list"]
    assert "FAILED" not in said["verify"] and said["verify"].count(" ok ") == 1
    assert said["generate"].startswith("ab") and "mla.py:" in said["explain"]


def commands(package: str, capsys) -> set[str]:
    """The commands that --help of a package lists."""
    with pytest.raises(SystemExit):
        if package == "fxformer":
            main(["--help"])
        else:
            cli.app.cli(prog="train", args=["--help"])
    text = capsys.readouterr().out
    choices = re.search(r"\{([a-z,\s]+)\}", text)  # of the usage line, or else the first words of lines
    return set(re.findall(r"\w+", choices[1]) if choices else re.findall(r"^ {4}(\w+) +\S", text, flags=re.MULTILINE))
