"""Every published model at toy widths learns: its own objective's loss falls on the text of the licence."""

from dataclasses import replace

import jax
import pytest

import fxformer as fx
from fxformer.layers.context import Execution
from tests.learning import BATCH, KEY, NEXT_TOKEN, OWN, SILENT, SPEAKING, have_fallen, objective_of, text, trained
from train.config.config import Config, Data, Train
from train.step import evaluate, numbers_of, recipe_of

NAMES = sorted(set(SPEAKING) - set(NEXT_TOKEN))  # others learn by the programs that the laws compile


def test_every_distinct_model_is_trained_or_says_nothing():
    assert set(OWN) <= set(NAMES) and {"bert-base", "albert-base", "albert-xxlarge"} == SILENT
    assert set(NEXT_TOKEN) < set(SPEAKING)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_its_loss_falls_by_one_nat_and_a_half(name):
    objective = objective_of(name)
    config = Config(
        name=name,
        model={"tiny": name},
        data=Data(length=66 if objective == "blank_infilling" else 24, batch=BATCH),
        train=Train(objective=objective),
    )
    # A loop over layers that keeps little for the way back compiles sooner.
    recipe, numbers = replace(recipe_of(config), execution=Execution(remat=True)), numbers_of(config)
    slope = jax.jit(jax.value_and_grad(lambda params, rows: evaluate(recipe, numbers, params, rows).loss))
    params = fx.init(recipe.spec(numbers), KEY)
    assert have_fallen(trained(slope, params, text(config.text_length)))
