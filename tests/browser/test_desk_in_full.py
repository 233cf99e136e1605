"""Everything else of the desk: `make browser`."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.deploy.demo import DEMO_SETS
from neurodial.service.access.auth import Keys, Principal
from tests.browser.serving import Fault, demo_services, serving
from tests.browser.test_desk import serious
from tests.service.engine.fake import FakeRunner
from tests.service.http.applications import Server, application

pytestmark = [pytest.mark.demo, pytest.mark.browser]

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


CUT_OFF = """() => [...document.querySelectorAll('main *, header *')]
    .filter(e => e.children.length === 0 && e.textContent.trim() && getComputedStyle(e).display !== 'inline')
    .filter(e => !e.closest('.unseen, svg, select, textarea, .scroll') && e.scrollWidth > e.clientWidth + 1)
    .map(e => e.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Fault]]:
    """A server that tests make slow or break."""
    fault = Fault()
    with demo_services(tmp_path_factory.mktemp("sets")) as services, serving(services, fault) as address:
        yield address, fault


@pytest.fixture
def fault(faulty: tuple[str, Fault]) -> Iterator[tuple[str, Fault]]:
    yield faulty
    faulty[1].delay_s, faulty[1].status = 0.0, None


def test_the_keyboard_is_enough(page: Page, desk: str) -> None:
    """From the top of the page to another label, another order and another result, without a pointer."""
    page.goto(desk)
    expect(page.locator("ins")).to_have_text("estaba")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the panel")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type") == "radio":
            break
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("radio", name="present")).to_be_checked()
    expect(page.locator(".applied")).to_contain_text("did not fire")
    expect(page.get_by_role("radio", name="present")).to_be_focused()
    page.get_by_label("Neuron set").focus()
    page.keyboard.type("number")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("nd-dial")).to_have_count(2)
    page.get_by_role("button", name=re.compile("^Move number → plural")).focus()
    page.keyboard.press("ArrowUp")
    expect(page.locator("nd-dial h3")).to_have_text(["number", "tense"])
    expect(page.get_by_role("button", name=re.compile("^Move number → plural"))).to_be_focused()


def test_dials_are_dragged(page: Page, desk: str) -> None:
    controls = [
        {"set": "tense", "to": "past"},
        {"set": "number", "to": "plural"},
        {"set": "negation", "to": "negative"},
    ]
    page.goto(f"{desk}#play?text=A+boy+is+here.&controls={json.dumps(controls)}")
    grips, dials = page.locator(".grip"), page.locator("nd-dial")
    start, end = grips.nth(0).bounding_box(), dials.nth(2).bounding_box()
    assert start is not None and end is not None
    page.mouse.move(start["x"] + 5, start["y"] + 5)
    page.mouse.down()
    page.mouse.move(start["x"] + 5, end["y"] + end["height"] - 4, steps=12)
    page.mouse.up()
    expect(page.locator("nd-dial h3")).to_have_text(["number", "negation", "tense"])
    assert re.search(r"number.*negation.*tense", page.url)


def test_neurons_by_address_with_completion(page: Page, desk: str) -> None:
    page.goto(f"{desk}#play?model=en-lm&text=The+capital+of+France+is")
    page.get_by_role("button", name="Add neurons").click()
    address = page.locator("nd-dial input.address")
    address.fill("decoder.2")
    assert "decoder.2.ffn[0]" in page.locator("nd-dial datalist option").evaluate_all("all => all.map(o => o.value)")
    address.fill("decoder.2.ffn[0-700]")
    address.blur()
    expect(page.locator(".applied")).to_contain_text("Multiplied 701 neurons of decoder.2.ffn")
    address.fill("decoder.2.ffn[99999]")
    address.blur()
    expect(page.get_by_role("alert")).to_contain_text("controls[0].neurons")
    expect(page.locator("nd-dial.wrong")).to_have_count(1)


def test_a_sweep_shows_five_strengths(page: Page, desk: str) -> None:
    page.goto(desk)
    expect(page.locator("ins")).to_have_text("estaba")
    page.locator("nd-dial summary").click()
    page.get_by_role("button", name="Sweep five strengths").click()
    rows = page.locator(".sweep tbody tr")
    expect(rows).to_have_count(5)
    expect(rows.nth(0)).to_contain_text("está")
    expect(rows.nth(2).locator("ins")).to_have_text("estaba")
    assert serious(page) == []


def test_code_to_copy(page: Page, desk: str) -> None:
    """The Python that is shown runs, and gives what the page shows."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(desk)
    page.get_by_text("The same as code").click()
    page.get_by_role("button", name="Python").click()
    page.get_by_role("button", name="Copy", exact=True).click()
    copied = page.evaluate("navigator.clipboard.readText()")
    said: list[str] = []
    exec(copied, {"print": said.append})
    assert said == ["Un chico alto estaba parado en la puerta."]
    silenced = [{"neurons": "decoder.0.ffn[1]", "op": "prune"}]
    page.goto("about:blank")
    page.goto(f"{desk}#play?model=en-lm&text=It's&controls={json.dumps(silenced)}")
    page.get_by_text("The same as code").click()
    page.get_by_role("button", name="vllm_xargs").click()
    body = json.loads(page.locator("pre code").inner_text())
    assert json.loads(body["vllm_xargs"]["controls"]) == silenced


def test_looking_at_neurons(page: Page, desk: str) -> None:
    page.goto(f"{desk}#look?text=A+boy+is+here.")
    page.locator(".heat").first.wait_for()
    page.get_by_label("Look at", exact=True).select_option("set:tense")
    expect(page.locator(".heat-row").nth(0)).to_contain_text("read-out at encoder.2.resid")
    page.locator("button.token", has_text="is").first.click()
    expect(page.locator(".top")).to_contain_text("Top neurons at “is”")
    page.locator(".top button.link").first.click()
    neuron = page.locator("article.neuron")
    expect(neuron).to_contain_text("One of 256 neurons of encoder.2.resid")
    neuron.get_by_role("button", name="Show").click()
    expect(neuron.locator(".panes figure")).to_have_count(2)
    assert serious(page) == []
    neuron.get_by_role("button", name="Add as a dial in Play").click()
    expect(page.locator("nd-play nd-dial input.address")).to_have_value(re.compile(r"encoder\.2\.resid\[\d+\]"))


def test_every_layer_at_once(page: Page, desk: str) -> None:
    look = json.dumps({"what": "encoder.0.resid[3]"})
    page.goto(f"{desk}#look?text=A+boy+is+here.&look={look}")
    page.get_by_role("button", name="Layer by layer").click()
    expect(page.locator(".heat-row")).to_have_count(3)


def test_a_set_is_tried_published_and_rolled_back(page: Page, fault: tuple[str, Fault], tmp_path: Path) -> None:
    """By whoever uses the machine that the server runs on, who is its administrator."""
    found = NeuronSet.load(DEMO_SETS["tense"])
    file = tmp_path / "tense.safetensors"
    NeuronSet(**{**vars_of(found), "provenance": {"seed": 7}}).save(file)
    page.goto(f"{fault[0]}#sets")
    page.get_by_label("Neuron-set file").set_input_files(file)
    page.get_by_role("button", name="Try it out").click()
    expect(page.locator("nd-dial h3")).to_have_text("tense.trial")
    expect(page.locator(".pane").nth(1)).to_be_visible()
    page.get_by_role("link", name="Sets").click()
    expect(page.locator(".set h2", has_text="tense.trial")).to_be_visible()
    page.get_by_label("Neuron-set file").set_input_files(file)
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(page.locator(".set h2", has_text="tense.trial")).to_have_count(0)
    card = page.locator(".set", has=page.get_by_role("heading", name="tense", exact=True))
    expect(card).to_contain_text("1 earlier")
    before = card.locator(".digest").inner_text()
    card.get_by_role("button", name="Roll back").click()
    expect(card.locator(".digest")).not_to_have_text(before)
    expect(page.get_by_role("region", name="Changes")).to_contain_text("rolled back")
    assert serious(page) == []


def vars_of(found: NeuronSet) -> dict:
    """The fields of a set."""
    return {name: getattr(found, name) for name in NeuronSet.__dataclass_fields__}


def test_a_key_is_asked_for_and_forgotten(page: Page, tmp_path: Path) -> None:
    """Kept in memory alone: a page that is loaded anew asks again."""
    keys = Keys([(hashlib.sha256(b"a-key-of-sixteen!").digest(), Principal("reader"))])
    with demo_services(tmp_path, keys=keys) as services, serving(services) as address:
        page.goto(address)
        page.get_by_label("Your key").fill("a-key-of-sixteen!")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("ins")).to_have_text("estaba")
        page.get_by_role("link", name="Sets").click()
        expect(page.locator("nd-sets")).to_contain_text("enter an administrator’s key")
        kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])")
        assert "a-key-of-sixteen!" not in kept
        page.reload()
        expect(page.get_by_label("Your key")).to_be_visible()
        assert serious(page) == []
        page.goto(f"{address}docs")
        page.get_by_label("This server needs a key").fill("a-key-of-sixteen!")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#reference")).to_contain_text("/v1/completions")


def test_a_slow_server(page: Page, fault: tuple[str, Fault]) -> None:
    address, slow = fault
    page.goto(address)
    expect(page.locator("ins")).to_have_text("estaba")
    slow.delay_s = 6.0
    page.get_by_role("button", name="Translate").click()
    expect(page.locator(".watch")).to_contain_text("Still waiting for the server")
    assert serious(page) == []
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".watch")).to_be_hidden()


def test_a_failing_server(page: Page, fault: tuple[str, Fault]) -> None:
    """A proxy's page in place of an answer, and then a server that is well again."""
    address, failing = fault
    failing.status = 502
    page.goto(address)
    expect(page.get_by_role("alert")).to_contain_text("HTTP 502")
    assert serious(page) == []
    failing.status = None
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("ins")).to_have_text("estaba")
    page.context.set_offline(True)
    page.get_by_role("button", name="Translate").click()
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("ins")).to_have_text("estaba")


def test_hostile_names_and_texts_are_text(page: Page) -> None:
    """A model, a set, an output and a link that would all like to be HTML."""
    runner = FakeRunner(HOSTILE, sets=(HOSTILE,), family="decoder-only")
    with application({HOSTILE: runner}) as app, Server(app) as address:
        controls = json.dumps([{"set": HOSTILE, "to": "past"}, {"neurons": HOSTILE, "op": HOSTILE}])
        for panel in ("play", "look", "sets", "operate"):
            page.goto("about:blank")
            page.goto(f"{address}/#{panel}?text={HOSTILE}&controls={controls}&look={json.dumps({'what': HOSTILE})}")
            page.locator(f"nd-{panel}").wait_for()
            page.wait_for_timeout(1500)
            assert "owned" not in page.title()
            assert page.locator("main img, main script").count() == 0
        assert HOSTILE[:9] in page.locator("nd-operate").inner_text()


@pytest.mark.parametrize("text", ["#play?controls=[{", "#play?controls=7&look=[]&settings=x", "#nowhere?model=nobody"])
def test_a_broken_link_opens_what_can_be_read_of_it(page: Page, desk: str, text: str) -> None:
    page.goto(desk + text)
    expect(page.locator("nd-play nd-rack")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("panel", ["play", "look", "sets", "operate"])
def test_nothing_is_cut_off_on_a_phone(browser: Browser, desk: str, panel: str, scheme: Any) -> None:
    """360 pixels: no sideways scrolling, and no text that is wider than its box."""
    with browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(f"{desk}#{panel}")
        ready = {"play": "ins", "look": "button.token", "sets": ".evidence", "operate": ".engine"}[panel]
        page.locator(ready).first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        cut = page.evaluate(CUT_OFF)
        assert cut == []
        assert serious(page) == []


def test_the_reference_comes_from_this_server(page: Page, desk: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{desk}docs")
    expect(page.locator("#reference")).to_contain_text("/v1/translations")
    assert all(url.startswith((desk, "data:")) for url in asked)
