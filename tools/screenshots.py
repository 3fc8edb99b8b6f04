#!/usr/bin/env python3
"""Takes the pictures of the web page in docs/screenshots: .venv/bin/python tools/screenshots.py (after ./test).

Starts `minimo serve` on a nano model, talks to it in headless Chromium, puts it under load and looks."""
import json
import pathlib
import re
import shutil
import subprocess
import threading

import httpx
from playwright.sync_api import sync_playwright

ROOT = pathlib.Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "screenshots"
TOOLS = json.dumps([{"type": "function", "function": {"name": "get_weather", "description": "Get the weather for a location", "parameters": {
    "type": "object", "properties": {"location": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
    "required": ["location"]}}}])


def load(url, n):
    httpx.post(url + "/v1/chat/completions", timeout=120, json={
        "messages": [{"role": "user", "content": f"Tell me a short story. {n}"}], "max_tokens": 700, "ignore_eos": True})


def ask(page, text, answers):
    page.locator("#input").fill(text)
    page.keyboard.press("Enter")
    page.locator(".turn.assistant .foot button").nth(answers - 1).wait_for(timeout=30000)


def visit(browser, url, scheme):
    context = browser.new_context(viewport={"width": 1100, "height": 760}, color_scheme=scheme)
    page = context.new_page()
    page.goto(url)
    page.locator("#model").get_by_text("nano").wait_for()
    page.locator("#open-settings").click()
    if scheme == "light":
        page.screenshot(path=OUT / "settings.png")
    page.locator("[name=temperature]").fill("0")
    page.locator("[name=tools]").fill(TOOLS)
    page.get_by_role("button", name="Done").click()
    ask(page, "Write a haiku about the ocean.", 1)
    page.locator("details.thinking summary").click()
    ask(page, "What's the weather like in Madrid? use fahrenheit.", 2)
    page.screenshot(path=OUT / f"chat-{scheme}.png")
    if scheme == "light":
        page.set_viewport_size({"width": 360, "height": 740})
        page.screenshot(path=OUT / "chat-phone.png")
        page.set_viewport_size({"width": 1100, "height": 760})
    page.evaluate("document.querySelector('#settings [name=top_p]').value = '7'")
    page.locator("#input").fill("What is 2+3?")
    page.keyboard.press("Enter")
    page.locator(".turn .fault").wait_for()
    page.screenshot(path=OUT / f"error-{scheme}.png")
    threads = [threading.Thread(target=load, args=(url, i)) for i in range(12)]
    for thread in threads:
        thread.start()
    page.locator("#tab-engine").click()
    page.wait_for_timeout(6000)
    page.screenshot(path=OUT / f"engine-{scheme}.png")
    context.close()
    for thread in threads:
        thread.join()


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    server = subprocess.Popen([ROOT / "build" / "apps" / "minimo", "serve", "--model", "nano-mimo-v2-flash", "--port", "0"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        port = next(m.group(1) for line in server.stdout if (m := re.search(r"listening on (?:\S*:)?(\d+)", line)))
        with sync_playwright() as p:
            chromium = shutil.which("chromium") or shutil.which("chromium-browser")
            browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for scheme in ("light", "dark"):
                visit(browser, f"http://127.0.0.1:{port}", scheme)
            browser.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
