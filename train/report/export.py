"""The runs of a sweep as a table for other programs: runs.csv, and runs.parquet where pyarrow is installed."""

import csv
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.files import write_whole
from train.verdict.runs import Result

MEASURED = (
    "outcome", "outcome_step", "stopped", "initial_loss", "val_loss", "val_bits_per_byte", "params", "tokens", "flops",
    "cache_bytes", "seconds", "seconds_a_step",
)  # fmt: skip


def rows_of(results: Sequence[Result], arms: Sequence[str]) -> list[dict[str, Any]]:
    """A row a run: its key, its arm, every setting, and what was measured; None where a record says nothing."""
    settings = list(dict.fromkeys(name for result in results for name in result["args"]))
    return [
        {
            "key": result["key"],
            "arm": arm,
            **{
                f"setting.{name}" if name in (*MEASURED, "key", "arm") else name: result["args"].get(name)
                for name in settings
            },
            **{name: result.get(name) for name in MEASURED},
        }
        for result, arm in zip(results, arms, strict=True)
    ]


def write_runs(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write runs.csv, and runs.parquet where pyarrow is installed."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(folder / "runs.csv", text.getvalue().encode())
    if importlib.util.find_spec("pyarrow") is None:
        return
    import pyarrow
    from pyarrow import parquet

    columns = {name: _of_one_kind([row[name] for row in rows]) for name in rows[0]}
    content = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), content)
    write_whole(folder / "runs.parquet", content.getvalue())


def _of_one_kind(values: list[Any]) -> list[Any]:
    """A column of a parquet file has one type: numbers where all are, else text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int} or kinds <= {int, float} or kinds <= {bool} or kinds <= {str}:
        return values
    return [None if value is None else str(value) for value in values]
