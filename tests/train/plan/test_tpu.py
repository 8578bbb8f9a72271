"""What the TPU's own compiler says; run where libtpu is installed: make plan-all."""

import jax
import pytest

from fxformer import zoo
from fxformer.verify import uncacheable
from tests.learning import SPEAKING, objective_of
from train.config import Config
from train.plan.estimate import Candidate, by_compiler
from train.plan.programs import Decoding
from train.plan.topology import compiles, stay_on_cpu, topology_of

pytestmark = [
    pytest.mark.tpu,
    pytest.mark.skipif(
        not compiles(topology_of("v5e:2x2")), reason="libtpu is not installed: pip install fxformer[plan]"
    ),
]


@pytest.fixture(autouse=True)
def optimised():
    """The TPU's compiler is asked as a user asks it."""
    stay_on_cpu()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def planned(name, how=None):
    """The plan of a published structure at toy widths on four chips, its batch cut."""
    objective = objective_of(name)
    settings = {
        "tiny": name,
        "length": 66 if objective == "blank_infilling" else 32,
        "batch": 4,
        "objective": objective,
    }
    config = Config(name=name).with_settings(settings)
    return by_compiler(Candidate(config=config, topology=topology_of("v5e:2x2"), mesh="data=4", rules="dp", how=how))


@pytest.mark.parametrize("name", SPEAKING)
def test_every_structure_trains(name):
    estimate = planned(name)
    assert estimate.fits and estimate.flops["program"] > 0.5 * estimate.flops["causal"]


@pytest.mark.parametrize("name", [name for name in SPEAKING if uncacheable(zoo.tiny(name)) is None])
def test_every_structure_decodes(name):
    estimate = planned(name, Decoding(batch=4, length=32))
    assert estimate.fits and estimate.memory["cache"] > 0


def test_the_compiler_holds_the_bytes_that_shapes_and_places_say():
    """Of a model of real widths, to 1 %: arrays that are smaller than a tile take a whole one."""
    config = Config(name="gpt2").with_settings({"zoo": "gpt2", "dtype": "bfloat16"})
    how = Decoding(batch=64, length=1024)
    estimate = by_compiler(
        Candidate(config=config, topology=topology_of("v5e:2x2"), mesh="data=4", rules="dp", how=how)
    )
    held = estimate.memory["parameters"] + estimate.memory["cache"]
    assert held == pytest.approx(estimate.arguments, rel=0.01)
    assert estimate.fits and estimate.bound == "memory"


def test_what_does_not_fit_is_refused_by_the_compiler_with_what_it_takes():
    config = Config(name="wide").with_settings({"width": 8192, "heads": 64, "depth": 2, "batch": 4, "length": 64})
    estimate = by_compiler(Candidate(config=config, topology=topology_of("v5e:2x2"), mesh="data=4", rules="dp"))
    assert estimate.refused and not estimate.fits and estimate.used > estimate.available
