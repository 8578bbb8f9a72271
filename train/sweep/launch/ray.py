"""Workers as tasks of Ray: of a cluster, or of this machine where there is none."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from train.errors import UserError
from train.sweep.launch.work import PATIENCE, known, number_of, work

RESOURCES = ("address", "cpus", "gpus")


def launch(commands: Sequence[Sequence[str]], place: Path, folder: Path, resources: Mapping[str, str]) -> None:
    """A task for each worker. resources: address, of a cluster; cpus and gpus, of each worker."""
    known(resources, RESOURCES)
    cpus, gpus = number_of(resources, "cpus", 1), number_of(resources, "gpus", 0)
    try:
        import ray
    except ImportError:
        raise UserError("ray is not installed: pip install 'fxformer[launchers]'") from None
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(address=resources.get("address"), include_dashboard=False, log_to_driver=False)
        except ConnectionError as error:
            raise UserError(f"no Ray cluster answers at {resources.get('address')}: {error}") from None
    try:
        # A worker that is gone is not started again by Ray: the others have its groups.
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(work)
        tasks = [task.remote([*command], str(place), str(folder)) for command in commands]
        try:
            ray.get(tasks)
        except ray.exceptions.RayTaskError as error:
            raise UserError(str(error.cause)) from None
        finally:  # of those that have ended this cancels nothing
            for each in tasks:
                ray.cancel(each)
            ray.wait(tasks, num_returns=len(tasks), timeout=PATIENCE)
    finally:
        if started:
            ray.shutdown()
