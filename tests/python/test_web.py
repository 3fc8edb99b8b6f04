"""The page in a real browser: chat, stop, tool calls, markup that must not run, the dashboard, the key."""
import json
import os
import pathlib
import re
import shutil

import pytest

playwright = pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from server_process import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WEATHER = [{"type": "function", "function": {"name": "get_weather", "description": "Get the weather for a location", "parameters": {
    "type": "object", "properties": {"location": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
    "required": ["location"]}}}]


@pytest.fixture(scope="session")
def browser():
    if not CHROMIUM:
        pytest.fail("chromium is not installed") if os.environ.get("CI") else pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page that fails the test on a script error or a request to anywhere else."""
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    page = context.new_page()
    faults = []
    page.on("pageerror", lambda fault: faults.append(str(fault)))
    page.on("request", lambda r: r.url.startswith(("http://127.0.0.1", "data:")) or faults.append(f"outside request: {r.url}"))
    yield page
    context.close()
    assert not faults


def settings(page, **fields):
    page.locator("#open-settings").click()
    for name, value in fields.items():
        field = page.locator(f"#settings [name={name}]")
        field.select_option(value) if name == "thinking" else field.fill(value)
    page.get_by_role("button", name="Done").click()


def ask(page, text):
    page.locator("#input").fill(text)
    page.keyboard.press("Enter")


def answered(page, n=1):
    """Waits until n answers have ended."""
    expect(page.locator(".turn.assistant .foot button")).to_have_count(n, timeout=30000)


def test_chat_streams_reasoning_folded_and_answer(minimo, page):
    page.goto(minimo.url)
    expect(page.locator("#model")).to_have_text(minimo.model if hasattr(minimo, "model") else re.compile("nano"))
    settings(page, temperature="0")
    ask(page, "What is the capital of Japan?")
    answered(page)
    expect(page.locator(".turn.assistant .text")).to_have_text("The capital of Japan is Tokyo.")
    thinking = page.locator("details.thinking")
    assert thinking.get_attribute("open") is None
    thinking.locator("summary").click()
    expect(thinking.locator(".thought")).to_contain_text("The user asks for the capital of Japan.")
    assert "tok/s" in page.locator(".foot").inner_text()
    ask(page, "What is 2+3? Answer briefly.")
    answered(page, 2)
    page.locator(".turn.assistant .foot button").last.click()  # retry
    answered(page, 2)
    expect(page.locator(".turn.user")).to_have_count(2)


def test_tool_call_is_shown_and_answered(minimo, page):
    page.goto(minimo.url)
    settings(page, temperature="0", tools=json.dumps(WEATHER))
    ask(page, "What's the weather like in Madrid? use fahrenheit.")
    answered(page)
    expect(page.locator(".call b")).to_have_text("get_weather")
    assert json.loads(page.locator(".call pre").inner_text()) == {"location": "Madrid", "unit": "fahrenheit"}
    page.locator(".call input").fill(json.dumps({"location": "Madrid", "temperature": 21, "weather": "sunny"}))
    page.keyboard.press("Enter")
    answered(page, 2)
    expect(page.locator(".turn.assistant .text").last).to_contain_text("Madrid")


def test_stop_ends_the_answer_and_frees_the_engine(make_fake, page):
    server = make_fake(step_us=20_000)  # the nano models are done before a browser can look
    page.goto(server.url)
    ask(page, "Tell me a short story.")
    expect(page.locator("#stop")).to_be_visible()
    expect(page.locator(".thought, .turn.assistant .text p").first).not_to_be_empty(timeout=10000)
    page.keyboard.press("Escape")
    answered(page)
    expect(page.locator("#send")).to_be_visible()
    server.wait_idle()


def test_markup_in_answers_is_shown_not_run(make_minimo, page):
    server = make_minimo("nano-minimax-m2")
    page.goto(server.url)
    nasty = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>**b** ```html\n<b>x</b>\n```'
    chunks = [{"choices": [{"index": 0, "delta": {"reasoning_content": nasty}}]},
              {"choices": [{"index": 0, "delta": {"content": nasty}}]},
              {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "c", "function": {
                  "name": nasty, "arguments": json.dumps({"a": nasty})}}]}, "finish_reason": "tool_calls"}]}]
    body = "".join(f"data: {json.dumps(c)}\n\n" for c in chunks) + "data: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body))
    ask(page, "<b>hello</b>")
    answered(page)
    expect(page.locator(".turn.user .text")).to_have_text("<b>hello</b>")
    assert '<img src=x onerror="window.pwned=1">' in page.locator(".turn.assistant .text").inner_text()
    assert page.locator("#turns img, #turns script, #turns .text b").count() == 0
    assert page.evaluate("window.pwned") is None


def test_errors_are_told_and_can_be_retried(make_minimo, page):
    server = make_minimo("nano-minimax-m2", api_key=["secret"])
    page.goto(server.url)
    expect(page.locator("#settings")).to_be_visible()  # the page asks for the key
    page.locator("#settings [name=key]").fill("secret")
    page.get_by_role("button", name="Done").click()
    expect(page.locator("#model")).to_contain_text("nano")
    settings(page, temperature="0", top_p="0.5")
    page.evaluate("document.querySelector('#settings [name=top_p]').value = '7'")  # past what the field allows
    ask(page, "What is 2+3? Answer briefly.")
    expect(page.locator(".turn .fault")).to_contain_text("top_p")
    page.evaluate("document.querySelector('#settings [name=top_p]').value = ''")
    page.get_by_role("button", name="Retry").click()
    answered(page)
    expect(page.locator(".turn.assistant .text")).to_have_text("5")


def test_no_layout_shift_while_streaming(make_minimo, page):
    server = make_minimo("nano-minimax-m2")
    page.goto(server.url)
    page.evaluate("""() => { window.shift = 0; new PerformanceObserver((list) => {
        for (const e of list.getEntries()) if (!e.hadRecentInput) window.shift += e.value; }).observe({type: 'layout-shift', buffered: true}); }""")
    settings(page, temperature="0")
    ask(page, "Explain what a neural network is in one sentence.")
    answered(page)
    assert page.evaluate("window.shift") < 0.05


def test_dashboard_moves_under_load(make_minimo, page):
    import threading
    from server_process import http
    server = make_minimo("nano-mimo-v2-flash", threads=1)  # the other core is the browser's
    page.goto(server.url + "/#engine")
    expect(page.locator("#engine-notice")).to_contain_text("Live: nano-mimo-v2-flash")

    seen = threading.Event()

    def load():  # until seen: one answer may begin and end between two looks of the page
        while not seen.is_set():
            http.post(server.url + "/v1/chat/completions", timeout=60, json={
                "messages": [{"role": "user", "content": "Tell me a short story."}], "max_tokens": 1500, "ignore_eos": True})
    threads = [threading.Thread(target=load) for _ in range(4)]
    for t in threads:
        t.start()
    try:
        expect(page.locator("#t-run")).not_to_have_text("0", timeout=20000)
        expect(page.locator("#t-gen")).not_to_have_text("0", timeout=20000)
        expect(page.locator("#experts-hint")).to_contain_text("layers, 16 experts", timeout=20000)
    finally:
        seen.set()
    colours = page.evaluate("""() => { const c = document.getElementById('heat'); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        return new Set(Array.from({length: d.length / 4}, (_, i) => d.slice(4 * i, 4 * i + 3).join())).size; }""")
    assert colours > 3
    for t in threads:
        t.join()
    page.locator("#tab-chat").click()
    expect(page.locator("#view-chat")).to_be_visible()


def test_small_and_self_contained(make_minimo, page):
    files = list((ROOT / "web").iterdir())
    assert sum(f.stat().st_size for f in files) < 100_000
    for file in files:
        assert not re.search(r"https?://(?!www\.w3\.org)", file.read_text()), file
    server = make_minimo("nano-minimax-m2")
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(server.url)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    unlabelled = page.evaluate("""() => [...document.querySelectorAll('button, input, textarea, select')].filter((e) =>
        !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length)).map((e) => e.outerHTML)""")
    assert unlabelled == []
