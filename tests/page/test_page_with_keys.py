"""The page before a real server with API keys: asked for, not kept, and each tenant by itself."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.frontend.real_server import MODEL, Serving, running_server
from tests.page.page_user import PHONE, PageUser, using

ANN, BOB, WRONG = (f"{name}-secret-1234567890" for name in ("ann", "bob", "wrong"))

TREE_IN_FULL = """(() => {
  const { tree } = app.cache.picture;
  const own = (slot) => [...tree.childrenOf(slot)].flatMap((child) => [child, ...own(child)]);
  const nodes = own(0).map((slot) => ({ slot, id: tree.id[slot], owner: tree.owner[slot] }));
  return Promise.all(nodes.map(async ({ slot, ...node }) => {
    const { text } = await app.cache.feed.textOf(node.id);
    return { ...node, start: tree.start[slot], tokens: tree.tokens[slot], text };
  }));
})()"""


@pytest.fixture(scope="module")
def guarded(browser: Any) -> Iterator[Serving]:
    """A server of two tenants; asks for the browser first, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RADIXSERVE_API_KEYS", f"ann:{ANN},bob:{BOB}")
        with running_server() as serving:
            yield serving


def test_keys_are_asked_for_kept_in_the_session_and_forgotten(
    browser: Any, guarded: Serving
) -> None:
    with using(browser, guarded.url) as user:
        user.open()
        dialog = user.page.locator("#key-dialog")
        dialog.wait_for()
        enter_key(user, WRONG)
        user.page.locator("#key-remark", has_text="does not know that key").wait_for()
        assert dialog.is_visible()
        assert user.page.evaluate("sessionStorage.length") == 0
        enter_key(user, ANN)
        user.page.locator("#model-name").filter(has_text=MODEL).wait_for()
        assert not dialog.is_visible()
        user.ask("A", "Hello, I have a key.")
        assert user.sources(user.answer("A"))["computed"] > 0
        # The session knows the key; nothing that outlives it does, nor does the address.
        assert user.page.evaluate("Object.values({...sessionStorage})") == [ANN]
        assert user.page.evaluate("localStorage.length") == 0
        assert user.page.evaluate("document.cookie") == ""
        assert user.page.context.cookies() == []
        assert user.page.evaluate("indexedDB.databases().then(found => found.length)") == 0
        assert ANN not in user.page.url
        # The tab that is loaded again still has it, another one does not.
        user.page.reload()
        user.page.locator("#model-name").filter(has_text=MODEL).wait_for()
        other = PageUser(user.page.context.new_page(), guarded.url)
        other.open()
        other.page.locator("#key-dialog").wait_for()
        other.page.close()
        # Without the key nothing is left of what it showed, nor of what was said with it.
        user.ask("A", "Forget me, too.")
        user.answer("A")
        user.see_whole_tree()
        assert user.model("app.cache.picture.tree.size") >= 1
        with user.page.expect_navigation():
            user.page.locator("#key-button").click()
        dialog.wait_for()
        assert user.page.evaluate("sessionStorage.length") == 0
        assert user.model("app.cache.picture.tree.size") == 0
        assert user.page.locator(".message").count() == 0
        # The browser's own lines about refusals.
        user.complaints = [each for each in user.complaints if "401" not in each]


def test_a_key_that_cannot_be_sent_is_refused_at_once(browser: Any, guarded: Serving) -> None:
    with using(browser, guarded.url) as user:
        user.open()
        user.page.locator("#key-dialog").wait_for()
        for broken in (f"{ANN[:4]}…{ANN[-4:]}", f"{ANN}\u200b{ANN}"):
            enter_key(user, broken)
            user.page.locator("#key-remark", has_text="perhaps invisible ones").wait_for()
            assert user.page.evaluate("sessionStorage.length") == 0
        enter_key(user, ANN)
        user.page.locator("#model-name").filter(has_text=MODEL).wait_for()
        user.complaints = [each for each in user.complaints if "401" not in each]


def test_a_key_and_long_names_fit_on_a_phone(browser: Any, guarded: Serving) -> None:
    names = ["a-model-with-quite-a-long-name-8B-instruct", "another-one-that-is-as-long-70B"]
    with using(browser, guarded.url, PHONE) as user:
        user.page.route(
            "**/v1/models",
            lambda route: (
                route.fulfill(json={"data": [{"id": name} for name in names]})
                if "authorization" in route.request.headers
                else route.continue_()
            ),
        )
        user.open()
        user.page.locator("#key-dialog").wait_for()
        enter_key(user, ANN)
        user.page.locator("#model-choice").wait_for()
        user.page.locator("#key-button", has_text="Forget the key").wait_for()
        for view in ("chat", "cache", "explain"):
            user.go(view)
            overflow = user.page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert overflow <= 0
        assert user.page.locator("#key-button").evaluate("b => b.clientHeight") < 40
        size = "e => getComputedStyle(e).fontSize"
        assert user.page.locator("#instructions").evaluate(size) == "16px"
        # Without a key; and tokens are counted for models that the server does not have.
        user.complaints = [
            each for each in user.complaints if "401" not in each and "404" not in each
        ]


def test_a_tenant_sees_its_own_namespace_and_nothing_of_others(
    browser: Any, guarded: Serving
) -> None:
    """The same before another tenant has filled the cache and after, but for what is its own."""
    shared = "Both tenants begin their prompts with these very words, and then they part:"
    pictures = []
    with using(browser, guarded.url) as user:
        user.open()
        user.page.locator("#key-dialog").wait_for()
        enter_key(user, ANN)
        user.choose()
        user.page.locator("#instructions").fill(shared)
        user.ask("A", "the words of ann")
        user.answer("A")
        for number in range(2):
            user.page.reload()
            user.see_whole_tree()
            pictures.append(user.model(TREE_IN_FULL))
            assert not user.page.locator("#figures").is_visible()
            if number == 0:
                for word in range(5):
                    tell_as(guarded, BOB, shared, f"{word}: the words of bob")
        # Of what bob has asked, too, only what ann had computed is found.
        user.go("chat")
        user.choose()
        user.page.locator("#instructions").fill(shared)
        user.ask("A", "0: the words of bob")
        again = user.sources(user.answer("A"))["device"]
        agreement = num_common(guarded, shared, "the words of ann", "0: the words of bob")
        user.complaints = [each for each in user.complaints if "401" not in each]
    before, after = pictures
    assert before == after
    assert sorted(node["id"] for node in before) == [*range(1, len(before) + 1)]
    assert all(node["owner"] == 1 for node in before)
    texts = "".join(node["text"] for node in before)
    assert "the words of ann" in texts
    assert "bob" not in texts
    assert again <= agreement


def num_common(serving: Serving, instructions: str, *words: str) -> int:
    """How many tokens two prompts have in common."""
    with serving.client() as client:
        one, other = (
            client.post(
                "/tokenize",
                json={"messages": messages_of(instructions, each)},
                headers={"Authorization": f"Bearer {ANN}"},
            ).json()["tokens"]
            for each in words
        )
    return next(at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)


def messages_of(instructions: str, words: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": instructions},
        {"role": "user", "content": words},
    ]


def tell_as(serving: Serving, key: str, instructions: str, words: str) -> None:
    """As a client of the API does."""
    messages = messages_of(instructions, words)
    with serving.client() as client:
        answer = client.post(
            "/v1/chat/completions",
            json={"model": MODEL, "messages": messages, "max_tokens": 8},
            headers={"Authorization": f"Bearer {key}"},
        )
    assert answer.status_code == 200


def enter_key(user: PageUser, key: str) -> None:
    user.page.locator("#key-field").fill(key)
    user.page.locator("#key-field").press("Enter")
