"""The page of a batch in a real browser: what a person does with it by mouse, by keyboard, on a phone."""

import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vderain.batch.report.page import ReportRow, write_report
from vderain.batch.report.thumbnails import Thumbnail

pytest.importorskip("selenium", reason="needs selenium, of the dev group")
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Chromium and chromedriver (Debian: apt install chromium chromium-driver)"
)
EVIL = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>.mp4"
DRAWN = "new Promise(done => requestAnimationFrame(() => setTimeout(done)))"  # once what was changed is on the screen

FOCUSED_NAME = "const e = arguments[0]; return e.id || e.className || e.name || e.textContent.trim().split(' ')[0]"
FOCUS_SHOWS = """
    const styles = [arguments[0], arguments[0].nextElementSibling].filter(Boolean).map(e => getComputedStyle(e));
    return styles.some(style => style.outlineStyle !== "none" || style.borderTopWidth === "3px");"""


class Browser:
    """One page at a time, and what became of it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.find: Callable[[str], WebElement] = lambda css: driver.find_element(By.CSS_SELECTOR, css)

    def open(self, page: Path, colours: str = "light", phone: bool = False) -> None:
        width_px, height_px = (360, 740) if phone else (1280, 900)
        screen = {"width": width_px, "height": height_px, "deviceScaleFactor": 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"features": [{"name": "prefers-color-scheme", "value": colours}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
        for log in ("browser", "performance"):
            self.driver.get_log(log)  # of the page before
        self.driver.get(page.as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def slowly(self, script: str) -> Any:
        """The value of a script that may wait."""
        return self.driver.execute_async_script(f"(async () => {{ {script} }})().then(arguments[0])")

    def keys(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> WebElement:
        return self.driver.switch_to.active_element

    def names(self) -> list[str]:
        """The files that are shown, in order."""
        return self.run("return [...document.querySelectorAll('tbody:not([hidden]) .name bdi:last-child')]"
                        ".map(name => name.textContent)")  # fmt: skip

    def asked(self) -> list[str]:
        """Every address the page asked for."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [event["request"]["url"] for event in sent]

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def paper(self) -> float:
        """How light the page is behind its text, 0 to 255, on a picture of it."""
        png = np.frombuffer(self.driver.get_screenshot_as_png(), np.uint8)
        return float(np.median(cv2.imdecode(png, cv2.IMREAD_GRAYSCALE)))


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "force-color-profile=srgb"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver: webdriver.Chrome) -> Iterator[Browser]:
    """A browser; a test in which the page complained, or asked for anything but its pictures, fails."""
    browser = Browser(driver)
    yield browser
    assert browser.complaints() == []
    strange = [url for url in browser.asked() if not re.match(r"file:///|data:", url)]
    assert strange == []
    assert driver.title != "owned"


def picture(path: Path, level: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".jpg", np.full((90, 160, 3), level, np.uint8))
    assert done
    path.write_bytes(data.tobytes())
    return path.relative_to(path.parents[1]).as_posix()


def moment(folder: Path, name: str, time_s: float, removed: float) -> Thumbnail:
    """White before, black after."""
    before, after = (picture(folder / f"{name}-{time_s}-{kind}.jpg", level) for kind, level in (("b", 255), ("a", 0)))
    return Thumbnail(time_s, removed, before, after)


def file(source: str, **fields: Any) -> ReportRow:
    group = source.partition("/")[0] if "/" in source else ""
    known = ReportRow(
        source, source, group, "done", 1, 1800, 0, 300, 0, 120.0, 60.0, 90_000_000, 80_000_000,
        "2026-01-02T03:04:05+00:00", (), (), ("sound: aac",), "cpu, fp32", "", "", 0, (),
    )  # fmt: skip
    return replace(known, **fields)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of six files of every kind."""
    out = tmp_path_factory.mktemp("few out #1")  # an address that must be escaped
    shots = tuple(moment(out / "moments", "clip10", time_s, removed) for time_s, removed in ((1.0, 2.0), (8.0, 5.0)))
    rows = [
        file("front/clip10.mp4", seconds=300.0, thumbnails=shots),
        file("front/clip9.mp4", seconds=100.0, damage=("2 frames from 0:31 could not be decoded",), repeated=2,
             thumbnails=(moment(out / "moments", "clip9", 3.0, 1.0),)),
        file("rear/Clip1.mp4", seconds=200.0, dropped=("data stream 2 (camm)",)),
        file("rear/broken.mp4", state="failed", frames=0, media_s=0.0, seconds=1.0, bytes_out=0, exit_code=3,
             error="rear/broken.mp4 has no usable index (moov).", cure="Copy it again."),
        file("rear/later.mp4", state="waiting", frames=0, media_s=0.0, seconds=0.0, bytes_out=0),
        file(EVIL),
    ]  # fmt: skip
    return write_report(out, rows, "A night's drive", {"Model": "base", "Temporal": "strong"})


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a thousand files, each with pictures of its own."""
    out = tmp_path_factory.mktemp("thousand")
    shots = [moment(out / "moments", f"clip{i}", 1.0, 10 - i / 100) for i in range(1000)]
    return write_report(out, [file(f"front/clip{i}.mp4", thumbnails=(shots[i],)) for i in range(1000)], "Thousand", {})


def test_it_opens_and_asks_for_nothing_but_its_pictures(browser: Browser, few: Path) -> None:
    browser.open(few)
    assert browser.driver.title == "A night's drive" == browser.find("h1").text
    asked = browser.asked()
    assert few.as_uri() in asked and any(url.endswith("-a.jpg") for url in asked)
    folder = few.parent.as_uri() + "/"
    assert all(url.startswith((folder, "data:image/svg+xml")) for url in asked), asked
    assert len(browser.names()) == 6
    assert EVIL.rpartition("/")[2] in browser.names()


def test_the_policy_keeps_even_a_script_that_got_in_from_asking(driver: webdriver.Chrome, few: Path) -> None:
    browser = Browser(driver)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        browser.open(few)
        got = browser.slowly(f"""
            const script = document.createElement("script");
            script.textContent = "document.title = 'owned'";
            document.body.append(script);
            new Image().src = "{address}picture";
            return fetch("{address}").then(() => "asked", () => "refused");""")
        assert got == "refused"
        with pytest.raises(TimeoutError):
            server.accept()
    assert driver.title == "A night's drive"
    assert "Content Security Policy" in "".join(browser.complaints())


def cut(browser: Browser, root: str) -> tuple[float, list[int]]:
    """Where the picture is cut, in percent, and how light it is left and right of that, on the screen."""
    at = float(browser.run(
        f"return getComputedStyle(document.querySelector('{root} .before')).clipPath"
    ).split("calc(100% - ")[-1].split("%")[0].removeprefix("inset(0px "))  # fmt: skip
    browser.slowly(f"await {DRAWN}; await {DRAWN};")
    png = np.frombuffer(browser.find(f"{root} .stage").screenshot_as_png, np.uint8)
    line = cv2.imdecode(png, cv2.IMREAD_GRAYSCALE)[-12]
    return at, [int(line[round(len(line) * share)]) for share in (0.1, 0.3, 0.7, 0.9)]


def test_the_slider_wipes_between_before_and_after(browser: Browser, few: Path) -> None:
    browser.open(few)
    slider, root = browser.find(".hero .wipe"), ".hero"
    assert (slider.get_attribute("type"), bool(slider.get_attribute("aria-label"))) == ("range", True)
    _, lights = cut(browser, root)
    assert [light > 128 for light in lights] == [True, True, False, False]
    width = slider.size["width"] - 44  # of the picture
    ActionChains(browser.driver).drag_and_drop_by_offset(slider, round(-0.3 * width), 0).perform()  # from its middle
    assert abs(float(slider.get_property("value")) - 20) < 1
    assert slider.get_attribute("aria-valuetext") == "20 % before, 80 % after"
    _, lights = cut(browser, root)
    assert [light > 128 for light in lights] == [True, False, False, False]
    browser.keys(Keys.END)
    _, lights = cut(browser, root)
    assert all(light > 128 for light in lights)
    browser.keys(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert float(slider.get_property("value")) == 4
    assert browser.run("return getComputedStyle(document.querySelector('.hero .ring')).borderTopWidth") == "3px"


def test_details_open_with_their_moments(browser: Browser, few: Path) -> None:
    browser.open(few)
    name = browser.find("tbody .name")
    assert name.get_attribute("aria-expanded") == "false"
    name.click()
    assert name.get_attribute("aria-expanded") == "true"
    more = browser.find(f"#{name.get_attribute('aria-controls')}")
    assert "sound: aac" in more.text and "2026-01-02" in more.text
    shown = "return document.querySelector('.more .before').src"
    assert browser.run(shown).endswith("clip10-8.0-b.jpg")  # the rainiest first
    browser.run("document.querySelector('.more input[type=radio]:checked').focus()")
    browser.keys(Keys.ARROW_LEFT)
    assert browser.run(shown).endswith("clip10-1.0-b.jpg")
    stage = "[...document.querySelectorAll('.more .stage img')]"
    browser.slowly(f"for (const picture of {stage}) await picture.decode();")  # until they are there
    widths = f"return {stage}.map(picture => picture.naturalWidth)"
    assert browser.run(widths) == [160, 160]
    name.send_keys(Keys.ENTER)
    assert not browser.driver.find_elements(By.CSS_SELECTOR, ".more")


def test_the_table_is_sorted_by_its_heads(browser: Browser, few: Path) -> None:
    browser.open(few)
    listed = browser.names()
    took, by_name = (browser.driver.find_element(By.XPATH, f"//thead//button[.='{head}']") for head in ("Took", "File"))

    def order(button: WebElement) -> str | None:
        return button.find_element(By.XPATH, "..").get_attribute("aria-sort")

    assert order(took) == "none"
    took.click()
    assert (order(took), browser.names()[:2]) == ("descending", ["clip10.mp4", "Clip1.mp4"])
    took.send_keys(Keys.ENTER)
    assert (order(took), browser.names()[0]) == ("ascending", "later.mp4")
    by_name.click()
    assert (order(took), order(by_name)) == ("none", "ascending")
    names = [name for name in browser.names() if name.startswith("clip")]
    assert names == ["clip9.mp4", "clip10.mp4"]  # numbers by their value
    browser.run("const order = document.querySelector('#order'); order.value = '';"
                "order.dispatchEvent(new Event('input', {bubbles: true}))")  # fmt: skip
    assert browser.names() == listed


def test_the_table_is_filtered_by_text_state_and_camera(browser: Browser, few: Path) -> None:
    browser.open(few)
    find, shown = browser.find("#find"), browser.find("#shown")
    assert shown.text == "6 files"
    find.send_keys("MOOV index")
    assert (browser.names(), shown.text) == (["broken.mp4"], "1 of 6 files")
    find.clear()
    find.send_keys("could not be decoded")  # which only the details say
    assert browser.names() == ["clip9.mp4"]
    find.send_keys(" nothing like that")
    assert browser.names() == [] and browser.find("#none").is_displayed()
    browser.find("#clear").click()
    assert len(browser.names()) == 6 and not browser.find("#none").is_displayed()
    for chip, names in (("failed", ["broken.mp4"]), ("damaged", ["clip9.mp4"]), ("not-kept", ["Clip1.mp4"])):
        browser.find(f"input[name=state][value={chip}]").click()
        assert browser.names() == names
    browser.find("#show-failed").click()
    assert browser.names() == ["broken.mp4"] and browser.focused().get_attribute("value") == "failed"
    browser.find("input[name=state][value='']").click()
    browser.find("input[name=group][value=rear]").click()
    assert browser.names() == ["Clip1.mp4", "broken.mp4", "later.mp4"]
    browser.driver.find_element(By.XPATH, "//thead//button[.='File']").click()
    assert browser.names() == ["broken.mp4", "Clip1.mp4", "later.mp4"]  # sorted, and filtered still


def test_everything_is_within_reach_of_the_keyboard(browser: Browser, few: Path) -> None:
    browser.open(few)
    seen = []
    for _ in range(40):
        browser.keys(Keys.TAB)
        element = browser.focused()
        if element.tag_name == "body":
            break
        seen.append(browser.run(FOCUSED_NAME, element))
        assert browser.run(FOCUS_SHOWS, element), f"{seen[-1]} does not show that it is focused"
    for reached in ("theme", "wipe", "hero", "find", "state", "group", "File", "Took", "name"):
        assert reached in seen, (reached, seen)
    browser.keys("/")
    browser.run("document.querySelector('.name').focus()")
    browser.keys("/")
    assert browser.focused().get_attribute("id") == "find"
    browser.run("document.querySelector('.name').focus()")
    browser.keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ENTER)
    assert browser.focused().get_attribute("aria-expanded") == "true"
    assert "clip9.mp4" in browser.focused().text
    browser.keys(Keys.SPACE, Keys.END)
    assert not browser.driver.find_elements(By.CSS_SELECTOR, ".more")
    assert EVIL in browser.focused().text


def test_it_is_light_and_dark(browser: Browser, few: Path) -> None:
    browser.open(few, colours="dark")
    assert browser.paper() < 60
    theme = browser.find("#theme")
    assert theme.text == "Light"
    theme.click()
    assert browser.paper() > 200 and theme.text == "Dark"
    browser.driver.refresh()
    assert browser.paper() > 200  # it is remembered
    browser.run("localStorage.clear()")
    browser.open(few, colours="light")
    assert browser.paper() > 200


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_text_stands_out(browser: Browser, few: Path, colours: str) -> None:
    """At least 4.5 to one (WCAG 2.2, 1.4.3) for every text, by the colours the browser computed."""
    browser.open(few, colours=colours)
    browser.run("document.querySelectorAll('.name').forEach(name => name.click())")
    faint = browser.run("""
        const lightness = ([r, g, b]) => {
          const part = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
          return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
        };
        const numbers = text => text.match(/[\\d.]+/g).map(Number);
        const behind = e => {
          for (; e; e = e.parentElement) {
            const colour = numbers(getComputedStyle(e).backgroundColor);
            if (colour.length === 3) return colour;
          }
        };
        const faint = [];
        const walk = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
        while (walk.nextNode()) {
          const e = walk.currentNode.parentElement;
          if (!walk.currentNode.textContent.trim() || !e.checkVisibility() || e.closest(".tag, .unseen")) continue;
          const [a, b] = [numbers(getComputedStyle(e).color), behind(e)].map(lightness);
          const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          if (ratio < 4.5) faint.push([walk.currentNode.textContent, ratio]);
        }
        return faint;""")
    assert faint == []


def test_it_fits_a_phone(browser: Browser, few: Path) -> None:
    browser.open(few, phone=True)
    browser.find("tbody .name").click()
    wide = browser.run("return [document.documentElement.scrollWidth, innerWidth, visualViewport.scale]")
    assert wide == [360, 360, 1]
    assert browser.find("#order").is_displayed() and not browser.find("thead").is_displayed()
    assert "3.0" not in browser.find("tbody .brief").text and "5:00" in browser.find("tbody .brief").text
    small = browser.run("return [...document.querySelectorAll('.name, .chips label, #find, #order, #theme')]"
                        ".map(e => [e.className || e.id || e.textContent, e.getBoundingClientRect().height])"
                        ".filter(([, height]) => height < 24)")  # WCAG 2.2, 2.5.8  # fmt: skip
    assert small == []
    stage = browser.run("const r = document.querySelector('.more .stage').getBoundingClientRect();"
                        "return [r.left, r.right]")  # fmt: skip
    assert stage[0] >= 0 and stage[1] <= 360
    sort = browser.find("#order")
    sort.send_keys("Took most")
    assert browser.names()[0] == "clip10.mp4"


def test_a_thousand_files_open_and_scroll_within_a_second(browser: Browser, thousand: Path) -> None:
    assert thousand.stat().st_size < 5_000_000
    tries = []
    for _ in range(4):  # the best of a few, for others may be at work on this machine
        browser.open(thousand)
        opened_ms = browser.run("return performance.getEntriesByType('navigation')[0].loadEventEnd")
        steps_ms = browser.slowly(f"""
            const steps = [];
            for (let i = 1; i <= 10; i++) {{
              const begun = performance.now();
              scrollTo(0, document.documentElement.scrollHeight * i / 10);
              await {DRAWN};
              steps.push(performance.now() - begun);
            }}
            return steps;""")
        tries.append((opened_ms, sum(steps_ms)))
    assert min(opened_ms for opened_ms, _ in tries) < 1000, tries
    assert min(scrolled_ms for _, scrolled_ms in tries) < 1000, tries
    assert len(browser.names()) == 1000


def test_a_thousand_pictures_are_loaded_as_they_come_into_view(
    browser: Browser, thousand: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(thousand.parent, tmp_path / "copy")  # pictures the browser does not have at hand yet
    browser.open(copy / thousand.name)
    browser.slowly(f"await {DRAWN}; await {DRAWN};")
    first = {url for url in browser.asked() if url.endswith(".jpg")}
    assert 5 < len(first) < 200
    last = "return document.querySelector('tbody:last-of-type img').naturalWidth > 0"
    assert not browser.run(last)
    browser.slowly(f"scrollTo(0, 1e7); for (let i = 0; i < 100 && !(() => {{ {last} }})(); i++) await {DRAWN};")
    assert browser.run(last)


def test_a_thousand_files_are_sorted_and_filtered_at_once(browser: Browser, thousand: Path) -> None:
    browser.open(thousand)
    took_ms = browser.slowly(f"""
        const times = [];
        for (let i = 0; i < 4; i++) {{
          const begun = performance.now();
          document.querySelectorAll("thead button")[0].click();
          const find = document.querySelector("#find");
          find.value = "clip" + "12"[i % 2];
          find.dispatchEvent(new Event("input", {{bubbles: true}}));
          await {DRAWN};
          times.push(performance.now() - begun);
        }}
        return times;""")
    assert min(took_ms) < 500, took_ms
    assert len(browser.names()) == 111  # 2, 20 to 29, 200 to 299


def test_more_files_than_a_browser_likes_come_page_by_page(browser: Browser, tmp_path: Path) -> None:
    browser.open(write_report(tmp_path, [file(f"clip{i}.mp4") for i in range(2100)], "Months", {}))
    assert len(browser.names()) == 1000 and browser.find("#shown").text == "2,100 files"
    more = browser.find("#next")
    browser.run("arguments[0].click()", more)
    assert len(browser.names()) == 2000 and more.text == "Show 100 more"
    browser.run("arguments[0].click()", more)
    assert len(browser.names()) == 2100 and not more.is_displayed()
    browser.run("const find = document.querySelector('#find'); find.value = 'clip209';"
                "find.dispatchEvent(new Event('input', {bubbles: true}))")  # fmt: skip
    assert len(browser.names()) == 11 and not more.is_displayed()


def test_pictures_that_were_deleted_leave_the_rest_alone(driver: webdriver.Chrome, tmp_path: Path) -> None:
    browser = Browser(driver)
    shots = (moment(tmp_path / "moments", "clip", 1.0, 2.0),)
    page = write_report(tmp_path, [file("clip.mp4", thumbnails=shots)], "Title", {})
    shutil.rmtree(tmp_path / "moments")
    browser.open(page)
    browser.find(".name").click()
    browser.slowly(f"await {DRAWN}; await {DRAWN};")
    assert browser.run("return document.querySelectorAll('img.gone').length") >= 2
    assert "sound: aac" in browser.find(".more").text
    assert all("ERR_FILE_NOT_FOUND" in line for line in browser.complaints())
