"""What is served at ``/``: a page for browsers, an index for the rest, and a policy that holds."""

import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from radixserve_frontend.app import create_app
from radixserve_frontend.key_store import open_key_store
from radixserve_frontend.page_files import POLICY, PageFiles
from tests.frontend.fake_engine import FakeEngine
from tests.frontend.http_calls import error_of
from tests.frontend.http_fixtures import calling, config_of

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
PAGE = Path(str(resources.files("radixserve_frontend") / "page"))
FILES = sorted(path for path in PAGE.rglob("*") if path.is_file())


@pytest.mark.parametrize("accept", ["application/json", "*/*", "text/html;q=0, */*", ""])
async def test_programs_get_the_index(accept: str) -> None:
    async with calling(create_app(FakeEngine(), config_of())) as client:
        response = await client.get("/", headers={"Accept": accept})
    assert response.json()["name"] == "radixserve"
    assert response.headers["vary"] == "Accept"


async def test_browsers_get_the_page_and_everything_that_it_names() -> None:
    async with calling(create_app(FakeEngine(), config_of())) as client:
        page = await client.get("/", headers=BROWSER)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["vary"] == "Accept"
        named = set(re.findall(r'(?:src|href)="(page/[^"]+)"', page.text))
        assert {f"page/{path.relative_to(PAGE)}" for path in FILES} == named | {"page/index.html"}
        for name in named:
            response = await client.get(f"/{name}")
            assert response.status_code == 200
            assert response.headers["content-security-policy"] == POLICY
            assert response.headers["x-content-type-options"] == "nosniff"


async def test_what_is_known_is_not_sent_again() -> None:
    async with calling(create_app(FakeEngine(), config_of())) as client:
        first = await client.get("/page/app.js")
        assert first.headers["content-type"] == "text/javascript; charset=utf-8"
        assert first.headers["cache-control"] == "no-cache"
        known = {"If-None-Match": f'"other", W/{first.headers["etag"]}'}
        again = await client.get("/page/app.js", headers=known)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["content-security-policy"] == POLICY
        changed = await client.get("/page/app.js", headers={"If-None-Match": '"other"'})
        assert changed.content == first.content


@pytest.mark.parametrize(
    "name", ["index.html", "no.js", "../page_files.py", "%2e%2e/auth.py", "base", "base/"]
)
async def test_there_is_nothing_else(name: str) -> None:
    async with calling(create_app(FakeEngine(), config_of())) as client:
        error_of(await client.get(f"/page/{name}"), 404)


async def test_the_page_is_open_and_what_it_shows_is_not() -> None:
    config = config_of(api_keys="ann:ann-secret-1234567890")
    app = create_app(FakeEngine(), config, keys=open_key_store(config))
    async with calling(app) as client:
        assert (await client.get("/", headers=BROWSER)).status_code == 200
        assert (await client.get("/page/app.js")).status_code == 200
        assert (await client.get("/")).status_code == 401
        assert (await client.post("/", headers=BROWSER)).status_code == 401
        assert (await client.get("/v1/models", headers=BROWSER)).status_code == 401
        assert (await client.get("/page/no.js")).status_code == 401


def test_the_policy_allows_no_inline_code_and_the_files_have_none() -> None:
    assert "unsafe" not in POLICY
    page = (PAGE / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    assert re.findall(r"<script(?![^>]*\ssrc=)", page) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_load_nothing_from_elsewhere_and_make_no_markup_of_data(path: Path) -> None:
    text = path.read_text()
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", text))
    names = {"http://www.w3.org/2000/svg"}
    sources = {each for each in addresses if f"Source: {each}" in text}
    assert addresses <= names | sources
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert forbidden not in text
    assert len(text.splitlines()) <= 300


def test_every_file_is_of_a_type_that_is_known_and_packaged() -> None:
    assert len(PageFiles({}).paths) == len(FILES) - 1
    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["radixserve_frontend"]
    packaged = {found for each in patterns for found in PAGE.parent.glob(each) if found.is_file()}
    assert set(FILES) <= packaged
