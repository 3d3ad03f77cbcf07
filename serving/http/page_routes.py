"""The page's files, read once when the server starts, under `/` and `/page/BUILD/…`.

BUILD is a hash of all files, so that browsers can cache files indefinitely and still load a new
release. The Content-Security-Policy forbids files from other hosts and inline scripts and styles.
"""

import gzip
import hashlib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # Only DOMPurify turns text into HTML.
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)
_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Accept-Encoding",
}
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_INDEX: Final = "index.html"
_CACHE_IMMUTABLE: Final = "public, max-age=31536000, immutable"
_CACHE_REVALIDATE: Final = "no-cache"


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file as it is sent.

    Attributes:
        content: The bytes of the file.
        compressed: The same, gzipped.
        media_type: Value of the Content-Type header.
        etag: Value of the ETag header.

    """

    content: bytes
    compressed: bytes
    media_type: str
    etag: str


class Page:
    """The files of the page."""

    def __init__(self, folder: Traversable) -> None:
        """Read all files in `folder`, recursively."""
        contents = dict(_walk(folder))
        digest = hashlib.sha256()
        for name in sorted(contents):
            digest.update(f"{name}\0{len(contents[name])}\0".encode() + contents[name])
        self.build = digest.hexdigest()[:16]
        contents[_INDEX] = contents[_INDEX].replace(b"/BUILD/", f"/{self.build}/".encode())
        self.files = {name: _page_file(name, content) for name, content in contents.items()}

    def respond(self, name: str, build: str | None, request: Request) -> Response:
        """Return a file of the page.

        Args:
            name: Path of the file in the folder.
            build: Build in the request's path; None if there is none. With another build (the
                page was loaded from an older replica) this build's file is sent, uncached.
            request: The request, with the encodings that the browser accepts and its ETag.

        """
        file = self.files.get(name)
        if file is None:
            return Response("There is no such file.", 404, _HEADERS, "text/plain; charset=utf-8")
        headers = _HEADERS | {
            "ETag": file.etag,
            "Cache-Control": _CACHE_IMMUTABLE if build == self.build else _CACHE_REVALIDATE,
        }
        if file.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        content = file.content
        if "gzip" in request.headers.get("accept-encoding", ""):
            content = file.compressed
            headers["Content-Encoding"] = "gzip"
        return Response(content, headers=headers, media_type=file.media_type)


def _walk(folder: Traversable, prefix: str = "") -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for entry in folder.iterdir():
        name = prefix + entry.name
        if entry.is_dir():
            found += _walk(entry, f"{name}/")
        elif entry.name[entry.name.rfind(".") :] in _TYPES:
            found.append((name, entry.read_bytes()))
    return found


def _page_file(name: str, content: bytes) -> PageFile:
    return PageFile(
        content=content,
        compressed=gzip.compress(content, 9, mtime=0),
        media_type=_TYPES[name[name.rfind(".") :]],
        etag=f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    )


def page_router() -> APIRouter:
    """Return the routes `/` and `/page/BUILD/FILE`."""
    page = Page(resources.files("serving") / "page")
    router = APIRouter()

    async def index(request: Request) -> Response:
        return page.respond(_INDEX, None, request)

    async def file(request: Request) -> Response:
        return page.respond(request.path_params["name"], request.path_params["build"], request)

    router.add_route("/", index, methods=["GET"], include_in_schema=False)
    router.add_route("/page/{build}/{name:path}", file, methods=["GET"], include_in_schema=False)
    return router
