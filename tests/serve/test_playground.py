"""The playground in a real browser, by the WebDriver protocol: what it shows, what it loads, what it keeps."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64decode
from pathlib import Path

import pytest
from live_server import live
from starlette.testclient import TestClient

import mainstem as ms
from mainstem.serve.app import build
from mainstem.serve.manners import of
from mainstem.serve.models import Models

DRIVER, BROWSER = (
    shutil.which("chromedriver"),
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome"),
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run --no-default-browser-check --disable-extensions --disable-default-apps"
).split()
needs_browser = pytest.mark.skipif(not (DRIVER and BROWSER), reason="needs chromium and chromedriver")
SIZES = (390, 820, 1440)
KEY = "element-6066-11e4-a52e-4f735466cecf"  # of the protocol


class Browser:
    """One window of a headless Chromium."""

    def __init__(self, port):
        self.base = f"http://127.0.0.1:{port}/session"
        options = {"binary": BROWSER, "args": FLAGS}
        asked = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}}
        self.base += f"/{self._send('POST', '', asked)['sessionId']}"

    def _send(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["value"]

    def open(self, address):
        self._send("POST", "/url", {"url": address})

    def run(self, script):
        return self._send("POST", "/execute/sync", {"script": script, "args": []})

    def type(self, selector, text):
        element = self._send("POST", "/element", {"using": "css selector", "value": selector})[KEY]
        self._send("POST", f"/element/{element}/value", {"text": text})

    def click(self, selector):
        element = self._send("POST", "/element", {"using": "css selector", "value": selector})[KEY]
        self._send("POST", f"/element/{element}/click", {})

    def text(self, selector="body"):
        return self.run(f"return document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def until(self, script, seconds=30):
        deadline = time.monotonic() + seconds
        while not (found := self.run(f"return {script}")):
            assert time.monotonic() < deadline, f"{script}: {self.text()}"
            time.sleep(0.05)
        return found

    def look(self, width, name):
        """A picture of the page at this width, kept where MAINSTEM_SCREENSHOTS says; and whether it is wider than the window."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._send("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": size})
        wide = self.run("return document.documentElement.scrollWidth")
        shot = {"cmd": "Page.captureScreenshot", "params": {"captureBeyondViewport": True}}
        picture = b64decode(self._send("POST", "/goog/cdp/execute", shot)["data"])
        if folder := os.environ.get("MAINSTEM_SCREENSHOTS"):
            Path(folder, f"{name}-{width}.png").write_bytes(picture)
        return wide

    def complaints(self):
        return [entry["message"] for entry in self._send("POST", "/se/log", {"type": "browser"})]

    def close(self):
        self._send("DELETE", "")


@pytest.fixture(scope="module")
def browser():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    made = None
    try:
        for _ in range(100):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                made = Browser(port)
                break
            time.sleep(0.1)
        assert made is not None, "chromedriver does not answer"
        yield made
        made.close()
    finally:
        driver.terminate()
        driver.wait(20)


@pytest.fixture(scope="module")
def folders(mood_run, table_run, number_run, picture_run, embedder):
    return {
        "mood": mood_run.path,
        "embed": embedder.path,
        "dear": table_run.path,
        "rent": number_run.path,
        "pixels": picture_run.path,
    }


@pytest.fixture(scope="module")
def address(folders):
    with live(folders) as made:
        yield made


def test_the_page_holds_nothing_and_loads_nothing_from_elsewhere(mood_run):
    models = Models({"mood": mood_run.path})
    with TestClient(build(models, manners=of(token="long-secret")), base_url="http://any.example") as http:
        for path, kind in (("/", "text/html"), ("/playground.js", "text/javascript"), ("/playground.css", "text/css")):
            answer = http.get(path)
            assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, kind)
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert "unsafe" not in answer.headers["content-security-policy"]
            for word in ("http:", "https:", "mood", "innerHTML", "eval(", "localStorage", "sessionStorage", "cookie"):
                assert word not in answer.text, word


@needs_browser
def test_one_text_for_all_tasks_that_read_it(browser, address):
    browser.open(address)
    browser.until("!document.getElementById('asking').hidden")
    assert browser.text("#served") == "5 tasks served"
    assert browser.run("return [...document.querySelectorAll('.task[aria-pressed=true]')].map((b) => b.innerText)") == ["mood", "embed"]
    for width in SIZES:
        assert browser.look(width, "start") <= width
    browser.type("textarea", "很好 lovely 喜欢 warm")
    browser.click("#ask")
    browser.until("document.querySelectorAll('.card').length == 2")
    assert browser.text(".card .value") == "好评"
    assert "好评" in browser.text(".card ol li.chosen")
    assert browser.run("return document.querySelectorAll('.card ol li').length") == 2
    bar = "const line = document.querySelector('.card li.chosen'), bar = getComputedStyle(line, '::before');"
    bar += "return parseFloat(bar.width) / line.clientWidth"
    share = browser.run(bar)
    told = float(browser.text(".card li.chosen span:last-child").removesuffix(" %")) / 100
    assert share == pytest.approx(told, abs=0.02)
    assert "16 numbers" in browser.text(".card:nth-child(2)")
    assert "2 tasks at once" in browser.text("#time")
    for width in SIZES:
        assert browser.look(width, "text") <= width


@needs_browser
def test_rows_of_a_table_and_what_does_not_fit(browser, address):
    browser.open(address)
    browser.until("!document.getElementById('asking').hidden")
    for name in ("mood", "embed", "dear", "rent"):
        browser.run(f"[...document.querySelectorAll('.task')].find((b) => b.innerText == '{name}').click()")
    browser.type("[id='field area']", "70.5")
    browser.type("[id='field rooms']", "3")
    browser.type("[id='field 城区']", "朝阳")
    browser.click("#ask")
    browser.until("document.querySelectorAll('.card').length == 2")
    assert "90 % interval" in browser.text(".card:nth-child(2)")
    for width in SIZES:
        assert browser.look(width, "table") <= width
    browser.type("[id='field area']", "x")
    browser.click("#ask")
    browser.until("document.querySelectorAll('.card .error').length == 2")
    assert "expected a number" in browser.text(".card .error")


def only(browser, *names):
    """Press the buttons of these tasks, and of no other."""
    tasks = browser.run("return [...document.querySelectorAll('.task')].map((b) => [b.innerText, b.ariaPressed])")
    for name, pressed in tasks:
        if (name in names) != (pressed == "true"):
            browser.run(f"[...document.querySelectorAll('.task')].find((b) => b.innerText == '{name}').click()")


@needs_browser
def test_several_rows_as_csv(browser, address, table_run, tmp_path):
    browser.open(address)
    browser.until("!document.getElementById('asking').hidden")
    only(browser, "dear", "rent")
    browser.click("#several")
    rows = [{"area": 70.5, "rooms": 3, "城区": "朝阳"}, {"area": None, "rooms": 1, "城区": "海淀"}]
    told = table_run.model.predict(rows)
    browser.type("#rows", '城区;area;rooms\n朝阳;70.5;3\n"海淀";;1\n')
    browser.click("#ask")
    browser.until("document.querySelectorAll('.card table').length == 2")
    seen = browser.run(
        "return [...document.querySelectorAll('.card table')].map((t) => [...t.rows].map((r) => [...r.cells].map((c) => c.innerText)))"
    )
    assert seen[0][0] == ["row", "prediction", "score"]
    assert [line[:2] for line in seen[0][1:]] == [[str(i), answer["prediction"]] for i, answer in enumerate(told, 1)]
    assert "90 % interval" in seen[1][0]
    for width in SIZES:
        assert browser.look(width, "several") <= width
    (tmp_path / "flats.csv").write_text("area,rooms,城区\n" + "88,2,浦东\n" * 60, encoding="utf-8")
    browser.type("#file", str(tmp_path / "flats.csv"))
    browser.until("document.getElementById('rows').value.startsWith('area,rooms')")
    browser.click("#ask")
    browser.until("document.querySelectorAll('.card tr').length == 2 * 51")
    assert "and 10 more" in browser.text(".card")
    for text, said in (("area,rooms\n1\n", "row 1 has 1 cells"), ("area\n", "there are no rows"), ('area\n"1', "never closed")):
        browser.run(f"const box = document.getElementById('rows'); box.value = {json.dumps(text)}; box.oninput()")
        browser.click("#ask")
        browser.until(f"document.getElementById('wrong').innerText.includes({json.dumps(said)})")
    browser.run("const box = document.getElementById('rows'); box.value = 'area,rooms,城区\\n1,2,浦东\\nx,2,浦东'; box.oninput()")
    browser.click("#ask")
    browser.until("document.querySelectorAll('.card .error').length == 2")
    assert "row 2: " in browser.text(".card .error")
    browser.click("#several")
    browser.until("document.getElementById('field area')")


@needs_browser
def test_a_forecast_is_drawn_from_rows_of_a_series(browser, tmp_path):
    rows = [{"shop": shop, "step": t, "sales": 10 + level + t % 4} for shop, level in (("北京", 0), ("上海", 20)) for t in range(40)]
    run = ms.train(rows, "sales", out=tmp_path / "run", series="shop", time="step", horizon=4, backbone="naive")
    with live({"sales": run.path}) as address:
        browser.open(address)
        browser.until("document.getElementById('rows')")
        assert browser.run("return document.getElementById('several').hidden")
        for width in SIZES:
            assert browser.look(width, "series") <= width
        browser.type("#rows", "shop,step,sales\n" + "".join(f"{r['shop']},{r['step']},{r['sales']}\n" for r in rows))
        browser.click("#ask")
        browser.until("document.querySelectorAll('.card figure').length == 2")
        said = browser.run("return [...document.querySelectorAll('figcaption')].map((c) => c.innerText)")
        assert said[0].startswith("北京 · ")
        assert said[1].startswith("上海 · ")
        assert browser.run("return document.querySelector('.curve polyline').getAttribute('points').split(' ').length") == 4
        assert browser.run("return document.querySelector('.curve polygon').getBoundingClientRect().width") > 100
        for width in SIZES:
            assert browser.look(width, "forecast") <= width
    assert [text for text in browser.complaints() if "status of 422" not in text] == []


@needs_browser
def test_a_picture_is_asked_as_soon_as_it_is_chosen(browser, address, picture_run):
    browser.open(address)
    browser.until("!document.getElementById('asking').hidden")
    for name in ("mood", "embed", "pixels"):
        browser.run(f"[...document.querySelectorAll('.task')].find((b) => b.innerText == '{name}').click()")
    files = sorted((picture_run.path.parent / "pictures").rglob("*.png"))
    browser.type("input[type=file]", str(files[0]))
    browser.until("document.querySelectorAll('.card').length == 1")
    assert browser.text(".card .value") == picture_run.model.predict([{"image": files[0].read_bytes()}])[0]["prediction"]
    browser.until("document.querySelector('.drop img').naturalWidth == 8")
    for width in SIZES:
        assert browser.look(width, "picture") <= width
    assert [text for text in browser.complaints() if "status of 422" not in text] == []  # which was asked for above


@needs_browser
def test_a_token_is_asked_for_and_kept_in_memory_only(browser, folders):
    with live({"mood": folders["mood"]}, manners=of(token="long-secret")) as address:
        browser.open(address)
        browser.until("!document.getElementById('key').hidden")
        assert "asks for a token" in browser.text("#served")
        assert browser.look(390, "token") <= 390
        browser.type("#token", "wrong-secret\n")
        browser.until("document.getElementById('served').innerText.includes('not known')")
        browser.type("#token", "long-secret\n")
        browser.until("!document.getElementById('asking').hidden")
        browser.type("textarea", "很差 poor")
        browser.click("#ask")
        browser.until("document.querySelectorAll('.card').length == 1")
        assert browser.text(".card .value") == "差评"
        kept = "[document.cookie, {...localStorage}, {...sessionStorage}, location.href, document.body.innerHTML]"
        held = browser.run(f"return JSON.stringify({kept})")
        assert "secret" not in held
        browser.open(address)
        browser.until("!document.getElementById('key').hidden")  # gone with the page
