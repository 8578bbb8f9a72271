"""Workers as an array of Slurm jobs, by submitit; or as processes of this machine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.errors import UserError
from train.sweep.launch.work import known, number_of, work

RESOURCES = ("cluster", "partition", "minutes", "cpus", "gpus", "memory")


def launch(commands: Sequence[Sequence[str]], place: Path, folder: Path, resources: Mapping[str, str]) -> None:
    """A job for each worker. resources: cluster, slurm or local, what is found otherwise; partition, of Slurm; minutes,
    cpus, gpus and memory, in GB, of each worker."""
    known(resources, RESOURCES)
    given: dict[str, Any] = {
        "timeout_min": int(number_of(resources, "minutes", 60)),
        "cpus_per_task": int(number_of(resources, "cpus", 1)),
        "gpus_per_node": int(number_of(resources, "gpus", 0)),
        "mem_gb": number_of(resources, "memory", 4),
    }
    if "partition" in resources:
        given |= {"slurm_partition": resources["partition"]}
    try:
        import submitit
    except ImportError:
        raise UserError("submitit is not installed: pip install 'fxformer[launchers]'") from None
    try:
        executor = submitit.AutoExecutor(folder=folder / "jobs", cluster=resources.get("cluster"))
    except (RuntimeError, ValueError) as error:
        raise UserError(f"cluster={resources.get('cluster')}: {error}") from None
    executor.update_parameters(name=folder.name, **given)
    jobs = executor.map_array(work, *zip(*((command, str(place), str(folder)) for command in commands), strict=True))
    try:
        for job in jobs:
            if (failed := job.exception()) is not None:
                raise UserError(f"{str(failed).strip().splitlines()[-1]}; its log: {job.paths.stderr}")
    finally:
        for job in jobs:
            if not job.done():
                job.cancel()
