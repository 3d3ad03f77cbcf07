"""Hostile Markdown and HTML in an answer are displayed, and have no other effect."""

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser.actions import add_request_fields, ask_and_wait
from tests.support.servers import Plaudit

# Each attack tries to set `window.taken`, leave the page, or load something from another host.
ATTACKS = {
    "script": "<script>window.taken = 1</script>",
    "image": '<img src=x onerror="window.taken = 1">',
    "svg": "<svg onload=window.taken=1><script>window.taken=1</script></svg>",
    "link": "[press](javascript:window.taken=1) [or](JaVaScRiPt:window.taken=1)",
    "encoded link": "[press](javascript&#58;window.taken=1) <javascript:window.taken=1>",
    "data link": "[press](data:text/html,<script>parent.taken=1</script>)",
    "autolink": "<a href='javascript:window.taken=1'>press</a>",
    "frame": '<iframe srcdoc="<script>parent.taken=1</script>"></iframe>',
    "form": '<form action="/v1/policies/rollback" method="post"><button>Go</button></form>',
    "style": "<style>body{display:none}</style><p style='position:fixed;inset:0'>over</p>",
    "picture": "![pixel](http://127.0.0.1:9/pixel.png)",
    "reference": "[press][x]\n\n[x]: javascript:window.taken=1",
    "title": '[press](http://127.0.0.1:9 "x" onmouseover="window.taken=1")',
    "attribute": "<div onpointerover='window.taken=1' id=app class=toast>hover</div>",
    "mutation": "<math><mtext><table><mglyph><style><!--</style><img title='--><img src=x "
    "onerror=window.taken=1>'>",
    "code": "```html onload=window.taken=1\n<script>window.taken = 1</script>\n```",
    "clobbering": "<form id=cookie><input name=body></form><a id=main name=main>x</a>",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_in_an_answer_has_no_effect(page: Page, name: str) -> None:
    external: list[str] = []
    page.on("request", lambda r: external.append(r.url) if ":9/" in r.url else None)
    add_request_fields(page, structured_outputs={"choice": [ATTACKS[name]]}, max_tokens=900)
    turn = ask_and_wait(page, "attack", 1)
    answer = turn.locator(".answer-text")
    assert answer.inner_text().strip(), "the attack was not displayed"
    for element in answer.locator("a, p, div, code").all():
        element.dispatch_event("pointerover")
        element.dispatch_event("mouseover")
    hrefs = answer.locator("a").evaluate_all("all => all.map((a) => a.getAttribute('href'))")
    assert all(href is None or href.startswith("http://127.0.0.1:9") for href in hrefs)
    for link in answer.locator("a[href]").all():
        assert set((link.get_attribute("rel") or "").split()) >= {"noopener", "noreferrer"}
        assert link.get_attribute("target") == "_blank"
    for link in answer.locator("a:not([href])").all():
        link.click(force=True)
    forbidden = "script, img, svg, iframe, form, style, input, button, [id], [class], [style]"
    assert answer.locator(f".markdown > div :is({forbidden})").count() == 0
    attributes = answer.evaluate(
        "root => [...root.querySelectorAll('*')].flatMap((e) => e.getAttributeNames())"
    )
    assert not [name for name in attributes if name.startswith("on")]
    assert page.evaluate("window.taken") is None
    assert not external
    expect(page.get_by_role("textbox", name="Your message")).to_be_visible()


def test_the_content_security_policy_blocks_foreign_code_and_resources(
    browser: Browser, plaudit: Plaudit
) -> None:
    """Second line of defence: the browser would block HTML that was not escaped."""
    page = browser.new_page()
    page.goto(plaudit.url)
    blocked = page.evaluate(
        """async () => {
          const violations = [];
          document.addEventListener("securitypolicyviolation", (event) => {
            violations.push(event.effectiveDirective);
          });
          try { document.body.innerHTML += "<p>x"; } catch { violations.push("trusted types"); }
          const image = document.createElement("img");
          image.src = "http://127.0.0.1:9/pixel.png";
          document.body.append(image);
          const style = document.createElement("style");
          style.textContent = "body { display: none }";
          document.head.append(style);
          await fetch("http://127.0.0.1:9/").catch(() => {});
          await new Promise((done) => setTimeout(done, 300));
          return violations;
        }"""
    )
    assert {"trusted types", "img-src", "style-src-elem", "connect-src"} <= set(blocked)
    page.close()
