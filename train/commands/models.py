"""Commands that train nothing: what fits, what settings mean, which choices go together."""

from typing import Annotated

from tyro.conf import Positional, arg

from train.commands.words import Settings, app
from train.errors import user_input


@app.command
def plan(
    what: Annotated[Positional[str], arg(help="TOML file of a run, or the name of a published model, like llama2-7b")],
    topology: Annotated[str, arg(help="devices that need not be here, like v5e:4x4, v5p:2x2x2 or h100:8")],
    mesh: Annotated[str, arg(help="like data=8,model=2; the best by formulas where nothing is said")] = "",
    rules: Annotated[str, arg(help="a sharding preset; the best by formulas where nothing is said")] = "",
    decode: Annotated[str, arg(metavar="SIZES", help="a step of decoding instead: batch=64,length=4096")] = "",
    search: Annotated[bool, arg(help="try every mesh and preset, and print them ranked")] = False,
    formulas: Annotated[bool, arg(help="do not ask the compiler, which takes minutes")] = False,
    settings: Settings = (),
    in_json: Annotated[bool, arg(name="json", help="print one JSON object")] = False,
) -> int:
    """Does it fit devices that are not here, and how fast can it be? Exit code 0: it fits, 1: it does not."""
    from train.plan.plan import candidate_of, planned, searched
    from train.plan.topology import stay_on_cpu

    stay_on_cpu()
    candidate = candidate_of(what, settings, topology, mesh, rules, decode)
    lines, fits = searched(candidate, in_json) if search else planned(candidate, in_json, formulas)
    print(lines)
    return 0 if fits else 1


@app.command
def settings(name: Annotated[Positional[str], arg(help="one setting, like lr; all where none is named")] = "") -> int:
    """Say every setting, or one of them: what it is, its values, default and unit, and what reads it."""
    from train.config.reference import listed, one

    with user_input():
        print(one(name) if name else listed())
    return 0


@app.command
def combine() -> int:
    """Try every two choices of the toy factory and of the objectives together; exit code 1 where one fails."""
    from train.combine.combinations import verify_combinations

    return int(not verify_combinations())
