"""One page that opens offline: scripts and data stand in it, compressed, and are unpacked by the browser."""

import base64
import gzip
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import jinja2
import plotly.offline
from plotly.graph_objects import Figure
from plotly.utils import PlotlyJSONEncoder

from train.report.arms import DARK, LIGHT


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


def colours() -> list[tuple[str, str]]:
    """What a dark page writes in place of each colour of a light one, whole or as a transparent one begins."""
    return [pair for a, b in zip(LIGHT, DARK, strict=True) for pair in ((a, b), (_rgb(a), _rgb(b)))]


def _rgb(colour: str) -> str:
    return f"rgba({','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))},"


def packed_figures(figures: Mapping[str, Figure]) -> str:
    """Figures by the name of their place, for `plots.js`: without plotly's template of looks, the page has its own."""
    told = {key: figure.to_plotly_json() for key, figure in figures.items()}
    for each in told.values():
        each["layout"].pop("template", None)
    return packed_json({"figures": told, "colours": colours()})


@cache
def _plotly() -> str:
    return packed(plotly.offline.get_plotlyjs())
