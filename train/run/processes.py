"""Several processes as one run: they find each other, decide the same, and end together.

Each of them runs the same program. What only one may do, the first one does; what one of them cannot do, none goes on
with. A run of one process calls the same functions, which are nothing more than calls then.
"""

import os
import pickle
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fxformer.sharding import mesh_size
from train.config.values import short
from train.errors import UserError, refusal, user_input
from train.run import devices

AUTO = "auto"  # the cluster says who is who
PLACE = re.compile(r"(\S+):(\d{1,5}),(\d{1,6})/(\d{1,6})")
FOUND_WITHIN = 120  # seconds, until all processes are there
SILENT = 60  # seconds after which one that says nothing is dead; a connection that breaks tells at once
SEEN_WITHIN = 10  # seconds, until a file system shows what another machine wrote
LOST = re.compile(r"Gloo|NCCL|[Cc]oordination ?[Ss]ervice|Barrier")  # in an error that is of another process's end
T = TypeVar("T")


class Place(NamedTuple):
    """Which of `many` processes this is, from 1, and where the first one listens."""

    host: str
    port: int
    number: int
    many: int


def place_of(text: str) -> Place | None:
    """The place that the setting `distributed` says, like "localhost:9911,1/2"; None where the cluster is to say it.

    Raises ValueError for what says none.
    """
    if text == AUTO:
        return None
    found = PLACE.fullmatch(text)
    if found is None:
        raise ValueError(
            f"distributed={short(text)} is not like localhost:9911,1/2, the first of two processes and where it "
            "listens; or use auto, for Slurm, GKE and TPU pods"
        )
    place = Place(found[1], *map(int, found.groups()[1:]))
    if not 1 <= place.number <= place.many:
        raise ValueError(f"distributed={short(text)} is none of {place.many} processes; count them from 1")
    return place


@contextmanager
def joined(text: str, mesh: str, *, within: float = FOUND_WITHIN) -> Iterator[None]:
    """Within it this process is one of those that `distributed` says, and has its part of the devices of `mesh`.

    An error is said and ends the process at once, for the others may be waiting for it. So does it where they are not
    all there after `within` seconds. Raises UserError where the processes cannot part the mesh.
    """
    with user_input():
        size, place = mesh_size(mesh), place_of(text) if text else None
    if not text:
        devices.use_host_devices(size)
        yield
        return
    if place is not None:
        if size % place.many:
            raise UserError(
                f"mesh={mesh!r} is none for {place.many} processes, which have as many devices each; "
                f"use one of {place.many} devices, like data={place.many}, or of a multiple"
            )
        devices.use_host_devices(size // place.many)
    try:
        _find(place, within)
        yield
    except BaseException as error:
        _leave(error)
    jax.distributed.shutdown()


def is_first() -> bool:
    """Is this the process that writes?"""
    return jax.process_index() == 0


def several() -> bool:
    """Are there other processes?"""
    return jax.process_count() > 1


def exchange(value: Any) -> list[Any]:
    """What each process says, in their order. It waits for all of them."""
    if not several():
        return [value]
    content = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(content.size))
    padded = np.zeros(1 << int(sizes.max()).bit_length(), np.uint8)  # few sizes: each is a program
    padded[: content.size] = content
    contents = multihost_utils.process_allgather(padded)
    return [pickle.loads(each[:size].tobytes()) for each, size in zip(contents, sizes, strict=True)]


def all_do(action: Callable[[], T]) -> T:
    """What the action gives to this process, after all have done it. An error of one of them is raised in all."""
    return _agreed(_tried(action)) if several() else action()


def first_before_others(action: Callable[[], T]) -> T:
    """The same, and the first process is done before the others begin, which find what it has left on the disk."""
    if not several():
        return action()
    tried = _tried(action) if is_first() else None
    exchange(None)
    return _agreed(tried or _tried(action))


def first_does(action: Callable[[], T]) -> T:
    """What the action gives to the first process, in all; so is its error."""
    if not several():
        return action()
    outcome, error = exchange(_tried(action) if is_first() else None)[0]
    if error is not None:
        raise error
    return outcome


@contextmanager
def by_first(context: AbstractContextManager[Any]) -> Iterator[None]:
    """A context that the first process enters and leaves; where it cannot, none goes on."""
    with ExitStack() as stack:
        first_does(lambda: stack.enter_context(context) and None)
        yield


def agree(facts: Mapping[str, Any]) -> None:
    """Raise UserError where another process has another one of these facts; it names the first, and whose it is."""
    mine, *others = exchange(dict(facts))
    for number, other in enumerate(others, 2):
        for name in {**mine, **other}:
            if mine.get(name) != other.get(name):
                raise UserError(
                    f"the processes differ in {name}, which is {short(mine.get(name))} in the first one and "
                    f"{short(other.get(name))} in process {number}; start them alike"
                )


def check_shared(folder: Path, within: float = SEEN_WITHIN) -> None:
    """Raise UserError where a folder that the first process has is not the same one in all."""
    if not several():
        return
    mark = folder / first_does(lambda: _marked(folder))
    deadline = time.monotonic() + within
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    blind = [number for number, sees in enumerate(exchange(mark.exists()), 1) if not sees]
    first_does(mark.unlink)
    if blind:
        raise UserError(
            f"{folder} is not the same folder in all processes: number {blind[0]} does not see what the first one "
            "wrote; choose a run.out on a file system that they share"
        )


class Asked:
    """What any process was asked by a signal, known to all after the same step.

    One process knows at once. Of several each says it with a step, and reads what was said with the step before, which
    is done by then: nothing waits.
    """

    def __init__(self, stopped: Callable[[], int]) -> None:
        self._stopped = stopped
        self._said: jax.Array | None = None

    def __call__(self) -> int:
        """The number of the signal, 0 while there is none. All processes call it equally often."""
        if not several():
            return self._stopped()
        said, self._said = self._said, _largest()(_each(self._stopped()))
        return 0 if said is None else int(said)


@cache
def _all_devices() -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.devices()), ("device",)), PartitionSpec("device"))


@cache
def _largest() -> Callable[[jax.Array], jax.Array]:
    return jax.jit(jnp.max, out_shardings=NamedSharding(_all_devices().mesh, PartitionSpec()))


def _each(number: int) -> jax.Array:
    own = np.full(jax.local_device_count(), number, np.int32)
    return jax.make_array_from_process_local_data(_all_devices(), own, (jax.device_count(),))


def _agreed(tried: tuple[Any, Exception | None]) -> Any:
    """What was tried gave, where no process had an error; else the first one's."""
    for error in exchange(tried[1]):
        if error is not None:
            raise error
    return tried[0]


def _tried(action: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """(what an action gives, or its error)."""
    try:
        return action(), None
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # its constructor takes something else
            return None, RuntimeError("".join(traceback.format_exception(error)))
        return None, error


def _marked(folder: Path) -> str:
    name = f".shared.{os.urandom(4).hex()}"
    (folder / name).touch()
    return name


def _find(place: Place | None, within: float) -> None:
    """Wait for the other processes; where they do not come, end before JAX aborts."""
    where = "the cluster" if place is None else f"{place.host}:{place.port}"
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM; `Asked` hears more signals
    sentence = f"not all processes were found through {where} in {within:.0f} s; start all of them, with one address"

    def give_up() -> None:
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        os._exit(2)

    limit = threading.Timer(within, give_up)
    limit.daemon = True
    limit.start()
    waits: dict[str, Any] = {
        "initialization_timeout": int(10 * within) + 60,
        "heartbeat_timeout_seconds": SILENT,
        "shutdown_timeout_seconds": SILENT,
    }
    try:
        if place is None:
            with _in_words():
                jax.distributed.initialize(**waits)
        else:
            if place.number == 1:
                _check_port(place)
            jax.distributed.initialize(f"{place.host}:{place.port}", place.many, place.number - 1, **waits)
        jax.devices()  # which are exchanged now
    finally:
        limit.cancel()


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"distributed='auto' found no cluster here ({str(error).rstrip('.')}); say it, like localhost:9911,1/2"
        ) from error


def _check_port(place: Place) -> None:
    """Raise UserError where the first process cannot listen."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", place.port))
    except OSError as error:
        raise UserError(f"port {place.port} cannot be listened at: {error.strerror}; choose another one") from error


def _leave(error: BaseException) -> None:
    """Say why, and end this process; the first one, which the others would miss, a moment later."""
    found = jax.distributed.is_initialized()
    who = f"process {jax.process_index() + 1} of {jax.process_count()}: " if found else ""
    code = 1
    if isinstance(error, UserError | OSError):
        print(f"error: {who}{refusal(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        code = 2
    elif isinstance(error, jax.errors.JaxRuntimeError) and LOST.search(str(error)):
        what = str(error).partition("\n")[0]
        print(f"error: {who}another process ended ({what}); the same command goes on from what was saved",
              file=sys.stderr)  # fmt: skip
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    if found and is_first():
        time.sleep(1)
    os._exit(code)
