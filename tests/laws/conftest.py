"""Programs of these tests run once each: the compiler's time is what they cost, so it is told to be quick."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def quick_compiler():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
