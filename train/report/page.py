"""One page that opens offline: scripts and data stand in it, compressed, and are unpacked by the browser."""

import base64
import gzip
import json
from functools import cache
from typing import Any

import jinja2
import plotly.offline
from plotly.utils import PlotlyJSONEncoder


def rendered(package: str, template: str, **values: Any) -> str:
    """A template of a package with these values, and `plotly`, the library as `packed` text."""
    loader = jinja2.PackageLoader(package, "templates")
    shared = jinja2.PackageLoader("train.report", "templates")
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([loader, shared]), undefined=jinja2.StrictUndefined, autoescape=True
    )
    return environment.get_template(template).render(plotly=_plotly(), **values)


def packed(text: str) -> str:
    """Text as a page can hold it: gzip and base64, the same bytes each time."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode("ascii")


def packed_json(value: Any) -> str:
    """What JSON says of a value, packed. Numbers that are none become null."""
    return packed(json.dumps(value, cls=PlotlyJSONEncoder, separators=(",", ":")))


@cache
def _plotly() -> str:
    return packed(plotly.offline.get_plotlyjs())
