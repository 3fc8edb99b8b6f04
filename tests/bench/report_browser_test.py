"""Opens the report in headless Chromium and looks at it: plots, labels, dark and light, narrow screens, paper.

usage: report_browser_test.py MINIMO
"""

import math
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import results  # noqa: E402

PALETTE = [f".c{i}" for i in range(7)]


def boxes(page, selector):
    return page.eval_on_selector_all(selector, """elements => elements.map(e => {
        const r = e.getBoundingClientRect();
        return {left: r.left, top: r.top, right: r.right, bottom: r.bottom, text: e.textContent}; })""")


def overlap(a, b, slack=1.0):
    return (a["left"] + slack < b["right"] and b["left"] + slack < a["right"] and
            a["top"] + slack < b["bottom"] and b["top"] + slack < a["bottom"])


def check_plots(page):
    ids = page.eval_on_selector_all("svg.plot", "e => e.map(x => x.id)")
    for family in ("minimax_m2", "mimo_v2_flash"):
        for plot in ("throughput", "tpot", "cdf-ttft", "cdf-tpot", "cdf-e2el"):
            assert f"{plot}-{family}" in ids, f"{plot}-{family} is not drawn"
    for plot in ids:
        page_box = page.evaluate("document.documentElement.clientWidth")
        for box in boxes(page, f"[id='{plot}'] text"):
            assert box["left"] >= -1 and box["right"] <= page_box + 1, f"{plot}: \"{box['text']}\" leaves the page"
        for group in boxes(page, f"[id='{plot}'] .series path:first-child"):
            assert group["right"] - group["left"] + group["bottom"] - group["top"] >= 0
        labels = boxes(page, f"[id='{plot}'] text.label")
        for i, a in enumerate(labels):
            for b in labels[i + 1:]:
                assert not overlap(a, b), f"{plot}: \"{a['text']}\" over \"{b['text']}\""
        ticks = boxes(page, f"[id='{plot}'] text.tick")
        for i, a in enumerate(ticks):
            for b in ticks[i + 1:] + labels:
                assert not overlap(a, b), f"{plot}: \"{a['text']}\" over \"{b['text']}\""


def check_points(page):
    """Points stand where their tooltips say, by the scale that the tick labels show."""
    plot = "#throughput-minimax_m2"
    ticks = page.eval_on_selector_all(f"{plot} .grid text[text-anchor=end]",
                                      "e => e.map(t => [parseFloat(t.textContent.replace(/,/g, '')), +t.getAttribute('y') - 4])")
    (v0, y0), (v1, y1) = ticks[0], ticks[-1]
    points = page.eval_on_selector_all(f"{plot} circle.point",
                                       "e => e.map(c => [+c.getAttribute('cy'), c.querySelector('title').textContent])")
    assert len(points) == 5, points
    for y, title in points:
        value = float(re.search(r": ([\d,.]+) at", title).group(1).replace(",", ""))
        where = y0 + (y1 - y0) * (math.log(value / v0) / math.log(v1 / v0))
        assert abs(where - y) < 1.0, f"{title} is drawn at {y}, expected {where}"
    labels = [box["text"] for box in boxes(page, f"{plot} text.label")]
    for name in ("M2 w4, 1x H200", "trn2.48xlarge"):
        assert name in labels, f"{name} is not labelled: {labels}"


def luminance(colour):
    channels = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def check_colours(page):
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert contrast(paper, ink) > 10
    for name in PALETTE:
        colour = page.evaluate("""name => { const e = document.createElement('i'); e.className = name.slice(1);
            document.body.append(e); const c = getComputedStyle(e).color; e.remove(); return c; }""", name)
        assert contrast(paper, colour) >= 3, f"{name} {colour} on {paper}: {contrast(paper, colour):.2f}"
    return paper


def check_text(page):
    text = page.inner_text("body")
    for part in ("A <CPU> & more", "0123456789ab", "minimo bench serve --port 8000", "driver 580.1", "4.25", "trn2.48xlarge",
                 "129", "Kernels", "Start-up", "Throughput without a server", "100 GB/s best", "Seed"):
        assert part in text, f"the page does not say: {part}"


def no_sideways_scroll(page, where):
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{where}: the page is {wide} px wider than the screen"


def main(minimo):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        print("chromium is not installed", file=sys.stderr)
        return 77
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        html = pathlib.Path(folder) / "report.html"
        subprocess.run([minimo, "bench", "report", *results.write(folder), "--html", str(html)], check=True)
        assert html.stat().st_size < 400_000
        source = html.read_text()
        assert "<script" not in source and "http://" not in source, "the page needs something else"
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        seen = []
        papers = {}
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme=scheme)
            page.on("request", lambda request: seen.append(request.url))
            page.on("console", lambda message: seen.append("console: " + message.text))
            page.goto(html.as_uri())
            no_sideways_scroll(page, scheme)
            check_plots(page)
            check_points(page)
            papers[scheme] = check_colours(page)
            check_text(page)
        assert papers["light"] != papers["dark"]
        assert set(seen) == {html.as_uri()}, f"unexpected requests or messages: {seen}"
        narrow = browser.new_page(viewport={"width": 400, "height": 800})
        narrow.goto(html.as_uri())
        no_sideways_scroll(narrow, "narrow")
        paper = browser.new_page(viewport={"width": 680, "height": 960}, color_scheme="dark")
        paper.goto(html.as_uri())
        paper.emulate_media(media="print")
        assert check_colours(paper) == "rgb(255, 255, 255)", "paper is white"
        no_sideways_scroll(paper, "print")
        check_plots(paper)
        pdf = paper.pdf(prefer_css_page_size=True, print_background=True)
        pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
        assert 2 <= pages <= 12, f"{pages} pages"
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
