"""python -m train run | ablate | report | sample"""

import codecs
import math
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import jax
import tyro
from tyro.conf import Positional, UseAppendAction, arg

from train.config import load

ConfigFile = Annotated[Positional[Path], arg(help="TOML file of the run or sweep")]
RunFolder = Annotated[Positional[Path], arg(help="folder of a run or sweep, like runs/norm_by_depth")]
Settings = Annotated[
    UseAppendAction[tuple[str, ...]],
    arg(name="set", metavar="NAME=VALUE", help="change a setting, like lr=1e-3 or data.path=book.txt; may be repeated"),
]
app = tyro.extras.SubcommandApp()


@app.command
def run(config: ConfigFile, settings: Settings = ()) -> int:
    """Train one model; started again, it goes on from its last checkpoint."""
    from fxformer.sharding import mesh_size
    from train.loop import run as train

    resolved = load(config, settings)
    use_host_devices(mesh_size(resolved.run.mesh))
    keep_compiled(Path(resolved.run.out))
    folder = Path(resolved.run.out) / resolved.name
    result = train(resolved)
    print(
        f"{result.outcome} at step {result.step} of {resolved.train.steps}: "
        f"validation loss {result.val_loss:.4f} nats, {result.val_loss / math.log(2):.4f} bits per byte; "
        f"{result.seconds:.1f} s, {result.tokens_per_second:,.0f} tokens/s"
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


@app.command
def ablate(
    config: ConfigFile,
    settings: Settings = (),
    dry_run: Annotated[bool, arg(help="print cells, compilations, memory and estimated time; train nothing")] = False,
) -> int:
    """Run a sweep and report on it; started again, it runs only what is missing."""
    from train.ablate import Interrupted, ablate, preview
    from train.report import say_verdicts, write_report

    resolved = load(config, settings)
    folder = Path(resolved.run.out) / resolved.name
    use_host_devices(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    keep_compiled(Path(resolved.run.out))
    if dry_run:
        print(preview(resolved))
        return 0
    try:
        results = ablate(resolved)
    except Interrupted:
        print(f"interrupted; what was done is in {folder / 'results.jsonl'}, the same command goes on from there")
        return 130
    say_verdicts(write_report(results, folder))
    print(f"report: {folder / 'report.html'}")
    return 0


@app.command
def report(folder: RunFolder) -> int:
    """Write report.html and report.md of a sweep again, from its results.jsonl."""
    from train.ablate import Results
    from train.report import say_verdicts, write_report

    if not (folder / "results.jsonl").exists():
        raise ValueError(f"{folder} is not a sweep: it has no results.jsonl")
    say_verdicts(write_report(list(Results(folder / "results.jsonl").values()), folder))
    print(f"report: {folder / 'report.html'}")
    return 0


@app.command
def sample(
    folder: RunFolder,
    prompt: Annotated[str, arg(help="the text to go on from")] = "\n",
    tokens: Annotated[int, arg(help="bytes to add")] = 400,
    temperature: Annotated[float, arg(help="0 takes the most likely byte each time")] = 0.8,
    top_k: Annotated[int | None, arg(help="draw from the k most likely bytes")] = None,
    top_p: Annotated[float | None, arg(help="draw from the fewest bytes of this probability")] = None,
    seed: Annotated[int, arg(help="of the draws")] = 0,
) -> int:
    """Continue a prompt with a trained model, printing as it goes."""
    from train.sample import sample as continue_text

    begin, count = time.monotonic(), 0
    decoder = codecs.getincrementaldecoder("utf8")(errors="replace")
    chunks = continue_text(
        folder, prompt.encode(), tokens=tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    print(prompt, end="", flush=True)
    for chunk in chunks:
        print(decoder.decode(chunk), end="", flush=True)
        count += len(chunk)
    print(f"\n[{count / (time.monotonic() - begin):,.0f} tokens/s]", file=sys.stderr)
    return 0


def use_host_devices(count: int) -> None:
    """Make the CPU look like `count` devices, unless XLA_FLAGS say otherwise; other platforms do not mind."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)


def keep_compiled(out: Path) -> None:
    """Keep compiled programs between calls."""
    jax.config.update("jax_compilation_cache_dir", str((out / ".compiled").absolute()))


def main() -> None:
    try:
        code = app.cli(prog="python -m train", description="Train, compare and sample small transformers.")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    main()
