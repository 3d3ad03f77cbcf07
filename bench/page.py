"""Measure the speed of the page in headless Chromium: `python -m bench.page`.

The page talks to the tests' stand-in server, so that no model uses the CPU. Measured are first
paint, time to interactive, bytes over the wire, the longest task while four answers stream at 50
tokens per second each, and memory over 10,000 updates of the learning view.
"""

import argparse
import json
import shutil
import statistics
from typing import Any

from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

from tests.support.browser.stand_in import StandIn

STARTS = 5
RATE = 50.0  # tokens a second of each answer
TOKENS = 600
UPDATES = 10_000
WORDS = "The **quick** fox, `jumps` over\n\n- the lazy\n- dog, and then\n\n1. rests. "

OBSERVE_TASKS = """
window.tasks = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.tasks.push(entry.duration);
}).observe({ type: "longtask" });
window.frames = [];
let last = performance.now();
const frame = (now) => {
  window.frames.push(now - last);
  last = now;
  requestAnimationFrame(frame);
};
requestAnimationFrame(frame);
"""
# The page is interactive once its script has created the message field.
INTERACTIVE = """
new MutationObserver((_, observer) => {
  if (!document.querySelector(".composer textarea")) return;
  requestAnimationFrame(() => (window.interactive ??= performance.now()));
  observer.disconnect();
}).observe(document, { childList: true, subtree: true });
"""


def start(browser: Browser, url: str) -> tuple[float, float, int]:
    """Load the page without cache; return first paint and interactive in ms, and bytes received."""
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(INTERACTIVE)
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    sizes: list[float] = []
    session.on("Network.loadingFinished", lambda e: sizes.append(e["encodedDataLength"]))
    page.goto(url)
    page.wait_for_function("window.interactive")
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    interactive = page.evaluate("window.interactive")
    context.close()
    return paint, interactive, int(sum(sizes))


def streaming(browser: Browser, stand_in: StandIn) -> dict[str, float]:
    """Stream four answers and return figures of long tasks and slow frames."""
    stand_in.answers = [(WORDS * (TOKENS // len(WORDS.split(" ")) + 1))] * 4
    stand_in.tokens_per_second = RATE
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    kept = json.dumps(json.dumps({"answers": 4}))
    page = context.new_page()
    page.add_init_script(f"if (location.port) localStorage['plaudit.settings'] = {kept}")
    page.goto(stand_in.url)
    page.evaluate(OBSERVE_TASKS)
    field = page.get_by_role("textbox", name="Your message")
    field.fill("Stream")
    field.press("Enter")
    page.locator("[data-status=deciding]").wait_for(timeout=120_000)
    tasks, frames = page.evaluate("[window.tasks, window.frames]")
    length = page.locator(".candidate .answer-text").first.inner_text()
    context.close()
    stand_in.reset()
    return {
        "characters_each": len(length),
        "long_tasks": len(tasks),
        "longest_task_ms": max(tasks, default=0.0),
        "frames": len(frames),
        "slowest_frame_ms": max(frames),
        "frames_over_50_ms": sum(f > 50 for f in frames),
    }


def heap(page: Page, session: CDPSession) -> float:
    """Return the size of the script objects in MiB after garbage collection."""
    session.send("HeapProfiler.collectGarbage")
    page.wait_for_timeout(200)
    metrics: list[dict[str, Any]] = session.send("Performance.getMetrics")["metrics"]
    return float(next(m["value"] for m in metrics if m["name"] == "JSHeapUsedSize") / 2**20)


def updates(browser: Browser, stand_in: StandIn) -> dict[str, float]:
    """Send 10,000 snapshots to the learning view as fast as it takes them; return its memory."""
    context = browser.new_context()
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Performance.enable")
    page.goto(f"{stand_in.url}/#/learning")
    page.locator(".loop").wait_for()
    page.wait_for_timeout(1000)
    before = heap(page, session)
    most = before
    stand_in.flood = UPDATES
    last = stand_in.flooded
    total = f"document.querySelectorAll('.tile strong')[1].textContent === '{last:,}'"
    while not page.evaluate(total):
        page.wait_for_timeout(1000)
        most = max(most, heap(page, session))
    after = heap(page, session)
    nodes = page.evaluate("document.querySelectorAll('*').length")
    context.close()
    return {"before_mib": before, "most_mib": most, "after_mib": after, "elements": nodes}


def main() -> None:
    """Measure and print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    with sync_playwright() as playwright, StandIn() as stand_in:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        starts = [start(browser, stand_in.url) for _ in range(STARTS)]
        paints, interactives, sizes = zip(*starts, strict=True)
        print(f"Chromium {browser.version}, {STARTS} starts without cache")
        print(f"first paint: median {statistics.median(paints):.0f} ms, worst {max(paints):.0f}")
        print(
            f"interactive: median {statistics.median(interactives):.0f} ms, "
            f"worst {max(interactives):.0f}"
        )
        print(f"over the wire, including headers: {max(sizes) / 1000:.1f} kB")
        print("4 answers at 50 tokens/s each:", _rounded(streaming(browser, stand_in)))
        print(f"{UPDATES} updates of the learning view:", _rounded(updates(browser, stand_in)))
        browser.close()


def _rounded(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in figures.items())


if __name__ == "__main__":
    main()
