"""Workers of one sweep that are killed: `python -m tests.train.workers FOLDER KILLS`.

Two workers at a time share a folder; at random moments one of them is killed and another one takes its place, so many
times. Then they work to the end. What the processes said and where is printed as JSON.
"""

import json
import random
import sys
from functools import partial
from pathlib import Path

import jax

from tests.train.killed import begin, ended, finish, race, stand_in, sweep
from train.sweep import ablate as sweeps
from train.sweep import workers
from train.sweep.workers import Turn

ALONE = sweeps.ablate


def as_worker(work, number: int, out: Path) -> object:
    sweeps.ablate = partial(ALONE, turn=Turn(number, 2))
    return work(out)


def together(work, folder: Path, kills: int) -> dict[str, object]:
    """A sweep by one process, and by two workers of which one is killed every now and then."""
    life = finish(work, folder / "whole")
    out, chance = folder / "shared", random.Random(0)
    running = {number: begin(partial(as_worker, work, number), out) for number in (1, 2)}
    killed = 0
    for _ in range(kills):
        number = chance.choice((1, 2))
        code = ended(running[number], chance.uniform(0, 2 * life / kills))
        killed += code is None
        if code:
            raise SystemExit(f"a worker ended with {code}")
        running[number] = begin(partial(as_worker, work, number), out)
    codes = [ended(child) for child in running.values()]
    return {"killed": killed, "codes": codes, "folders": [str(folder / "whole"), str(out)]}


if __name__ == "__main__":
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    stand_in()
    sweeps.BEAT = workers.BEAT = 0.05
    workers.EXPIRY = 2.0  # a thread may starve for a second on a busy machine
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    print(json.dumps({work.__name__: together(work, folder / work.__name__, kills) for work in (sweep, race)}))
