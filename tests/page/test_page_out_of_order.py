"""The page when people do things in another order than one thinks of: what is shown stays right."""

import json
from typing import Any

from tests.frontend.real_server import MODEL, Serving
from tests.page.page_user import PHONE, PageUser, answer_events, using

SAY_MORE_IN_B = """(async () => {
  const { say } = await import("/page/chat/answering.js");
  const { talk } = await import("/page/chat/workspace.js");
  const { id, leaf } = talk.value.conversations[1];
  await say(id, leaf, "More.");
})()"""
AT_END = "log => log.scrollHeight - log.scrollTop - log.clientHeight < 2"
IN_FOCUS = "document.activeElement.getAttribute('aria-label')"


def never_ending(user: PageUser) -> None:
    """From now on answers are long."""

    def lengthen(route: Any) -> None:
        body = json.loads(route.request.post_data) | {"ignore_eos": True, "max_tokens": 6000}
        route.continue_(post_data=json.dumps(body))

    user.page.route("**/v1/chat/completions", lengthen)


def answering_at_once(user: PageUser, text: str = "As you say.") -> None:
    body = answer_events(text)
    user.page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(content_type="text/event-stream", body=body),
    )


def begin(user: PageUser, text: str) -> Any:
    """Ask, and wait for the answer's beginning; returns it."""
    user.ask("A", text)
    answer = user.column("A").locator(".message-assistant").last
    answer.locator(".message-text").filter(has_text="t").wait_for()
    return answer


def test_an_answer_that_is_deleted_is_not_waited_for(user: PageUser, server: Serving) -> None:
    never_ending(user)
    begin(user, "Talk for a long time.")
    question = user.column("A").locator(".message-user")
    question.hover()
    question.get_by_label("Delete this").click()
    user.column("A").locator(".send[data-does=send]").wait_for()
    assert user.column("A").locator(".message").count() == 0
    assert server.wait_until_idle()["radixserve_num_requests_running"] == 0
    assert user.model("[...(await import('/page/explain/records.js')).records.value]") == []


def test_an_answer_can_be_stopped_from_another_version(user: PageUser, server: Serving) -> None:
    answering_at_once(user)
    user.ask("A", "Say something.")
    first = user.answer("A")
    user.page.unroute("**/v1/chat/completions")
    never_ending(user)
    first.hover()
    first.get_by_label("Answer again").click()
    versions = user.column("A").locator(".message-assistant .versions", has_text="2 / 2")
    versions.get_by_label("Version before").click()
    user.column("A").get_by_text("As you say.").wait_for()
    user.column("A").get_by_label("Stop").click()
    user.column("A").locator(".send[data-does=send]").wait_for()
    assert server.wait_until_idle()["radixserve_num_requests_running"] == 0


def test_escape_stops_from_anywhere_in_the_conversation(user: PageUser, server: Serving) -> None:
    never_ending(user)
    answer = begin(user, "Talk for a long time.")
    user.column("A").locator(".log").focus()
    user.page.keyboard.press("Escape")
    user.column("A").locator(".message-assistant[data-status=stopped]").wait_for()
    assert answer.locator(".note").inner_text().startswith("Stopped")
    assert server.wait_until_idle()["radixserve_num_requests_running"] == 0


def test_who_goes_back_to_a_version_goes_on_from_there(user: PageUser) -> None:
    user.choose("places")
    user.ask("A", "When does the Harbour Museum open?")
    user.answer("A")
    question = user.column("A").locator(".message-user")
    question.hover()
    question.get_by_label("Edit").click()
    question.locator("textarea").fill("When does the library close?")
    question.locator("textarea").press("Enter")
    user.column("A").get_by_text("When does the library close?").wait_for()
    user.answer("A")
    user.column("A").locator(".message-user").get_by_label("Version before").click()
    user.column("A").get_by_text("When does the Harbour Museum open?").wait_for()
    user.ask("A", "And when does it close?")
    user.column("A").get_by_text("And when does it close?").wait_for()
    user.answer("A")
    user.go("explain")
    explained = user.page.locator("#explanation")
    assert "And when does it close?" in explained.inner_text()
    assert "edited" not in explained.inner_text()
    # The second request did fork, and says so still.
    user.page.locator("#requests a").nth(1).click()
    explained.get_by_text("When does the library close?").first.wait_for()
    assert "Message 1 was edited" in explained.inner_text()


def test_the_focus_is_not_lost(user: PageUser) -> None:
    answering_at_once(user)
    user.ask("A", "Say something.")
    user.answer("A")
    question = user.column("A").locator(".message-user")
    question.get_by_label("Edit").press("Enter")
    question.locator("textarea").press("Escape")
    assert user.page.evaluate(IN_FOCUS).startswith("Edit")
    user.ask("A", "Say something else.")
    user.column("A").locator(".message-assistant").nth(1).wait_for()
    user.answer("A")
    user.go("explain")
    user.page.locator("#requests a").nth(1).press("Enter")
    user.page.locator("#requests a[href='#explain/1'][aria-current]").wait_for()
    assert user.page.evaluate("document.activeElement.hash") == "#explain/1"
    user.page.keyboard.press("Shift+Tab")
    assert user.page.evaluate("document.activeElement.hash") == "#explain/2"


def test_the_skip_link_skips_to_the_view_that_is_shown(user: PageUser) -> None:
    user.go("cache")
    user.page.locator("#skip").press("Enter")
    assert user.page.locator("#view-cache").is_visible()
    assert user.page.evaluate("document.activeElement.id") == "main"


def test_who_reads_a_nodes_text_is_not_disturbed(user: PageUser, server: Serving) -> None:
    words = "Read me while others ask about me, over and over." * 4

    def ask_elsewhere(question: str) -> None:
        messages = [{"role": "system", "content": words}, {"role": "user", "content": question}]
        body = {"model": MODEL, "messages": messages, "max_tokens": 20, "ignore_eos": True}
        with server.client() as client:
            client.post("/v1/chat/completions", json=body).raise_for_status()

    # From the second question on, what they share is a node of its own.
    ask_elsewhere("One.")
    user.choose()
    user.page.locator("#instructions").fill(words)
    user.ask("A", "Two.")
    user.answer("A").get_by_text("Show in the tree").click()
    user.page.locator("#tree-place:not([data-path='0'])[data-phase=whole]").wait_for()
    user.model(
        "(({ path, tree }) => app.cache.picture.select("
        "[...path].find(slot => tree.tokens[slot] > 100)))(app.cache.picture)"
    )
    user.page.locator("#node-panel .node-text", has_text="Read me").wait_for()
    user.page.evaluate("window.kept = document.querySelector('#node-panel .node-text')")
    fact = "document.querySelector('#node-panel dd:nth-of-type(3)').textContent"
    before = user.page.evaluate(fact)
    ask_elsewhere("Three.")
    user.page.wait_for_function(f"() => {fact} !== {json.dumps(before)}")
    assert user.page.evaluate("document.querySelector('.node-text') === window.kept")


def test_what_is_pointed_at_stays_while_the_tree_changes(user: PageUser, server: Serving) -> None:
    user.ask("A", "Something to point at.")
    user.answer("A")
    user.see_whole_tree()
    user.model("app.cache.picture.hover([...app.cache.picture.tree.childrenOf(0)][0])")
    node = user.page.locator("#node-panel").get_attribute("data-node")
    assert node
    size = user.model("app.cache.picture.tree.size")
    with server.client() as client:
        body = {"model": MODEL, "prompt": "Something quite different.", "max_tokens": 5}
        client.post("/v1/completions", json=body).raise_for_status()
    user.page.locator(f"#tree-place:not([data-nodes='{size}'])").wait_for()
    hovered = user.model("app.cache.picture.tree.id[app.cache.picture.hovered]")
    assert str(hovered) == node == user.page.locator("#node-panel").get_attribute("data-node")
    user.model("app.cache.picture.hover(-1)")
    assert user.page.locator("#node-panel").get_attribute("data-node") == ""


def test_the_charts_outlive_a_connection(user: PageUser) -> None:
    user.see_whole_tree()
    user.page.wait_for_function(
        "async () => (await import('/page/app.js')).cache.figures.samples.length >= 2"
    )
    before = user.model("app.cache.figures.samples[0].at")
    user.model("app.cache.feed.reopen()")
    user.page.locator("#tree-place[data-phase=whole]").wait_for()
    assert user.model("app.cache.figures.samples[0].at") == before
    assert user.page.locator("#figures").is_visible()
    # The browser's own line, if a text was being asked for by the stream that was closed.
    user.complaints = [each for each in user.complaints if "404" not in each]


def test_a_conversation_stays_where_it_was_read(user: PageUser) -> None:
    answering_at_once(user, "A long answer.\n" * 60)
    user.ask("A", "Tell me more.")
    user.answer("A")
    log = user.column("A").locator(".log")
    assert log.evaluate(AT_END)
    user.page.locator("#add-conversation").click()
    user.column("B").wait_for()
    assert log.evaluate(AT_END)
    # Who reads further up stays there, and who was at the end sees what came meanwhile.
    log.evaluate("log => { log.scrollTop = 100; }")
    user.page.wait_for_timeout(100)
    user.ask("B", "Something else.")
    user.answer("B")
    assert log.evaluate("log => log.scrollTop") == 100
    user.go("explain")
    user.model(SAY_MORE_IN_B)
    user.go("chat")
    other = user.column("B")
    other.locator(".message-assistant").nth(1).wait_for()
    assert other.locator(".log").evaluate(AT_END)
    assert log.evaluate("log => log.scrollTop") == 100


def test_on_a_phone_what_came_behind_is_seen_in_front(browser: Any, server: Serving) -> None:
    with using(browser, server.url, PHONE) as user:
        user.open()
        answering_at_once(user, "A long answer.\n" * 60)
        user.page.locator("#add-conversation").click()
        user.ask("B", "Tell me more.")
        user.answer("B")
        user.page.get_by_role("button", name="Conversation A", exact=True).click()
        user.column("A").locator(".composer").wait_for()
        user.model(SAY_MORE_IN_B)
        user.page.get_by_role("button", name="Conversation B", exact=True).click()
        user.column("B").locator(".message-assistant").nth(1).wait_for()
        assert user.column("B").locator(".log").evaluate(AT_END)


def test_who_opens_something_is_not_sent_past_it(user: PageUser) -> None:
    answering_at_once(user, "A long answer.\n" * 60)
    user.ask("A", "Tell me more.")
    user.answer("A")
    log = user.column("A").locator(".log")
    # As when the model has thought at length, and somebody wants to read it.
    log.evaluate(
        "log => { const details = document.createElement('details');"
        " details.append(document.createElement('summary'), 'Thinking. '.repeat(2000));"
        " log.lastElementChild.append(details); }"
    )
    user.page.wait_for_timeout(100)
    log.evaluate("log => { log.scrollTop = log.scrollHeight; }")
    user.page.wait_for_timeout(100)
    before = log.evaluate(
        "log => { log.querySelector('details').open = true; return log.scrollTop; }"
    )
    user.page.wait_for_timeout(100)
    user.page.locator("#add-conversation").click()
    user.ask("B", "Something else.")
    user.answer("B")
    assert abs(log.evaluate("log => log.scrollTop") - before) < 50
