"""The page: ``GET /`` for browsers, and its files under ``/page/``.

A browser that opens ``/`` says that it takes HTML, and gets the page; every other client gets the
JSON index. The page is static files of this package, read once at the start: no file is opened for
a request, so no name can lead out of the directory. They are open to everybody: they hold nothing
but the page's code, which asks for a key itself where the server wants one.

The policy forbids the browser to load anything from elsewhere, to send anything elsewhere, and to
run any script or style that is not one of these files. So what users and models write cannot become
code, even if the page's code were wrong about it.

*Cost*: some hundred kilobytes of memory; a request answers from memory, mostly with 304.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from radixserve_frontend.http_errors import HttpError, json_response

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # Text cannot be made markup or code at all, be it by a mistake in these files.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Asked for again each time, so that a new version is seen at once: an unchanged one costs 304.
    "Cache-Control": "no-cache",
}
_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_INDEX: Final = "index.html"
_PRELOADS: Final = b"<!-- preloads -->"


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it is sent."""

    data: bytes
    media_type: str
    etag: str


class PageFiles:
    """Serves the page, and the JSON index to those who did not ask for a page."""

    def __init__(self, index: Mapping[str, Any]) -> None:
        self._index = index
        found = dict(_walk(resources.files("radixserve_frontend") / "page", ""))
        found[_INDEX] = _with_preloads(found[_INDEX], sorted(found))
        self._files = {
            name: _File(data, _TYPES[name[name.rindex(".") :]], _etag(data))
            for name, data in found.items()
        }

    @property
    def paths(self) -> frozenset[str]:
        """Where the files are, but for the page itself."""
        return frozenset(f"/page/{name}" for name in self._files if name != _INDEX)

    async def root(self, request: Request) -> Response:
        """``GET /``: the page or the index, whichever is asked for."""
        if wants_page(request.scope):
            response = _answer(self._files[_INDEX], request)
        else:
            response = json_response(self._index)
        response.headers["Vary"] = "Accept"
        return response

    async def file(self, request: Request) -> Response:
        """``GET /page/{name}``. *Raises* ``HttpError`` 404."""
        name = request.path_params["name"]
        found = self._files.get(name)
        if found is None or name == _INDEX:
            raise HttpError(404, "the page has no such file; it is at GET /", code="not_found")
        return _answer(found, request)


def wants_page(scope: Scope) -> bool:
    """Whether this is a browser that opens ``/``: it names HTML among what it accepts."""
    if scope["path"] != "/" or scope["method"] not in ("GET", "HEAD"):
        return False
    return any(
        name == b"accept" and _accepts_html(value.decode("latin-1"))
        for name, value in scope["headers"]
    )


def _accepts_html(accept: str) -> bool:
    for part in accept.lower().split(","):
        media_type, *parameters = (each.strip() for each in part.split(";"))
        if media_type == "text/html":
            return not any(each.replace(" ", "") in ("q=0", "q=0.0") for each in parameters)
    return False


def _walk(directory: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in directory.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry.read_bytes()


def _with_preloads(index: bytes, names: Iterable[str]) -> bytes:
    """The page naming all its modules, so that the browser asks for them at once, and does not find
    out about one when it has read another."""
    links = "\n".join(
        f'<link rel="modulepreload" href="page/{name}">' for name in names if name.endswith(".js")
    )
    assert index.count(_PRELOADS) == 1, f"{_INDEX} must hold {_PRELOADS!r} once"
    return index.replace(_PRELOADS, links.encode())


def _etag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:20]}"'


def _answer(file: _File, request: Request) -> Response:
    headers = {**_HEADERS, "ETag": file.etag}
    known = request.headers.get("if-none-match", "")
    if file.etag in (each.strip().removeprefix("W/") for each in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(file.data, media_type=file.media_type, headers=headers)
