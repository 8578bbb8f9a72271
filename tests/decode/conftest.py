"""What the tests of decoding share."""

import jax
import pytest


@pytest.fixture
def programs():
    """How many programs XLA has been asked for, as a function."""
    asked = []

    def listen(event, seconds, **more):
        asked.extend([None] * (event == "/jax/core/compile/backend_compile_duration"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield lambda: len(asked)
    jax.monitoring.unregister_event_duration_listener(listen)
