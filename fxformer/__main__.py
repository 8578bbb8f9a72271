"""python -m fxformer list | describe NAME | count NAME | verify [NAME]"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache

from fxformer import accounting, zoo
from fxformer.describe import COLUMNS, describe, row
from fxformer.model import position_limit
from fxformer.text import columns
from fxformer.verify import verify

LENGTH = 2048  # tokens that FLOPs are stated at, where a model has no limit of its own


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 1 where a law is broken, 2 for what is mistyped."""
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
    count = command("count", "the exact number of parameters", _count)
    count.add_argument("name", help="a published name, see list")
    count.add_argument("--json", action="store_true", help="print an object with name and parameters")
    command("verify", "check the laws of a model at toy widths; exit code 1 where one is broken", _verify).add_argument(
        "name", nargs="?", help="a published name; every one where it is left out"
    )
    chosen = parser.parse_args(arguments)
    try:
        return chosen.act(chosen)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _list(arguments: argparse.Namespace) -> int:
    print(columns([COLUMNS, *(row(name, zoo.family_of(name), zoo.get(name)) for name in zoo.names())]))
    return 0


def _describe(arguments: argparse.Namespace) -> int:
    spec = zoo.get(arguments.name)
    print(describe(arguments.name, zoo.family_of(arguments.name), spec, position_limit(spec) or LENGTH))
    return 0


def _count(arguments: argparse.Namespace) -> int:
    parameters = accounting.count(zoo.get(arguments.name))
    print(json.dumps({"name": arguments.name, "parameters": parameters}) if arguments.json else parameters)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    names = zoo.names() if arguments.name is None else (arguments.name,)
    results = lru_cache(lambda spec: tuple(verify(spec)))  # models of one family are often one at toy widths
    rows = [(name, *result) for name in names for result in results(zoo.tiny(name))]
    print(columns([("model", "law", "verdict", "largest deviation"), *rows]))
    return int(any(verdict != "ok" for _, _, verdict, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
