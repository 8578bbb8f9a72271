"""What the TPU's own compiler says; run where libtpu is installed: make plan-all."""

import re

import jax
import pytest

from fxformer import sharding, zoo
from fxformer.layers.context import Execution
from fxformer.verify import uncacheable
from tests.learning import SPEAKING, objective_of
from train.config import Config
from train.plan.estimate import Candidate, by_compiler
from train.plan.hlo import cost_of
from train.plan.programs import Decoding, training
from train.plan.topology import compiles, mesh_of, stay_on_cpu, topology_of

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


@pytest.mark.parametrize("remat", [False, True])
def test_the_splash_kernel_is_the_default_is_compiled_and_is_counted(remat):
    """It multiplies queries by keys three times more in its backward pass, whose two kernels share no product."""
    settings = {"width": 256, "heads": 2, "depth": 2, "length": 1024, "batch": 4, "dtype": "bfloat16"}
    config, mesh = Config(name="toy").with_settings(settings), mesh_of(topology_of("v5e:2x2"), "data=4")
    programs = {}
    for kernel in (None, "naive"):
        how = Execution(kernel=kernel, remat=remat)
        programs[kernel] = training(config, mesh, sharding.PRESETS["dp"], how).lower().compile()
    kernels = re.findall(r"%splash_mha_(\w+?)_(?:no_)?residuals[.\d]* =", programs[None].as_text())
    assert sorted(kernels) == ["dkv", "dq", "fwd", "fwd"] if remat else ["dkv", "dq", "fwd"]
    splash, naive = (cost_of(programs[kernel].as_text()) for kernel in (None, "naive"))
    product = 2 * 2 * 1024 * 1024 * 256  # of both layers, for one row
    assert splash.flops - naive.flops == pytest.approx(3 * product, rel=1e-3)


def test_what_does_not_fit_is_refused_by_the_compiler_with_what_it_takes():
    config = Config(name="wide").with_settings({"width": 8192, "heads": 64, "depth": 2, "batch": 4, "length": 64})
    estimate = by_compiler(Candidate(config=config, topology=topology_of("v5e:2x2"), mesh="data=4", rules="dp"))
    assert estimate.refused and not estimate.fits and estimate.used > estimate.available
