"""The viewer in a headless browser: no error, no request, review to labels; skipped where no browser is found."""

import shutil

import pytest
import test_report_page

from recordings.event_files import TimeAxis, read_events
from reports.page import write_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    path = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if path is None:
        pytest.skip("needs Chromium or Chrome on the path")
    with playwright.sync_playwright() as p:
        started = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser, tmp_path):
    root = test_report_page.make_run(tmp_path / "run")
    write_report(root)
    context = browser.new_context(accept_downloads=True)
    page, errors, requests = context.new_page(), [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: requests.append(request.url))
    address = (root / "viewer" / "night.html").as_uri()
    page.goto(address)
    yield page
    assert not errors and all(url == address or url.startswith("blob:") for url in requests)
    context.close()


def view_of(page):
    return page.evaluate("[view.start, view.end]")


def test_keys_move_zoom_and_go_to_events(page):
    page.keyboard.press("0")
    assert view_of(page) == pytest.approx([0.0, 299.8])
    page.keyboard.press("+")
    assert view_of(page)[1] - view_of(page)[0] == pytest.approx(149.9)
    before = view_of(page)[0]
    page.keyboard.press("ArrowRight")
    assert view_of(page)[0] == pytest.approx(before + 0.2 * 149.9)
    page.keyboard.press("Home")
    page.keyboard.press("n")
    start, end = view_of(page)
    assert page.evaluate("selected.key") == "e1" and start <= 100.0 <= end
    page.fill("#time", "0:04:11")
    page.keyboard.press("Enter")
    assert sum(view_of(page)) / 2 == pytest.approx(251.0, abs=view_of(page)[1] - view_of(page)[0])


def test_the_wheel_zooms_where_the_pointer_is(page):
    page.keyboard.press("0")
    box = page.locator(".u-over").first.bounding_box()
    x = round(box["x"] + 0.25 * box["width"])
    page.mouse.move(x, box["y"] + 10)
    held = page.evaluate(f"timeAt({x})")
    page.mouse.wheel(0, -100)
    page.wait_for_function("view.end - view.start < 290")
    assert page.evaluate(f"timeAt({x})") == pytest.approx(held, abs=0.01)


def test_no_peak_is_lost_when_zoomed_out(page):
    page.keyboard.press("0")
    greatest = "[Math.max(...thinned(score, bucketsOf(100))), Math.max(...score.filter((y) => y > 0))]"
    shown, whole = page.evaluate(greatest)
    assert shown == whole


def test_an_event_added_after_an_undo_has_a_name_of_its_own(page):
    page.evaluate("add(30, 40); add(60, 70); select(events.find((e) => e.key === 'a1'))")
    page.click("#undo")
    page.evaluate("add(130, 140)")
    page.reload()                                                # what was added comes back by its key
    assert page.evaluate("events.filter((e) => e.added).map((e) => e.start)") == [60, 130]


def test_a_time_beyond_the_other_end_moves_the_event_in_the_list(page):
    page.evaluate("select(events.find((e) => e.key === 'e2'))")
    before = page.evaluate("truthOf(selected)")
    page.fill("#from", "0:00:20")
    page.press("#from", "Tab")
    page.fill("#to", "0:00:10")
    page.press("#to", "Tab")
    now, length = page.evaluate("selected.now"), before["end"] - 20
    assert (now["start"], now["end"]) == pytest.approx((max(10 - length, 0), 10))
    assert page.evaluate("shown().indexOf(selected)") == 0


def test_a_review_is_saved_as_labels_that_are_read_again(page, tmp_path):
    page.evaluate("select(events.find((e) => e.key === 'e2'))")
    page.keyboard.press("t")
    page.select_option("#as", "hypopnea")
    page.evaluate("select(events.find((e) => e.key === 'm1'))")
    page.keyboard.press("f")
    page.evaluate("add(30, 45.5)")
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "night.events.csv"
    download.value.save_as(tmp_path / "night.events.csv")
    assert (tmp_path / "night.events.csv").read_text() == (
        "start_s,end_s,label\n30.00,45.50,central_apnea\n95.00,110.00,central_apnea\n200.00,201.80,hypopnea\n"
    )
    events = read_events(tmp_path / "night.events.csv", TimeAxis(0.0, 299.8), {})
    assert [(e.start_s, e.end_s, e.label) for e in events] == [
        (30.0, 45.5, "central_apnea"), (95.0, 110.0, "central_apnea"), (200.0, 201.8, "hypopnea"),
    ]  # fmt: skip
