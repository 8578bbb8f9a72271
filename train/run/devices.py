"""What a command says to JAX before anything runs: how many devices there are, and where programs are kept."""

import os
import warnings
from pathlib import Path

import jax


def use_host_devices(count: int) -> None:
    """Make the CPU look like `count` devices, unless XLA_FLAGS say otherwise; other platforms do not mind."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)


def keep_compiled(out: Path) -> None:
    """Keep compiled programs between calls, beside the runs where JAX_COMPILATION_CACHE_DIR does not say where.

    Where nothing can be written they are not kept, which costs time and nothing else: JAX is not to warn of each.
    """
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str((out / ".compiled").absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
