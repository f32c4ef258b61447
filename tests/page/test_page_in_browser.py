"""The page in a real browser against the real server: what is drawn, said, kept and refused."""

import json
import time
from typing import Any

import pytest

from tests.frontend.real_server import MODEL, Serving
from tests.page.page_user import DESKTOP, PHONE, PageUser, answer_events, using

SWAP_A_VERSION = """(async () => {
  const { talk } = await import("/page/chat/workspace.js");
  const turns = await import("/page/chat/turns.js");
  const answers = [...talk.value.turns.values()].filter(({ role }) => role === "assistant");
  const { conversation, parent } = answers[2];
  const kept = answers[2].id;
  let state = turns.removeTurn(talk.value, answers[1].id);
  const figures = { ttft: null, rate: null, promptTokens: null, answerTokens: null };
  const other = { role: "assistant", text: "Another.", status: "done", ...figures };
  [state] = turns.addTurn(state, conversation, parent, other);
  // Numbers grow: the new version would be the last, were the one that is shown not put behind it.
  const last = state.turns.get(kept);
  state.turns.delete(kept);
  state.turns.set(kept, last);
  talk.set(turns.showVersion(state, kept));
})()"""

HOSTILE = '<img src=x onerror="window.hit=1"><script>window.hit=1</script><b>bold</b>\'"&amp;'


def test_a_second_conversation_finds_the_document_cached(user: PageUser) -> None:
    counted = user.page.locator("#context-tokens", has_text="token")
    counted.wait_for()
    before = counted.inner_text()
    user.choose("prices")
    counted.filter(has_not_text=before).wait_for()
    shared = int(counted.inner_text().split()[0].replace(",", ""))
    user.ask("A", "How much is the Quivo lamp?")
    first = user.sources(user.answer("A"))
    assert first["computed"] > shared - 16

    user.page.locator("#add-conversation").click()
    user.ask("B", "And what about the Velora kettle?")
    answer = user.answer("B")
    second = user.sources(answer)
    assert second["device"] >= shared
    assert second["computed"] < first["computed"] / 2
    words = answer.locator(".source-numbers").inner_text()
    assert f"{second['device']:,} cached" in words
    assert f"{second['computed']:,} computed" in words
    widths = answer.locator(".source-bar rect").evaluate_all(
        "rects => rects.map(rect => rect.getBoundingClientRect().width)"
    )
    total = second["device"] + second["computed"]
    assert widths[0] / sum(widths) == pytest.approx(second["device"] / total, abs=0.02)
    assert "TTFT" in answer.locator(".figures").inner_text()

    # Both conversations lie behind one node of the tree.
    answer.get_by_text("Show in the tree").click()
    user.page.locator("#tree-place:not([data-path='0'])[data-phase=whole]").wait_for()
    path = user.model("[...app.cache.picture.path].map(s => app.cache.picture.tree.tokens[s])")
    assert len(path) >= 2
    children = user.model(
        "(({ tree, path }) => [...tree.childrenOf([...path][path.size - 2])].length)"
        "(app.cache.picture)"
    )
    assert children >= 2

    user.page.go_back()
    answer.get_by_text("Why?").click()
    explained = user.page.locator("#explanation")
    assert "And what about the Velora kettle?" in explained.inner_text()
    assert f"{second['device']:,} cached" in explained.inner_text()
    assert explained.locator("[data-cause=diverged]").count() == 1


def test_an_edit_forks_and_both_versions_stay(user: PageUser) -> None:
    user.choose("places")
    user.ask("A", "When does the Harbour Museum open?")
    before = user.answer("A").locator(".message-text").inner_text()
    assert user.page.locator("#shared").get_attribute("data-rows") == "1"
    question = user.column("A").locator(".message-user")
    question.hover()
    question.get_by_label("Edit").click()
    editor = question.locator("textarea")
    editor.fill("When does the library close?")
    editor.press("Enter")
    user.column("A").get_by_text("When does the library close?").wait_for()
    sources = user.sources(user.answer("A"))
    assert sources["device"] > sources["computed"]
    question = user.column("A").locator(".message-user")
    assert "2 / 2" in question.locator(".versions").inner_text()
    user.page.locator("#shared[data-rows='2']").wait_for()
    question.get_by_label("Version before").click()
    user.column("A").get_by_text("When does the Harbour Museum open?").wait_for()
    assert user.answer("A").locator(".message-text").inner_text() == before

    user.go("explain")
    assert "Message 1 was edited" in user.page.locator("#explanation").inner_text()


def test_stopping_ends_the_request_and_keeps_what_came(user: PageUser, server: Serving) -> None:
    sent: list[dict[str, Any]] = []

    def never_end(route: Any) -> None:
        body = json.loads(route.request.post_data) | {"ignore_eos": True, "max_tokens": 6000}
        sent.append(body)
        route.continue_(post_data=json.dumps(body))

    user.page.route("**/v1/chat/completions", never_end)
    user.ask("A", "Talk for a long time.")
    text = user.column("A").locator(".message-assistant .message-text")
    text.filter(has_text="t").wait_for()
    user.column("A").get_by_label("Stop").click()
    answer = user.answer("A")
    assert answer.get_attribute("data-status") == "stopped"
    assert len(text.inner_text()) > 0
    # What the stream would have told at its end is not made up: the prompt is counted, no more.
    answer.locator(".source-bar").wait_for()
    with server.client() as client:
        messages = sent[0]["messages"]
        prompt = client.post("/tokenize", json={"messages": messages}).json()["count"]
    assert user.sources(answer) == {"untold": prompt}
    assert "how many were cached is not known" in answer.locator(".source-numbers").inner_text()
    assert "received" in answer.locator(".figures").inner_text()
    assert answer.get_by_text("Why?").count() == 0
    assert server.wait_until_idle()["radixserve_num_requests_running"] == 0


def test_an_error_is_shown_where_it_happened_and_can_be_tried_again(user: PageUser) -> None:
    refusal = json.dumps({"error": {"message": "too much is waiting", "code": "overloaded"}})
    user.page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=429, content_type="application/json", body=refusal),
        times=1,
    )
    user.ask("A", "Hello?")
    user.column("A").get_by_text("too much is waiting").wait_for()
    user.column("A").get_by_text("Try again").click()
    assert user.answer("A").get_attribute("data-status") in ("done", "cut")
    assert user.column("A").locator(".message").count() == 2
    # The browser's own line about the refusal is no fault of the page.
    user.complaints = [each for each in user.complaints if "429" not in each]


def test_what_people_and_models_write_is_text(user: PageUser) -> None:
    user.page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(content_type="text/event-stream", body=answer_events(HOSTILE)),
    )
    user.page.route(
        "**/v1/models",
        lambda route: route.fulfill(json={"data": [{"id": HOSTILE}, {"id": "other"}]}),
    )
    user.page.reload()
    user.page.locator("#model-choice").wait_for()
    user.choose("own")
    user.page.locator("#own-text").fill(HOSTILE)
    user.page.locator("#instructions").fill(HOSTILE)
    user.ask("A", HOSTILE)
    answer = user.answer("A")
    assert answer.locator(".message-text").inner_text() == HOSTILE
    assert user.column("A").locator(".message-user .message-text").inner_text() == HOSTILE
    assert user.page.locator("#model option").first.inner_text() == HOSTILE
    user.go("explain")
    assert user.page.locator("#explanation h2").inner_text() == HOSTILE
    assert user.page.locator("img, main script, main b").count() == 0
    assert user.page.evaluate("window.hit") is None
    # The tokens are counted for a model that the server does not have.
    user.complaints = [each for each in user.complaints if "404" not in each]


def test_text_of_the_tree_is_text_and_keys_walk_it(user: PageUser) -> None:
    user.choose("own")
    user.page.locator("#own-text").fill(HOSTILE * 2)
    user.ask("A", HOSTILE)
    user.answer("A")
    user.see_whole_tree()
    assert user.model("app.cache.picture.painter.drawn.boxes") >= 1
    nodes = int(user.page.locator("#tree-place").get_attribute("data-nodes"))
    assert user.model("app.cache.picture.tree.size") == nodes >= 1
    assert user.page.locator("#figures figure").count() == 6

    user.page.locator("#tree").focus()
    found = False
    user.page.keyboard.press("ArrowRight")
    for _ in range(nodes):
        user.page.locator("#node-panel .node-text").wait_for()
        found = found or HOSTILE in user.page.locator("#node-panel").inner_text()
        before = user.page.locator("#node-panel").get_attribute("data-node")
        user.page.keyboard.press("ArrowDown")
        if user.page.locator("#node-panel").get_attribute("data-node") == before:
            user.page.keyboard.press("ArrowRight")
    assert found
    assert user.page.locator("#node-panel img, #node-panel b").count() == 0
    selected = user.model("app.cache.picture.selected")
    user.page.keyboard.press("Enter")
    user.page.keyboard.press("Escape")
    assert selected > 0
    assert user.model("app.cache.picture.selected") == -1

    user.page.locator("#largest summary").click()
    user.page.locator("#largest-table tbody tr").first.wait_for()
    assert user.page.locator("#largest-table tbody tr").count() == min(nodes, 20)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_views_fit_in_light_and_dark(
    browser: Any, server: Serving, scheme: str, size: tuple[int, int]
) -> None:
    with using(browser, server.url, size, scheme) as user:
        user.open()
        user.ask("A", "Does this fit?")
        assert user.sources(user.answer("A"))["computed"] >= 1
        for view in ("chat", "cache", "explain"):
            user.go(view)
            if view == "cache":
                user.see_whole_tree()
                assert user.model("app.cache.picture.painter.drawn.boxes") >= 1
            overflow = user.page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert overflow <= 0
        red = "+getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"
        is_dark = user.page.evaluate(red) < 128
        assert is_dark == (scheme == "dark")
        user.page.locator("#theme-button").click()
        user.page.locator("#theme-name").filter(has_text="Light").wait_for()
        assert user.page.evaluate(red) > 128
        if size == PHONE:
            user.go("chat")
            assert not user.page.locator("#instructions").is_visible()
            user.page.locator("#context-toggle").click()
            assert user.page.locator("#instructions").is_visible()


def test_the_keyboard_goes_everywhere(user: PageUser) -> None:
    user.page.locator("body").press("2")
    user.page.locator("#view-cache").wait_for()
    user.page.keyboard.press("3")
    user.page.locator("#view-explain").wait_for()
    user.page.keyboard.press("?")
    user.page.locator("#help").wait_for()
    user.page.keyboard.press("Escape")
    user.page.keyboard.press("/")
    focused = user.page.locator(".column[data-letter=A] .composer textarea:focus")
    focused.wait_for()
    # Keys are letters while somebody writes.
    user.page.keyboard.type("2?n")
    assert focused.input_value() == "2?n"
    assert user.page.locator(".column").count() == 1


def test_a_prompt_is_explained_before_it_is_sent(user: PageUser) -> None:
    user.go("explain")
    user.page.locator("#ask-text").fill("Nobody has ever asked this: 8421.")
    user.page.locator("#ask [value=prompt]").check()
    user.page.locator("#ask [type=submit]").click()
    cause = user.page.locator("#ask-answer .cause")
    cause.first.wait_for()
    assert cause.first.get_attribute("data-cause") == "never_seen"


def test_the_latest_question_is_the_one_that_is_explained(user: PageUser) -> None:
    held: list[Any] = []

    def answer(route: Any) -> None:
        if "the first" in route.request.post_data:
            held.append(route)
        else:
            route.continue_()

    user.page.route("**/cache/explain", answer)
    user.go("explain")
    for text in ("the first", "another one"):
        user.page.locator("#ask-text").fill(text)
        with user.page.expect_request("**/cache/explain"):
            user.page.locator("#ask [type=submit]").click()
    place = user.page.locator("#ask-answer")
    place.locator(".cause").wait_for()
    held[0].fulfill(status=503, json={"error": {"message": "too late"}})
    user.page.wait_for_timeout(300)
    assert "too late" not in place.inner_text()
    user.complaints = [each for each in user.complaints if "503" not in each]


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        ({"status": 503, "json": {"error": {"message": "not just now"}}}, "not just now"),
        ({"status": 200, "content_type": "text/html", "body": "<p>A proxy."}, "JSON"),
    ],
)
def test_the_models_are_asked_for_again(user: PageUser, failure: dict[str, Any], says: str) -> None:
    """After three seconds, whatever the failure was, and not over and over."""
    asked_s: list[float] = []

    def note(request: Any) -> None:
        if "v1/models" in request.url:
            asked_s.append(time.monotonic())

    user.page.on("request", note)
    user.page.route("**/v1/models", lambda route: route.fulfill(**failure), times=1)
    user.page.reload()
    user.page.locator("#notice", has_text=says).wait_for()
    user.page.locator("#model-name", has_text=MODEL).wait_for()
    assert not user.page.locator("#notice").is_visible()
    first_s, second_s = asked_s
    assert second_s - first_s > 2.5
    user.complaints = [each for each in user.complaints if "503" not in each]


def test_versions_are_those_that_are_left(user: PageUser) -> None:
    """One of three removed and another made within one frame: the arrow led to the removed one."""
    user.page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(content_type="text/event-stream", body=answer_events("Yes.")),
    )
    user.ask("A", "Say something.")
    for count in (2, 3):
        user.answer("A").get_by_label("Answer again").click()
        user.column("A").locator(".versions", has_text=f"{count} / {count}").wait_for()
    user.model(SWAP_A_VERSION)
    shown = user.column("A").locator(".message-assistant .versions", has_text="3 / 3")
    shown.wait_for()
    shown.get_by_label("Version before").click()
    user.column("A").locator(".versions", has_text="2 / 3").wait_for()


def test_the_focus_stays_where_keys_change_what_is_shown(browser: Any, server: Serving) -> None:
    events = answer_events("As you say.")
    with using(browser, server.url, PHONE) as user:
        user.page.route(
            "**/v1/chat/completions",
            lambda route: route.fulfill(content_type="text/event-stream", body=events),
        )
        user.open()
        user.ask("A", "Say something.")
        user.answer("A").get_by_label("Answer again").press("Enter")
        versions = user.column("A").locator(".versions", has_text="2 / 2")
        versions.wait_for()
        in_column = "document.activeElement.closest('.column')?.dataset.letter"
        assert user.page.evaluate(in_column) == "A"
        user.answer("A").get_by_label("Version before").press("Enter")
        user.column("A").locator(".versions", has_text="1 / 2").wait_for()
        assert user.page.evaluate(in_column) == "A"

        user.page.locator("#add-conversation").click()
        user.column("B").wait_for()
        user.page.get_by_role("button", name="Conversation A", exact=True).press("Enter")
        user.column("A").wait_for()
        assert user.page.evaluate("document.activeElement.textContent") == "A"
