"""The results of a sweep: one line of results.jsonl for each cell that is done; each of several workers has its own."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.errors import UserError
from train.files import append_lines, damaged, read_lines
from train.report.record import fault
from train.sweep.workers import results_of_workers

REMEDY = "remove this line, and the cell of it runs again"


class Results(Mapping[str, dict[str, Any]]):
    """results.jsonl as a mapping from cell keys to records.

    Records of an older edition are counted, in `older`, and left out. Reading writes nothing: beside a sweep at work it
    gives the records that were done by then, those of its workers too. Raises UserError, which names the line, for what
    is no record or is not what was written.

    own: the file that is added to, where that is another one.
    """

    def __init__(self, path: Path, own: Path | None = None) -> None:
        self.path, self._own = path, own or path
        self.read()

    def read(self) -> None:
        """Read all again: others may be at work."""
        records = [
            _opened(line, f"line {number} of {file}")
            for file in (self.path, *results_of_workers(self.path))
            for number, line in enumerate(read_lines(file, {}, REMEDY), 1)
        ]
        self._records = {record["key"]: record for record in records if not of_older_edition(record)}
        self.older = sum(map(of_older_edition, records))

    def add(self, records: Sequence[dict[str, Any]]) -> None:
        """Append records, each with its checksum; they are on the disk when this returns."""
        append_lines(self._own, [{**record, "checksum": checksum(record)} for record in records])
        self._records.update({record["key"]: record for record in records})

    def in_order(self) -> list[dict[str, Any]]:
        """All records in the order of the grid, whichever was done first; those of earlier versions before."""
        return sorted(self._records.values(), key=lambda record: record.get("place", -1))

    def one(self, key: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The one record whose key begins so and whose settings are these. Raises UserError where it is not one."""
        asked = ", ".join([*filter(None, [key]), *(f"{name}={value}" for name, value in settings.items())])
        found = [
            record
            for record in self._records.values()
            if record["key"].startswith(key) and settings.items() <= record["args"].items()
        ]
        if len(found) == 1:
            return found[0]
        if not found:
            raise UserError(f"{self.path} has no run of {asked}; it has {len(self)} others")
        names = [name for name in found[0]["args"] if len({str(record["args"].get(name)) for record in found}) > 1]
        raise UserError(f"{self.path} has {len(found)} runs of {asked or 'every kind'}; say {' or '.join(names)} too")

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._records[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)


def checksum(record: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that stand for a record as JSON says it."""
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16]


def _opened(line: dict[str, Any], place: str) -> dict[str, Any]:
    """The record in a line; a line of an earlier version has no checksum, and is believed."""
    record = {name: value for name, value in line.items() if name != "checksum"}
    if line.get("checksum", checksum(record)) != checksum(record):
        raise damaged(place, "it is not what was written, its checksum says", REMEDY)
    if not of_older_edition(record) and (what := fault(record)):
        raise damaged(place, what, REMEDY)
    return record


def of_older_edition(record: Mapping[str, Any]) -> bool:
    """Is this a record of before the loss of each window was kept, and outcomes were judged by it?"""
    return "windows" not in record and {"key", "outcome", "val_loss"} <= record.keys()
