"""python -m fxformer list | describe NAME | explain ENTRY | count NAME | generate FOLDER | verify [decode] [NAME]"""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import product

import jax

from fxformer import accounting, zoo
from fxformer.commands import explain, generate
from fxformer.commands.describe import COLUMNS, describe, features, row
from fxformer.model import Transformer
from fxformer.table import line, widths_of
from fxformer.verify import DECODE_LAWS, LAWS, Verdict, uncacheable, verify, verify_decoding

PARAMETERS = "9,999,999,999,999"  # there is room for in a table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 1 where a law is broken, 2 for what is mistyped."""
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"  # and not which line of ours gave it
    parser = argparse.ArgumentParser(prog="python -m fxformer", description="Published transformers, by name.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, help: str, act: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(act=act)
        return sub

    command("list", "every published model: a table", _list)
    command("describe", "one model: its spec, formulas, sizes and source", _describe).add_argument(
        "name", help="a published name, see list"
    )
    explain.add_options(command("explain", "one entry of a table: formula, source, code, costs, laws", explain.explain))
    count = command("count", "the exact number of parameters", _count)
    count.add_argument("name", help="a published name, see list")
    count.add_argument("--json", action="store_true", help="print an object with name and parameters")
    laws = command("verify", "check the laws of a model at toy widths; exit code 1 where one is broken", _verify)
    what = laws.add_mutually_exclusive_group()
    what.add_argument(
        "words",
        nargs="*",
        default=[],
        metavar="[decode] [NAME]",
        help="decode: the laws of decoding; a published name; every one where it is left out",
    )
    what.add_argument("--combinations", action="store_true", help="is called python -m train combine now")
    generate.add_options(command("generate", "a checkpoint goes on from a prompt, shown as it comes", generate.write))
    chosen = parser.parse_args(arguments)
    try:
        return chosen.act(chosen)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who reads has seen enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _list(arguments: argparse.Namespace) -> int:
    specs = {name: zoo.get(name) for name in zoo.names()}
    known = [(*features(name, zoo.family_of(name), spec), PARAMETERS) for name, spec in specs.items()]
    widths = widths_of([COLUMNS, *known])
    print(line(COLUMNS, widths))
    for name, spec in specs.items():
        print(line(row(name, zoo.family_of(name), spec), widths), flush=True)  # counting takes a moment
    return 0


def _describe(arguments: argparse.Namespace) -> int:
    spec = zoo.get(arguments.name)
    print(describe(arguments.name, zoo.family_of(arguments.name), spec))
    return 0


def _count(arguments: argparse.Namespace) -> int:
    parameters = accounting.count(zoo.get(arguments.name))
    print(json.dumps({"name": arguments.name, "parameters": parameters}) if arguments.json else parameters)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    if arguments.combinations:
        raise ValueError("verify --combinations is called python -m train combine now")
    decodes = arguments.words[:1] == ["decode"]
    names = arguments.words[1:] if decodes else arguments.words
    if len(names) > 1:
        raise ValueError(f"verify takes one name, or none for all; it was given {len(names)}: {' '.join(names)}")
    specs = {name: zoo.tiny(name) for name in names or zoo.names()}
    refused = {name: why for name, spec in specs.items() if decodes and (why := uncacheable(spec)) is not None}
    for name, why in refused.items():
        print(f"{name}: {why}")
    return int(not _tabulate({name: spec for name, spec in specs.items() if name not in refused}, decodes))


def _tabulate(specs: Mapping[str, Transformer], decodes: bool) -> bool:
    """A table that grows as laws are tried, once for models that share a spec; whether all were kept."""
    check, laws = (verify_decoding, DECODE_LAWS) if decodes else (verify, LAWS)
    title = "model", "law", "verdict", "largest deviation"
    widths = widths_of([title, *product(specs, laws, ["FAILED"], [""])])
    found: dict[Transformer, list[Verdict]] = {}
    for name, spec in specs.items():
        if not found:
            print(line(title, widths))
        known, found[spec] = found.get(spec), []
        for result in known or check(spec):
            found[spec].append(result)
            print(line((name, *result), widths), flush=True)
        jax.clear_caches()  # a process has room for the programs of some models, not of all
    return all(verdict == "ok" for results in found.values() for _, verdict, _ in results)


if __name__ == "__main__":
    sys.exit(main())
