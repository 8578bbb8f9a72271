"""Tests run on 8 host devices, and on programs that are compiled quickly: most of their time is compilation.

A test's program runs a few times on a few tokens, so the compiler does without its optimisations, which may change
rounding and nothing else; so does that of a command which a test starts.
"""

import gc
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

TESTS = itertools.count()
QUICK = "--xla_cpu_parallel_codegen_split_count=1"  # the cores have other tests
if jax.__version_info__ < (0, 11):  # later compilers have no other way, and no such flag
    QUICK += " --xla_cpu_use_fusion_emitters=false"
MAPS = 58_000  # of the 65530 memory maps that Linux gives a process; every program takes some


def pytest_configure(config: pytest.Config) -> None:
    """Said before JAX starts; `pytest --cache-clear` forgets the programs kept between runs."""
    gc.set_threshold(50_000, 20, 100)  # tracing makes many objects, few of them garbage
    jax.config.update("jax_num_cpu_devices", 8)
    programs = str(config.cache.mkdir("programs"))
    jax.config.update("jax_compilation_cache_dir", programs)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_traceback_in_locations_limit", 0)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs  # commands that tests start share their programs
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} {QUICK}")
        jax.devices()


@pytest.fixture(autouse=True)
def few_programs() -> Iterator[None]:
    """Now and then, let go of compiled programs before there are too many for the process."""
    yield
    assert jax.config.values["jax_disable_most_optimizations"], "the tests after this one would be compiled slowly"
    maps = Path("/proc/self/maps")
    if next(TESTS) % 20 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > MAPS:
        jax.clear_caches()
