"""The page's files, and how they are served."""

import gzip
import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from serving.http.page_routes import CONTENT_SECURITY_POLICY, Page, page_router

ROOT = Path(__file__).parents[4]
FOLDER = ROOT / "serving" / "page"
BUDGET_BYTES = 200_000


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(Starlette(routes=page_router().routes)) as client:
        yield client


@pytest.fixture(scope="module")
def build() -> str:
    return Page(resources.files("serving") / "page").build


def plain(client: TestClient, path: str, **headers: str) -> httpx.Response:
    return client.get(path, headers={"accept-encoding": "identity", **headers})


def test_every_answer_carries_the_policy_and_forbids_sniffing(
    client: TestClient, build: str
) -> None:
    for path in ("/", f"/page/{build}/app.js", f"/page/{build}/none.js"):
        headers = client.get(path).headers
        assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "default-src 'none'" in CONTENT_SECURITY_POLICY
    assert not re.search(r"https?:|\*", CONTENT_SECURITY_POLICY)


def test_files_are_kept_for_ever_under_their_build_and_nowhere_else(
    client: TestClient, build: str
) -> None:
    kept = client.get(f"/page/{build}/app.js").headers["cache-control"]
    assert "immutable" in kept
    for path in ("/", "/page/0123456789abcdef/app.js"):
        assert client.get(path).headers["cache-control"] == "no-cache"
    assert f"/page/{build}/app.js" in client.get("/").text


def test_what_a_browser_has_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/")
    again = client.get("/", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/", headers={"if-none-match": '"another"'}).status_code == 200


def test_a_file_is_the_same_compressed_and_plain(client: TestClient, build: str) -> None:
    path = f"/page/{build}/style.css"
    compressed, whole = client.get(path, headers={"accept-encoding": "gzip"}), plain(client, path)
    assert compressed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in whole.headers
    assert compressed.content == whole.content == (FOLDER / "style.css").read_bytes()
    assert whole.headers["content-type"] == "text/css; charset=utf-8"


@pytest.mark.parametrize("name", ["../app.py", "%2e%2e/app.py", "vendor", "", "app.py"])
def test_nothing_else_can_be_read(client: TestClient, build: str, name: str) -> None:
    assert client.get(f"/page/{build}/{name}").status_code == 404


def test_the_build_changes_with_any_file(tmp_path: Path) -> None:
    for name in ("index.html", "app.js"):
        (tmp_path / name).write_text("/BUILD/")
    before = Page(tmp_path).build
    assert Page(tmp_path).build == before
    (tmp_path / "app.js").write_text("/BUILD/ changed")
    assert Page(tmp_path).build != before


def test_index_names_every_module_and_no_file_that_is_not_there() -> None:
    index = (FOLDER / "index.html").read_text()
    named = set(re.findall(r'"/page/BUILD/([^"]+)"', index))
    modules = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.js")}
    assert modules <= named, f"not asked for at once: {modules - named}"
    assert all((FOLDER / name).is_file() for name in named)


def test_no_script_or_style_stands_in_the_page() -> None:
    index = (FOLDER / "index.html").read_text()
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", index))
    assert not re.search(r"<style|\sstyle=|\son\w+=", index)


def test_nothing_is_loaded_from_elsewhere() -> None:
    own = [p for p in FOLDER.rglob("*") if p.suffix in {".js", ".css", ".html"}]
    for path in [p for p in own if p.parent.name != "vendor"]:
        assert not re.search(r"(https?:)?//[\w-]+\.\w", path.read_text()), path
    for path in FOLDER.rglob("*.js"):
        for module in re.findall(r'(?:from|import)\s*"([\w./@-]+)"', path.read_text()):
            assert (path.parent / module).is_file(), f"{path} imports {module}"


def test_the_whole_page_is_small() -> None:
    page = Page(resources.files("serving") / "page")
    loaded = {n: f for n, f in page.files.items() if not n.endswith(".txt")}
    size = sum(len(file.compressed) for file in loaded.values())
    assert size <= BUDGET_BYTES
    assert all(gzip.decompress(f.compressed) == f.content for f in loaded.values())


def test_libraries_are_those_that_the_lock_file_pins() -> None:
    lock = json.loads((ROOT / "deploy" / "page" / "package-lock.json").read_text())
    wanted = lock["packages"][""]["dependencies"]
    locked = {name: lock["packages"][f"node_modules/{name}"]["version"] for name in wanted}
    taken = dict(
        line.split("@") for line in (FOLDER / "vendor" / "VERSIONS.txt").read_text().split()
    )
    assert wanted == locked == taken
    assert all("integrity" in lock["packages"][f"node_modules/{name}"] for name in wanted)
    assert all((FOLDER / "vendor" / f"LICENSE.{name}.txt").read_text() for name in wanted)
