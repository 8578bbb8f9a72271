"""python -m train run | ablate | report | sample"""

import math
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import UseAppendAction, arg

from train.config import load

Settings = Annotated[
    UseAppendAction[tuple[str, ...]], arg(name="set", metavar="NAME=VALUE", help="change a setting, like lr=1e-3")
]
app = tyro.extras.SubcommandApp()


@app.command
def run(config: Annotated[tyro.conf.Positional[Path], arg(help="TOML file of the run")], set_: Settings = ()) -> int:
    """Train one model; started again, it goes on from its last checkpoint."""
    from train.loop import run as train

    resolved = load(config, set_)
    prepare(_mesh_size(resolved.run.mesh))
    folder = Path(resolved.run.out) / resolved.name
    result = train(resolved)
    print(
        f"{result.outcome} at step {result.step} of {resolved.train.steps}: validation loss {result.val_loss:.4f} nats, "
        f"{result.val_loss / math.log(2):.4f} bits per byte; {result.seconds:.1f} s, "
        f"{result.tokens_per_second:,.0f} tokens/s"
    )
    match result.outcome:
        case "interrupted":
            print(f"saved in {folder}; the same command goes on from step {result.step}")
        case "non-finite":
            print(f"the loss is not a number at step {result.step}; lower lr or lengthen warmup")
            return 1
        case _:
            print(f"sample from it: python -m train sample {folder} --prompt 'ROMEO:'")
    return 0
