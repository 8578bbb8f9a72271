"""Faults of a cut, each in a program that has it and in one that has not; compiled for devices of this process."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from fxformer import sharding
from fxformer.layers.context import Execution
from train.config import Config
from train.plan.hlo import Module
from train.plan.lint import idle_exchanges, lint, whole_activations, whole_arguments
from train.plan.programs import Program, training

ROWS, LENGTH, WIDTH = 8, 24, 40
TOY = {"width": 64, "depth": 3, "heads": 4}
MEMORY = 1e6  # of a device that does not exist: a share of it is 10 kB


def text_of(program):
    return program.lower().compile().as_text()


def planned(mesh, preset):
    config = Config(name="toy").with_settings({**TOY, "length": LENGTH, "batch": ROWS})
    return training(config, sharding.mesh(mesh), sharding.PRESETS[preset], Execution(remat=True))


def test_parameters_and_moments_that_a_mesh_could_cut_are_named():
    """Without a cut of parameters all that are large are; with one none is."""
    whole = list(whole_arguments(planned("data=4", "dp"), MEMORY))
    assert [each.split(":")[0] for each in whole] == ["optimizer", "parameters"]
    assert "are whole on all devices of mesh axis data, which could cut them: " in whole[1]
    assert "embed.table 0.1 MB" in whole[0] and whole[1].endswith(" more")  # both moments, of 64 kB each
    assert list(whole_arguments(planned("data=4", "fsdp"), MEMORY)) == []
    assert list(whole_arguments(planned("data=4", "dp"), 100 * MEMORY)) == []


def reading(constraint):
    """A program over four parts of a batch, whose activations obey a constraint."""
    mesh, rules = sharding.mesh("data=4"), sharding.PRESETS["dp"]

    def function(table, tokens):
        x = jax.lax.with_sharding_constraint(jnp.tanh(table[tokens]), NamedSharding(mesh, constraint))
        return jnp.sum(jnp.cumsum(x, axis=1) ** 2)

    table = jax.ShapeDtypeStruct((256, WIDTH), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
    tokens = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec("data")))
    parts = {"parameters": {"table": table}, "tokens": tokens}
    return Program(function=jax.jit(function), arguments=(table, tokens), parts=parts, mesh=mesh, rules=rules)


@pytest.mark.parametrize("constraint", [PartitionSpec(), PartitionSpec("data")], ids=str)
def test_activations_that_hold_every_row_on_every_device_are_named(constraint):
    program = reading(constraint)
    found = list(whole_activations(program, Module(text_of(program)), MEMORY, WIDTH))
    assert bool(found) is (constraint == PartitionSpec())
    assert all(
        f"f32 {ROWS} x {LENGTH} x {WIDTH}, 0.0 MB, holds all 8 rows on each of 4 devices" in each for each in found
    )


def repeated(turns, weights_change):
    """A loop that multiplies by a matrix which is cut over devices: by one and the same, or by one of each turn."""
    mesh, rules = sharding.mesh("data=4"), sharding.PRESETS["fsdp"]
    cut = NamedSharding(mesh, PartitionSpec(None, "data") if weights_change else PartitionSpec("data"))
    shape = (turns, WIDTH, WIDTH) if weights_change else (WIDTH, WIDTH)
    whole = NamedSharding(mesh, PartitionSpec())

    def function(w, x):
        def turn(x, own):
            w_after_x, x = jax.lax.optimization_barrier((w if own is None else own, x))  # or XLA moves it by itself
            used = jax.lax.with_sharding_constraint(w_after_x, whole)
            return jnp.tanh(x @ used), None

        return jax.lax.scan(turn, x, w if weights_change else None, length=turns)[0]

    w = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=cut)
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data")))
    return Program(function=jax.jit(function), arguments=(w, x), parts={"parameters": {"w": w}}, mesh=mesh, rules=rules)


@pytest.mark.parametrize(("turns", "weights_change"), [(5, False), (5, True), (1, False)])
def test_an_exchange_that_every_turn_repeats_is_named(turns, weights_change):
    found = list(idle_exchanges(Module(text_of(repeated(turns, weights_change))), MEMORY))
    assert bool(found) is (turns > 1 and not weights_change)
    for each in found:
        assert each.startswith("all-gather of 0.0 MB stands in a loop of 5 turns, and none changes what it reads")


def test_a_model_that_is_cut_as_its_preset_says_has_no_fault():
    program = planned("data=4", "fsdp")
    assert lint(program, text_of(program), MEMORY, TOY["width"]) == ()
