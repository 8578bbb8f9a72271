"""Devices that are not here: what a chip can do, how many there are, and what stands for them to a compiler."""

import importlib.util
import math
import os
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLong
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import mesh_utils, topologies
from jax.sharding import AbstractMesh, AxisType, Mesh

from fxformer import sharding
from fxformer.lookup import nearest
from train.errors import UserError

GB, GIB = 1e9, 2.0**30


@dataclass(frozen=True, slots=True)
class Chip:
    """One device. memory: bytes that a program may take. flops: of bfloat16 products a second.

    bandwidth: bytes a second to and from its memory. link: bytes a second that it sends when it exchanges along one
    axis of a mesh. dimensions: of its network, 1 where every device reaches every other alike. compiled: whether a
    compiler for it runs anywhere.
    """

    memory: float
    flops: float
    bandwidth: float
    link: float
    dimensions: int
    compiled: bool


# Google Cloud, TPU v5e, v5p and v6e, system architecture (2025): a chip's links are those of its 2 x dimensions ports,
# half of them each way, of which a ring along one axis uses two. Memory is what the TPU's compiler leaves.
# NVIDIA's data sheets of the SXM modules (2020 to 2024).
CHIPS = {
    "v5e": Chip(15.75 * GIB, 197e12, 819 * GB, 100 * GB, 2, True),
    "v5p": Chip(95.74 * GIB, 459e12, 2765 * GB, 200 * GB, 3, True),
    "v6e": Chip(31.25 * GIB, 918e12, 1600 * GB, 200 * GB, 2, True),
    "a100": Chip(80 * GB, 312e12, 2039 * GB, 300 * GB, 1, False),
    "h100": Chip(80 * GB, 989e12, 3350 * GB, 450 * GB, 1, False),
    "h200": Chip(141 * GB, 989e12, 4800 * GB, 450 * GB, 1, False),
}
SLICES = {  # shapes that are sold; Google Cloud, TPU configurations (2025)
    2: ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    3: ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16"),
    1: ("1", "2", "4", "8"),
}
PATIENCE = 60.0  # seconds that a description of devices may take to be had: it takes less than one where it works


@dataclass(frozen=True, slots=True)
class Topology:
    """Chips of one kind in one network, like v5e:4x4."""

    kind: str
    shape: str

    @property
    def chip(self) -> Chip:
        """What each of them can do."""
        return CHIPS[self.kind]

    @property
    def count(self) -> int:
        """How many."""
        return math.prod(map(int, self.shape.split("x")))

    @property
    def larger(self) -> "tuple[Topology, ...]":
        """Networks of more of the same chips, the smallest first."""
        others = [Topology(self.kind, shape) for shape in SLICES[self.chip.dimensions]]
        return tuple(other for other in others if other.count > self.count)

    def __str__(self) -> str:
        return f"{self.kind}:{self.shape}"


def topology_of(text: str) -> Topology:
    """The topology written as "v5e:4x4" or "h100:8". Raises ValueError for one that is none, with those there are."""
    kind, _, shape = text.partition(":")
    nearest(CHIPS, kind, f"topology={text!r} is not like v5e:4x4: chip")
    shapes = SLICES[CHIPS[kind].dimensions]
    if shape not in shapes:
        raise ValueError(f"topology={text!r} is none; {kind} comes as {', '.join(f'{kind}:{each}' for each in shapes)}")
    return Topology(kind, shape)


def mesh_of(topology: Topology, text: str) -> sharding.AnyMesh:
    """The mesh written as "data=8,model=2" over devices of the topology, by names alone where nothing compiles for it.

    Raises ValueError where it takes other than all of them, and UserError where their description cannot be had.
    """
    sizes = sharding.mesh_shape(text)
    if math.prod(sizes.values()) != topology.count:
        raise ValueError(
            f"mesh {text} takes {math.prod(sizes.values())} devices, {topology} has {topology.count}; take all of them"
        )
    auto = (AxisType.Auto,) * len(sizes)
    if not compiles(topology):
        return AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=auto)
    shape = tuple(sizes.values())
    cube = mesh_utils.create_device_mesh(shape, devices_of(topology), allow_split_physical_axes=True)
    return Mesh(np.asarray(cube), tuple(sizes), axis_types=auto)


def compiles(topology: Topology) -> bool:
    """Whether a compiler for these devices is installed."""
    return topology.chip.compiled and importlib.util.find_spec("libtpu") is not None


def devices_of(topology: Topology) -> list[jax.Device]:
    """What stands for the devices to the TPU's compiler; nothing is asked of any network. Raises UserError."""
    one_host = {"chips_per_host_bounds": [1, 1, 1]} if topology.count == 1 else {}

    def described() -> list[jax.Device]:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=str(topology), **one_host).devices)

    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(described).result(timeout=PATIENCE)
    except TooLong:
        raise UserError(
            f"libtpu has not described {topology} in {PATIENCE:.0f} s; set TPU_SKIP_MDS_QUERY=1, or leave libtpu out"
        ) from None
    except RuntimeError as error:
        raise UserError(f"libtpu knows no {topology}: {str(error).splitlines()[0]}") from None
    finally:
        pool.shutdown(wait=False)


def stay_on_cpu() -> None:
    """Before JAX looks for devices: the TPU's compiler is not to look for TPUs, and is no backend to compute on."""
    jax.config.update("jax_platforms", "cpu")
    quiet = {
        "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0", "TPU_MIN_LOG_LEVEL": "3",
        "TPU_STDERR_LOG_LEVEL": "3", "TF_CPP_MIN_LOG_LEVEL": "3",
    }  # fmt: skip
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
