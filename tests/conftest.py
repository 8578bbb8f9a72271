"""Tests run on 8 host devices, and keep compiled programs between runs: most of their time is compilation."""

import jax
import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Said before JAX starts; `pytest --cache-clear` forgets the programs."""
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("programs")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
