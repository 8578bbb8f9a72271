"""The report as a browser draws it: every figure there, in light and dark, and nothing said on the console."""

import json
import re
import shutil
import subprocess

import pytest

from tests.train.report.test_report import report_on, sweep
from train.report.report import FIGURES

CHROMIUM = shutil.which("chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=10000", "--window-size=1400,6000", "--dump-dom"),
)
SCHEMES = {"light": "1", "dark": "0"}  # Chromium's preferredColorScheme

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path to draw the report with"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    report_on(sweep(), folder)
    return folder / "report.html"


def drawn(address: str, profile, scheme: str = "light", *more: str) -> tuple[str, list[str]]:
    """The page's DOM after its scripts ran, and what they said on the console."""
    blink = f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"
    command = [CHROMIUM, *FLAGS, *more, blink, f"--user-data-dir={profile}", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_figure_is_drawn_and_the_console_is_silent(report, tmp_path, scheme):
    page, said = drawn(report.as_uri(), tmp_path, scheme)
    assert said == []
    parts = re.split(r'id="plot-(\w+)"', page)
    plots = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(plots) == [name for name, *_ in FIGURES]
    for name, plot in plots.items():
        assert 'class="main-svg"' in plot, name
        assert re.search(r'class="js-line"[^>]* d="M|class="point"><path d="M', plot), name
    ink = {"light": "rgb(28, 28, 30)", "dark": "rgb(236, 236, 238)"}[scheme]
    assert f"fill: {ink}" in plots["losses"], "labels have the ink of the scheme"


@pytest.mark.parametrize("width", [320, 375, 700])
def test_on_a_narrow_screen_nothing_is_wider_than_it(report, tmp_path, width):
    """In a frame of that width, since a window of Chromium has a least one; the frame's title tells what it found."""
    (tmp_path / "frame.html").write_text(
        f'''<iframe src="{report.as_uri()}" style="width:{width}px;height:800px;border:0"></iframe>
        <script>onload = () => setTimeout(() => {{
          const page = frames[0].document, wide = [...page.querySelectorAll("body *")].filter(
            each => each.getBoundingClientRect().right > {width} + 0.5 && !each.closest("svg"));
          document.title = JSON.stringify([page.documentElement.scrollWidth, wide.length,
            page.querySelectorAll(".main-svg").length > 0]);
        }}, 3000)</script>'''
    )
    page, _ = drawn((tmp_path / "frame.html").as_uri(), tmp_path / "profile", "light", "--allow-file-access-from-files")
    found = json.loads(re.search(r"<title>(.*?)</title>", page).group(1))
    assert found[0] <= width
    assert found[1:] == [0, True]


def test_what_a_script_says_would_have_been_heard(tmp_path):
    """The silence above means something: an error on a page does reach the list."""
    (tmp_path / "loud.html").write_text("<script>null.x</script>")
    _, said = drawn((tmp_path / "loud.html").as_uri(), tmp_path / "profile")
    assert len(said) == 1 and "TypeError" in said[0]
