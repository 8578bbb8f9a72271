"""The steps of one run: what each of them reads and makes of a state follows from the settings and its number alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from train.config import Config
from train.data.corpus import Corpus, batches
from train.run.layout import Layout
from train.step import Metrics, Numbers, Recipe, State, numbers_of, recipe_of, train_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """advance: one update on the tokens of a step; it takes the memory of the state that it is given."""

    config: Config
    corpus: Corpus
    layout: Layout
    recipe: Recipe
    numbers: Numbers
    advance: Callable[[State, jax.Array], tuple[State, Metrics]]

    def start(self) -> State:
        """The state before the first step."""
        return self.layout.start(self.recipe, self.numbers)

    def tokens(self, step: int) -> jax.Array:
        """uint8 [batch, row]: what update number `step` reads, counted from 1."""
        data, seed = self.config.data, self.config.train.seed
        rows = batches(
            self.corpus.train,
            seed=seed,
            steps=range(step - 1, step),
            batch=data.batch,
            length=self.config.text_length,
        )
        return self.layout.batch(np.asarray(rows[0]))


def steps_of(config: Config, corpus: Corpus, layout: Layout) -> Steps:
    """The steps of a run; one program serves them all."""
    recipe, numbers = recipe_of(config), numbers_of(config)
    advance = partial(jax.jit(partial(train_step, recipe), donate_argnums=1), numbers)
    return Steps(config=config, corpus=corpus, layout=layout, recipe=recipe, numbers=numbers, advance=advance)
