"""The steps of one run: what each of them reads and makes of a state follows from the settings and its number alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from train.config import Config
from train.data.corpus import Corpus, sequences
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
        size, length = self.config.data.batch, self.config.text_length

        def read(rows: range) -> np.ndarray:
            begin = (step - 1) * size
            places = range(begin + rows.start, begin + rows.stop)
            return sequences(self.corpus.train, places, seed=self.config.train.seed, length=length)

        return self.layout.batch((size, length + 1), read)


def steps_of(config: Config, corpus: Corpus, layout: Layout) -> Steps:
    """The steps of a run; one program serves them all."""
    recipe, numbers = recipe_of(config), numbers_of(config)
    out = (layout.state(recipe, numbers), layout.told)
    advance = partial(jax.jit(partial(train_step, recipe), donate_argnums=1, out_shardings=out), numbers)
    return Steps(config=config, corpus=corpus, layout=layout, recipe=recipe, numbers=numbers, advance=advance)
