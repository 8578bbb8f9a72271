"""The report as a browser draws it: every chart there, in light and dark and on a phone, and what its buttons do."""

import re
import shutil

import plotly.graph_objects as go
import pytest

from tests.train.report.test_report import report_on, sweep
from train.report.charts import CHARTS, FIRST
from train.report.page import packed_figures, rendered

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api")
SIZES = {"desktop": (1440, 900), "tablet": (1024, 768), "phone": (390, 844), "small": (320, 700)}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path to draw the report with"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    report_on(sweep(), folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, report):
    """A function that opens the report at a size, in a scheme; what the page said on the console fails the test."""
    said, pages = [], []

    def open_at(size: str = "desktop", scheme: str = "light"):
        width, height = SIZES[size]
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(report.as_uri())
        page.wait_for_selector("html[data-drawn]", timeout=60_000)
        pages.append(page)
        return page

    yield open_at
    for page in pages:
        page.close()
    assert said == []


def marks(page, chart: str) -> int:
    """Points and bars that a chart shows."""
    return page.locator(f"#panels-{chart} :is(.point, .points path)").count()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_chart_is_drawn_in_the_ink_of_the_scheme(opened, scheme):
    page = opened(scheme=scheme)
    for key in {**FIRST, **CHARTS}:
        assert page.locator(f"#panels-{key} .main-svg").count() >= 1, key
        assert page.locator(f"#panels-{key} :is(.js-line, .point)").count() >= 1, key
    ink = {"light": "rgb(28, 28, 30)", "dark": "rgb(236, 236, 238)"}[scheme]
    assert page.locator("#panels-best .xtick text").first.evaluate("each => getComputedStyle(each).fill") == ink
    line = page.locator("#panels-best .js-line").first.evaluate("each => getComputedStyle(each).stroke")
    assert line == {"light": "rgb(0, 114, 178)", "dark": "rgb(77, 163, 255)"}[scheme]


@pytest.mark.parametrize("size", SIZES)
def test_the_first_screen_has_question_answer_and_chart_and_nothing_is_wider_than_it(opened, size):
    page, (width, height) = opened(size), SIZES[size]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for place in ("h1", ".answers p >> nth=0"):
        assert page.locator(place).bounding_box()["y"] < height / 2
    if size in ("desktop", "phone"):
        box = page.locator("#panels-best .plot").bounding_box()
        assert box["y"] + box["height"] <= height
    if size == "phone":
        assert page.evaluate("document.documentElement.scrollHeight") < 6000


def test_pointing_at_a_run_says_what_it_is(opened):
    page = opened()
    page.locator("#panels-losses").scroll_into_view_if_needed()
    page.locator("#panels-losses .plot >> nth=0").locator(".trace.scatter >> nth=1").locator(".point >> nth=0").hover(
        force=True
    )
    page.wait_for_selector("#panels-losses .hoverlayer .hovertext")
    text = " ".join(page.locator("#panels-losses .hoverlayer .hovertext text").all_text_contents())
    assert re.search(r"learning rate 0\.\d+.*(seed \d|of 3 seeds failed)", text)


def test_a_name_of_the_legend_hides_its_arm_in_every_chart_and_in_the_table(opened):
    page = opened()
    before = {key: marks(page, key) for key in ("best", "losses", "layers")}
    button = page.get_by_role("button", name="post · rms", exact=True).first
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    after = {key: marks(page, key) for key in before}
    assert all(after[key] == before[key] * 3 // 4 for key in ("best",)) and all(after[k] < before[k] for k in before)
    assert page.locator("#count").text_content() == "180 of 240 shown"
    page.locator("#reset").click()
    assert {key: marks(page, key) for key in before} == before


def test_filters_pick_runs_by_outcome_seed_and_size(opened):
    page = opened()
    page.locator("select[data-filter=outcome]").select_option("stuck")
    assert page.locator("#count").text_content() == "48 of 240 shown"
    assert set(page.locator("#table tbody td:nth-child(5)").all_text_contents()) == {"stuck"}
    page.locator("select[data-filter=seed]").select_option("1")
    assert page.locator("#count").text_content() == "16 of 240 shown"
    page.locator("select[data-filter=size]").select_option("depth 16")
    assert page.locator("#panels-losses .plot").count() == 1
    assert set(page.locator("#table tbody td:nth-child(2)").all_text_contents()) == {"depth 16"}


def test_the_table_sorts_and_a_row_unfolds_to_its_curve(opened):
    page = opened()
    loss = page.locator("#table th button", has_text="loss")
    loss.click()
    losses = [float(text) for text in page.locator("#table tbody td:nth-child(6)").all_text_contents()]
    assert losses == sorted(losses) and len(losses) == 20
    loss.click()
    assert page.locator("#table th[aria-sort=descending]").text_content().startswith("loss")
    row = page.locator("#table tbody button >> nth=0")
    row.click()
    assert page.locator("#table .plot .js-line").count() == 1
    assert "python -m train replay" in page.locator("#table code").text_content()
    page.keyboard.press("Enter")  # the button keeps no focus when the table is drawn again, so nothing else opens
    page.locator("#more").click()
    assert page.locator("#table tbody button").count() == 240


def test_the_slider_goes_through_the_steps_and_choices_through_sizes(opened):
    page = opened()
    slider = page.locator("#controls-layers input[type=range]")
    assert slider.get_attribute("aria-valuetext") == "150"
    slider.fill("0")
    assert slider.get_attribute("aria-valuetext") == "0"
    page.locator("#controls-curves select >> nth=0").select_option("depth 2")
    page.locator("#controls-curves select >> nth=1").select_option("0.03")
    assert page.locator("#panels-curves .js-line").count() == 4 * 3 + 4


@pytest.mark.parametrize("format", ["SVG", "PNG"])
def test_a_chart_is_saved_at_paper_size_with_a_legend(opened, format, tmp_path):
    page = opened(scheme="dark")
    with page.expect_download() as download:
        page.locator("#controls-best").get_by_role("button", name=format).click()
    download.value.save_as(tmp_path / "chart")
    content = (tmp_path / "chart").read_bytes()
    if format == "PNG":
        assert content.startswith(b"\x89PNG") and int.from_bytes(content[16:20], "big") == 2016  # 7 inches at 288 dpi
    else:
        text = content.decode()
        assert 'width="504"' in text and "post · rms" in text and "rgb(0, 0, 0)" in text


def test_it_is_used_by_keyboard_alone(opened):
    page = opened()
    page.locator("[data-arm] >> nth=0").focus()
    page.keyboard.press("Space")
    assert page.locator("[data-arm] >> nth=0").get_attribute("aria-pressed") == "false"
    page.locator("#cells > summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("#cells table").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_with_one_figure_are_drawn_by_the_same_script(browser, tmp_path, scheme):
    """Those of `transfer` and of `reproduce`."""
    figure = go.Figure().add_scatter(x=[1, 2], y=[3, 4], name="pre", line={"color": "#0072b2"})
    words = {"title": "Does it stay?", "answers": ["It does."], "table": "1 2"}
    page_ = rendered("train.report", "transfer.html.j2", data=packed_figures({"transfer": figure}), **words)
    (tmp_path / "page.html").write_text(page_)
    said, page = [], browser.new_page(color_scheme=scheme)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector("html[data-drawn]", timeout=60_000)
    line = page.locator("#plot-transfer .js-line").first.evaluate("each => getComputedStyle(each).stroke")
    assert line == {"light": "rgb(0, 114, 178)", "dark": "rgb(77, 163, 255)"}[scheme] and said == []
    page.close()


def test_charts_say_in_words_what_they_show(opened):
    page = opened()
    for key in {**FIRST, **CHARTS}:
        label = page.locator(f"#panels-{key}").get_attribute("aria-label")
        assert len(label.split(": ", 1)[1]) > 10, key
