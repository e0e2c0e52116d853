"""`ratchet report` in a real browser, headless: `make test-browser`.

Chromium is the one of RATCHET_CHROMIUM or of the PATH. Without one these tests fail: they are not
in any other target. Screenshots are written to RATCHET_SCREENSHOTS, if it is set.
"""

import itertools
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.checkpoints import series
from support.reports import begin, end, epoch, eventful, losses, tell

from keras_ratchet.cli import main

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESK, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    found = os.environ.get("RATCHET_CHROMIUM") or next(
        filter(None, map(shutil.which, BROWSERS)), None
    )
    assert found, f"there is no browser: set RATCHET_CHROMIUM, or install one of {BROWSERS}"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def one(tmp_path_factory):
    """The report of one run, with files."""
    place = tmp_path_factory.mktemp("one")
    run = tell(place / "run", eventful())
    series(run, 4.0, 2.0, 3.0, 0.5)
    return write(place, run)


@pytest.fixture(scope="session")
def two(tmp_path_factory):
    """The report of two runs of different lengths, with names that would be elements."""
    place = tmp_path_factory.mktemp("two")
    first = tell(place / "<b>a", [begin(3), *losses(3.0, 2.0, 1.0), end(3)])
    second = tell(place / "c", [begin(5), *losses(2.0, 1.5, 1.25, 1.0, 0.5), end(5)])
    return write(place, first, second)


def write(place, *directories):
    path = place / "report.html"
    result = CliRunner().invoke(main, ["report", *map(str, directories), "-o", str(path)])
    assert result.exit_code == 0, result.output
    return path


class Opened:
    """A page, what it has asked the network for, and what it has complained of."""

    def __init__(self, browser, path, viewport, **options):
        self._context = browser.new_context(viewport=viewport, **options)
        self.page = self._context.new_page()
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(Path(path).as_uri())

    def close(self):
        self._context.close()

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def chart(self, number=0):
        return self.page.locator(".chart .plot").nth(number)

    def lines(self, name):
        """Return how many curves of this name are drawn."""
        return self.page.locator(f'.series[data-name="{name}"]').count()

    def ticks(self, axis="x", chart=0):
        texts = self.chart(chart).locator(f"text.{axis}").all_text_contents()
        return [float(text) for text in texts]

    def hover(self, share, chart=0):
        """Move the mouse over a chart, so far from the left end of the axis; return the words."""
        box = self.chart(chart).bounding_box()
        left, right = box["x"] + 58, box["x"] + box["width"] - 12
        self.page.mouse.move(left + share * (right - left), box["y"] + 90)
        return self.tip(chart)

    def tip(self, chart=0):
        return self.chart(chart).locator(".tip").inner_text()

    def drag(self, start, stop):
        self.hover(start)
        self.page.mouse.down()
        self.hover((start + stop) / 2)
        self.hover(stop)
        self.page.mouse.up()


@pytest.fixture
def opened(browser):
    """A function that opens a page; at the end none may have complained or asked for anything."""
    pages = []

    def open_page(path, viewport=DESK, **options):
        pages.append(Opened(browser, path, viewport, **options))
        return pages[-1]

    yield open_page
    for page in pages:
        assert not page.complaints
        assert all(url.startswith("file://") for url in page.requests)
        assert len(page.requests) == 1
        page.close()


def at(epoch, last=6):
    """Return where an epoch is on the axis, as a share of it: half an epoch is on each side."""
    return (epoch - 0.5) / last


def test_one_run_is_drawn(opened, one):
    shown = opened(one)
    assert shown.page.locator(".chart").count() == 2
    assert shown.lines("loss") == shown.lines("val_loss") == 1
    assert shown.page.locator(".chart >> nth=0 >> .save").count() == 3
    assert shown.page.locator(".chart >> nth=0 >> .save.stays").count() == 2
    for kind in ("stop", "rollback", "reduce_lr", "resume"):
        assert shown.page.locator(f".chart >> nth=0 >> line.event.{kind}").count() == 1
    assert shown.page.locator(".ring").count() == shown.page.locator("path.mean").count() == 1
    assert shown.page.locator("path.bad").count() == 1
    assert shown.page.locator(".series path.line.training").first.get_attribute("d").count("M") == 2


def test_values_without_end_are_crosses_at_the_edge_that_they_went_over(opened, tmp_path):
    events = [begin(4), *losses(1.0, 2.0, 1.0, 2.0), end(4)]
    for number, value in ((2, "inf"), (3, "-inf"), (4, 1e305)):
        events[number]["metrics"]["val_loss"] = value
    shown = opened(write(tmp_path, tell(tmp_path / "run", events)))
    crosses = shown.page.locator('[data-name="val_loss"] path.bad').all()
    tops = [cross.bounding_box()["y"] for cross in crosses]
    assert tops[0] == tops[2] < tops[1]
    assert "val_loss 1e+305" in shown.hover(at(4, last=4))


def test_hovering_tells_the_values_and_events_of_the_epoch(opened, one):
    shown = opened(one)
    said = shown.hover(at(4))
    assert "epoch 4" in said and "loss 0.25" in said and "val_loss 0.5" in said
    assert "learning rate cut" not in said
    assert "loss nan" in (third := shown.hover(at(3))) and "learning rate cut to 0.1" in third
    box = shown.chart().locator(".tip").bounding_box()
    assert box["height"] < 200 and box["width"] < 360  # it hides no more than it has to
    shown.page.mouse.move(5, 5)
    assert shown.tip() == ""


def test_series_and_events_and_metrics_can_be_hidden(opened, one):
    shown = opened(one)
    shown.button("training").click()
    assert shown.lines("loss") == 0 and shown.lines("val_loss") == 1
    assert shown.button("training").get_attribute("aria-pressed") == "false"
    assert "loss 0.25" not in shown.hover(at(4))
    shown.button("training").click()
    assert shown.lines("loss") == 1
    shown.button("saves").click()
    shown.button("stops").click()
    assert shown.page.locator("#charts .save").count() == 0
    assert shown.page.locator("#charts line.event.stop").count() == 0
    shown.button("seconds per save").click()
    assert not shown.page.locator(".chart").nth(1).is_visible()


def test_the_scale_becomes_logarithmic(opened, one):
    shown = opened(one)
    button = shown.button("log scale of loss")
    assert button.get_attribute("aria-pressed") == "false"
    linear = shown.ticks("y")
    assert len({round(b - a, 9) for a, b in itertools.pairwise(linear)}) == 1
    button.click()
    logarithmic = shown.ticks("y")
    assert len({round(b - a, 9) for a, b in itertools.pairwise(logarithmic)}) > 1
    button.click()
    assert shown.ticks("y") == linear


def test_dragging_zooms_all_charts_and_a_double_click_or_the_button_resets(opened, one):
    shown = opened(one)
    assert shown.ticks() == [1, 2, 3, 4, 5, 6] and shown.button("Reset zoom").is_disabled()
    shown.drag(at(3.6), at(5.4))
    assert shown.ticks() == [4, 5] == shown.ticks(chart=1)
    assert max(shown.ticks("y")) < 1
    shown.chart().dblclick()
    assert shown.ticks() == [1, 2, 3, 4, 5, 6]
    shown.drag(at(5.4), at(3.6))  # from right to left
    assert shown.ticks() == [4, 5]
    shown.button("Reset zoom").click()
    assert shown.ticks() == [1, 2, 3, 4, 5, 6]


def test_the_wheel_zooms_only_with_a_key_so_that_the_page_can_be_scrolled(opened, one):
    shown = opened(one)
    shown.hover(at(4))
    shown.page.mouse.wheel(0, -400)
    assert shown.ticks() == [1, 2, 3, 4, 5, 6]
    shown.page.evaluate("scrollTo(0, 0)")
    shown.hover(at(4))
    shown.page.keyboard.down("Shift")
    for _ in range(6):
        shown.page.mouse.wheel(0, -100)
    shown.page.keyboard.up("Shift")
    shown.page.wait_for_function("document.querySelectorAll('.chart text.x').length < 12")
    assert 4 in shown.ticks() and len(shown.ticks()) < 6


def test_the_keyboard_can_do_all_of_it(opened, one):
    shown = opened(one)
    shown.chart().focus()
    for _ in range(4):
        shown.page.keyboard.press("ArrowRight")
    assert "val_loss 0.5" in shown.tip()
    shown.page.keyboard.press("ArrowLeft")
    assert "val_loss 3" in shown.tip()
    for _ in range(3):
        shown.page.keyboard.press("+")
    assert 3 in shown.ticks() and len(shown.ticks()) < 4
    shown.page.keyboard.press("ArrowRight")
    shown.page.keyboard.press("ArrowRight")
    assert "epoch 5" in shown.tip()  # the view goes along
    shown.page.keyboard.press("0")
    assert shown.ticks() == [1, 2, 3, 4, 5, 6]
    shown.button("validation").focus()
    shown.page.keyboard.press("Enter")
    assert shown.lines("val_loss") == 0
    shown.page.keyboard.press("Space")
    assert shown.lines("val_loss") == 1


def paper(shown):
    return shown.page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_the_theme_follows_the_system_until_it_is_chosen(opened, one):
    light = opened(one, color_scheme="light")
    dark = opened(one, color_scheme="dark")
    assert paper(light) != paper(dark)
    whites, blacks = paper(light), paper(dark)
    for name, is_dark in (("light", False), ("dark", True), ("auto", False)):
        light.page.locator("#theme").click()
        assert light.page.locator("#theme").inner_text() == f"Theme: {name}"
        assert paper(light) == (blacks if is_dark else whites)
    dark.page.locator("#theme").click()
    assert paper(dark) == whites


def test_two_runs_are_compared(opened, two):
    shown = opened(two)
    assert shown.lines("val_loss") == 2 and shown.ticks() == [1, 2, 3, 4, 5]
    said = shown.hover(at(3, last=5))
    assert "<b>a: val_loss 1\n" in said + "\n" and "c: val_loss 1.25" in said
    assert "<b>a" not in shown.hover(at(5, last=5))
    shown.button("<b>a").click()
    assert shown.lines("val_loss") == 1 and "<b>a" not in shown.hover(at(3, last=5))


def overflow(shown):
    return shown.page.evaluate("document.documentElement.scrollWidth - innerWidth")


@pytest.mark.parametrize("which", ["one", "two"])
def test_a_phone_shows_it_without_scrolling_sideways(opened, which, request):
    shown = opened(request.getfixturevalue(which), PHONE, has_touch=True, is_mobile=True)
    for details in shown.page.locator("details").all():
        details.evaluate("each => { each.open = true; }")
    assert overflow(shown) <= 0
    assert shown.chart().bounding_box()["width"] > 300
    buttons = shown.page.locator("#controls button").all()
    assert min(button.bounding_box()["height"] for button in buttons) >= 38  # for a finger
    shown.chart().tap()
    assert "epoch" in shown.tip()


def test_a_page_that_is_too_wide_for_a_phone_would_be_seen(opened, one, tmp_path):
    broken = tmp_path / "broken.html"
    whole = one.read_text()
    broken.write_text(whole.replace("<h1>", "<pre>" + "x" * 500 + "</pre><h1>"))
    assert overflow(opened(broken, PHONE, is_mobile=True)) > 0


def test_a_script_that_is_not_ours_is_not_run_and_a_request_would_be_seen(browser, one, tmp_path):
    broken = tmp_path / "broken.html"
    more = '<script>document.title = "changed"</script><img src="http://127.0.0.1:9/x.png">'
    broken.write_text(one.read_text().replace("</header>", f"</header>{more}"))
    shown = Opened(browser, broken, DESK)
    assert shown.page.title() == "run"
    assert len(shown.complaints) >= 2  # the policy has stopped both
    shown.close()


def test_without_scripts_pictures_and_tables_are_there(opened, one):
    shown = opened(one, java_script_enabled=False)
    assert shown.page.locator(".plot svg path.line").first.is_visible()
    assert shown.page.get_by_text("Without JavaScript").is_visible()
    assert shown.page.get_by_text("no rule keeps it").is_visible()
    assert not shown.page.locator("#theme").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_screenshots(opened, one, tmp_path, scheme, size):
    place = Path(os.environ.get("RATCHET_SCREENSHOTS") or tmp_path)
    shown = opened(one, size, color_scheme=scheme)
    path = place / f"report-{'phone' if size is PHONE else 'desk'}-{scheme}.png"
    shown.page.screenshot(path=path, full_page=True)
    assert path.stat().st_size > 10_000


def test_nothing_but_nan_shows_as_crosses_and_a_log_scale_says_what_it_leaves_out(opened, tmp_path):
    events = [begin(2), *[epoch(n, loss="nan", gain=1.0 - n) for n in (1, 2)], end(2)]
    shown = opened(write(tmp_path, tell(tmp_path / "run", events)))
    assert shown.chart(0).locator("path.bad").count() == 2
    assert shown.chart(1).locator(".left-out").count() == 0
    shown.button("log scale of gain").click()
    assert "0 and below" in shown.chart(1).locator(".left-out").text_content()
