"""What an experiment reads of its results: planted truth is found, and so is its opposite."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from tests.train.reproduce.planted import result
from train.config import Config
from train.config.config import Data
from train.reproduce import scale
from train.reproduce.experiments import EXPERIMENTS
from train.reproduce.looks import order_gap
from train.reproduce.reproduce import configuration
from train.step import numbers_of, recipe_of
from train.sweep.coords import Coordinate, Sizes
from train.verdict.outcome import WORKED
from train.verdict.stats import Slope


def gradient(c):
    return {"gradient": 1.0 if c["placement"] == "post" else c["depth"] ** -0.5}


def flat_gradient(c):
    return {"gradient": 1.0 if c["placement"] == "pre" else c["depth"] ** -0.5}


def warmup(c):
    return {"works": c["placement"] == "pre" or c["warmup"] > 0}


def needless_warmup(c):
    return {"loss": 2.5 + 0.5 * (c["placement"] == "pre") * (c["warmup"] == 0) - 0.3 * (c["warmup"] == 0)}


def reach(c):
    return {"works": c["depth"] < 8 or c["placement"] == "pre" or "residual_scale" in c}


def no_reach(c):
    return {"works": c["depth"] < 8 or (c["placement"] == "post" and "residual_scale" not in c)}


def by_rate(c, cost):
    """A loss that is best at 1e-2 and rises by `cost` nats for each factor of ten away from it."""
    return 2.5 + cost * abs(np.log10(c["lr"]) + 2)


def normed(c):
    qk = c["qk_norm"] == "layer"
    return {"loss": by_rate(c, 0.2 if qk or c["z_loss"] else 0.4), "logit": 3 * c["lr"] ** (0.1 if qk else 0.8)}


def harmed(c):
    qk = c["qk_norm"] == "layer"
    return {"loss": by_rate(c, 0.6 if qk or c["z_loss"] else 0.4), "logit": 3 * c["lr"] ** (-0.1 if qk else -0.2)}


def grown(c):
    """The stream of pre-norm grows more with depth, and more with the rate."""
    pre = c["placement"] == "pre"
    return {"rms": (0.9 if pre else 0.4) + (0.2 if pre else 0.05) * np.log10(c["lr"] / 3e-3), "loss": by_rate(c, 0.2)}


def remedied(c):
    """Each remedy takes 0.05 nats of the cost of a factor of ten, so they add up."""
    count = sum([c.get("qk_norm") == "layer", c.get("placement") == "sandwich", "softcap" in c, bool(c.get("z_loss"))])
    return {"loss": by_rate(c, 0.4 - 0.05 * count)}


def drifting(c, size, still):
    """The best rate falls as 1 / size, but for one parametrisation; a parabola in the logarithm of the rate."""
    best = 16e-3 * (1 if c["parametrization"] == still else 4 / c[size] * (8 if size == "width" else 1))
    return {"loss": 2.5 + 0.1 * np.log2(c["lr"] / best) ** 2}


PLANTED = {
    "E1": (gradient, {"reproduced"}),
    "E2": (warmup, {"reproduced"}),
    "E3": (reach, {"reproduced"}),
    "E5": (normed, {"reproduced"}),
    "E6": (grown, {"reproduced"}),
    "E8": (lambda c: drifting(c, "width", "mup"), {"reproduced"}),
    "E9": (lambda c: {"loss": by_rate(c, 0.2)}, {"reproduced"}),
    "E11": (lambda c: drifting(c, "depth", "completep"), {"reproduced"}),
    "E12": (remedied, {"reproduced"}),
}
OPPOSITE = {
    "E2": (needless_warmup, "post-norm without warm-up"),
    "E3": (no_reach, "DeepNorm trains"),
    "E5": (harmed, "qk-norm lowers"),
    "E6": (lambda c: {"rms": 0.4 if c["placement"] == "pre" else 0.9}, "the stream grows faster"),
    "E8": (lambda c: drifting(c, "width", "standard"), "under mup the best rate stays"),
    "E11": (lambda c: drifting(c, "depth", "mup"), "under mup it falls"),
    "E9": (lambda c: {"loss": by_rate(c, 0.2) + 0.1 * (c["kv_heads"] == 1)}, "MQA keeps the loss"),
}


@pytest.fixture(autouse=True)
def checked(monkeypatch):
    """A coordinate check in which training changes activations as theory says; that one is tried in its own room."""
    monkeypatch.setattr(scale, "coordinates", lambda config, say: told({"mup": 0.02, "standard": 0.5}))


def told(slopes):
    return [
        Coordinate({"parametrization": name}, "width", tensor, Sizes(None, None, Slope(slope, 0.01, 0.0)))
        for name, slope in slopes.items() for tensor in ("embed", "head/out")
    ]  # fmt: skip


def test_a_coordinate_check_that_is_not_flat_contradicts_mup(monkeypatch):
    monkeypatch.setattr(scale, "coordinates", lambda config, say: told({"mup": -0.3, "standard": 0.01}))
    claims = found("E8", lambda c: drifting(c, "width", "mup")).claims
    assert [claim.answer for claim in claims] == ["reproduced"] * 2 + ["contradicted"] * 2


def found(name, plant):
    experiment = EXPERIMENTS[name]
    config = configuration(experiment, Path("nowhere"), quick=False)
    return experiment.read(config, [result(config, cell, **plant(cell)) for cell in config.cells])


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_law_is_found(name):
    plant, answers = PLANTED[name]
    claims = found(name, plant).claims
    assert claims and {claim.answer for claim in claims} == answers, [claim.sentence for claim in claims]


@pytest.mark.parametrize("name", OPPOSITE)
def test_the_opposite_of_a_claim_contradicts_it(name):
    plant, text = OPPOSITE[name]
    answers = {claim.text: claim.answer for claim in found(name, plant).claims}
    assert next(answer for said, answer in answers.items() if text in said) == "contradicted", answers


def test_depth_alone_moves_neither_gradient():
    """Where pre-norm's gradient does not fall and post-norm's does, both laws are contradicted."""
    assert [claim.answer for claim in found("E1", flat_gradient).claims] == ["contradicted"] * 2


def test_a_norm_is_judged_by_its_loss_and_its_time():
    def plant(c):
        return {"loss": by_rate(c, 0.2) + 0.1 * (c["norm"] == "rms")}

    told = found("E4", plant)
    loss, seconds = told.claims
    assert "A step took 0.900 of the time" in told.note
    assert loss.answer == "contradicted" and loss.measured.value == pytest.approx(0.1, abs=0.01)
    assert 0 < seconds.measured.low <= seconds.measured.value <= seconds.measured.high


def test_rezero_is_the_identity_to_the_last_bit():
    identity, trains = found("E7", lambda c: {"loss": by_rate(c, 0.2)}).claims
    assert (identity.measured, identity.answer) == ((0, 0, 0), "reproduced")
    assert trains.answer == "reproduced"


def test_a_stack_that_is_no_identity_is_told_from_one():
    experiment = EXPERIMENTS["E7"]
    config = configuration(experiment, Path("nowhere"), quick=True)
    pre = replace(config, model={**config.model, "placement": "pre"})
    identity = experiment.read(pre, [result(pre, cell) for cell in pre.cells]).claims[0]
    assert identity.answer == "contradicted" and identity.measured.value > 0.1


def test_order_is_read_of_what_was_measured_beside():
    def plant(c):
        return {"order": {"rotary": 0.5, "none": 0.0 if c["depth"] == 1 else 0.2}[c["position"]], "noise": 1e-6,
                "loss": by_rate(c, 0.2) + 0.3 * (c["position"] == "none")}  # fmt: skip

    assert {claim.answer for claim in found("E10", plant).claims} == {"reproduced"}


def test_one_layer_without_positions_sees_no_order_and_two_do():
    """Untrained ones already: one layer's answer is a function of a bag and the last token, two layers' is not."""
    rows_WT = np.random.default_rng(0).integers(0, 256, (16, 10)).astype(np.uint8)
    gaps = {}
    for depth in (1, 2):
        model = {"width": 8, "heads": 2, "depth": depth, "position": "none", "head": "untied", "init_scale": 3.0}
        config = Config(name="x", model=model, data=Data(length=9))
        params = fx.init(config.spec(), jax.random.key(0))
        gaps[depth] = float(order_gap(recipe_of(config), numbers_of(config), params, jnp.asarray(rows_WT)))
    assert abs(gaps[1]) < 1e-5 < 1e-3 < abs(gaps[2])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_quick_try_keeps_two_seeds_and_every_arm(name):
    """Whatever is compared is in it: only seeds, depths and rates may be fewer."""
    whole, quick = (configuration(EXPERIMENTS[name], Path("nowhere"), quick=each) for each in (False, True))
    fewer = set(EXPERIMENTS[name].quick)
    assert fewer <= {"seed", "depth", "lr", "width"} and 0 < len(quick.cells) <= len(whole.cells)
    assert quick.run.out != whole.run.out
    assert len({cell["seed"] for cell in quick.cells}) > 1

    def arms(cells):
        fine = {"seed", "depth", "lr", "width", "residual_scale", "branch_scale"}
        return {str({k: v for k, v in cell.items() if k not in fine}) for cell in cells}

    assert arms(quick.cells) == arms(whole.cells)


def test_a_run_that_spiked_and_recovered_worked():
    assert "spiked" in WORKED and "stuck" not in WORKED
