"""LibreTranslate's routes, as its clients use them, behind a real socket."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from libretranslatepy import LibreTranslateAPI

from neurodial.service.access.auth import Keys
from neurodial.service.http.answering.markup import cut
from neurodial.service.languages import closest, detect
from tests.service.engine.fake import FakeRunner
from tests.service.http.applications import Server, application, fakes

PAST = [{"set": "tense", "to": "past"}]
ENGLISH, SPANISH = "The boy opens the door of the house.", "El niño abre la puerta de la casa."


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    many = FakeRunner("many", sets=())
    many.info = replace(many.info, model=replace(many.info.model, languages=("fr", "de", "es")))
    languages = {"en-es": ("en", "es"), "es-en": ("es", "en")}
    runners = {**fakes(), "es-en": FakeRunner("es-en", sets=()), "many": many}
    with application(runners, languages=languages) as app, Server(app) as address:
        yield address


@pytest.fixture
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address) as client:
        yield client


def asked(**fields: Any) -> dict[str, Any]:
    return {"q": "ab cd", "source": "en", "target": "es"} | fields


def test_its_own_client(address: str) -> None:
    """Which sends forms."""
    libre = LibreTranslateAPI(address)
    assert libre.translate("abc def") == "cba fed"
    assert LibreTranslateAPI(address, api_key="any").translate("ä & b", "en", "es") == "ä & b"
    assert libre.detect(SPANISH)[0]["language"] == "es"
    known = {language["code"]: language["targets"] for language in libre.languages()}
    assert known == {"en": ["es"], "es": ["en", "fr", "de"], "fr": ["de", "es"], "de": ["fr", "es"]}
    assert libre.languages()[0]["name"] == "English"


def test_every_kind_of_body_says_the_same(http: httpx.Client) -> None:
    fields = {"q": "ab cd", "source": "en", "target": "es", "format": "text", "alternatives": "0", "api_key": ""}
    fields |= {"controls": json.dumps(PAST)}
    answers = [
        http.post("/translate", json=asked(controls=PAST)),
        http.post("/translate", data=fields),
        http.post("/translate", files={name: (None, value) for name, value in fields.items()}),
        http.post("/translate", params=fields),
        http.post("/translate/", content=json.dumps(asked(controls=PAST)).encode()),
    ]
    assert [answer.json().get("translatedText", answer.text) for answer in answers] == ["ba-past dc-past"] * 5
    several = http.post("/translate", data={"q": ["ab", "cd"], "source": "en", "target": "es"}).json()
    assert several["translatedText"] == ["ba", "dc"]
    assert [applied["digest"] for applied in several["applied"]] == [None, None]


def test_the_source_is_detected_of_each_text(http: httpx.Client) -> None:
    """And leads to the model that reads it."""
    to_english = http.post("/translate", json=asked(q=SPANISH, source="auto", target="en")).json()
    assert to_english["detectedLanguage"] == {"language": "es", "confidence": 100.0}
    french = "Le garçon ouvre la porte de la maison."
    mixed = http.post("/translate", json=asked(q=[ENGLISH, french], source="auto")).json()
    assert [found["language"] for found in mixed["detectedLanguage"]] == ["en", "fr"]
    assert len(mixed["translatedText"]) == 2
    blank = http.post("/translate", json=asked(q=["", "12", SPANISH], source="auto", target="en")).json()
    assert blank["translatedText"][0] == ""
    unsure = http.post("/translate", json=asked(q="Hm", source="auto"))
    assert unsure.status_code == 400
    assert "cannot be told" in unsure.json()["error"]


def test_html_keeps_its_markup(http: httpx.Client) -> None:
    html = "<p class='x'>ab &amp; <b>cd</b></p>\n<script>if (a<b) ef()</script><!-- gh -->"
    answer = http.post("/translate", json=asked(q=html, format="html")).json()
    assert answer["translatedText"] == "<p class='x'>ba &amp; <b>dc</b></p>\n<script>if (a<b) ef()</script><!-- gh -->"


@pytest.mark.parametrize("html", ["a < b", "<p", "<b>x", "&nbsp;&#65;<br/>y", "", "<![CDATA[x]]>é\r\nq<i>r", "</p>x"])
def test_html_is_cut_without_loss(html: str) -> None:
    assert "".join(part for part, _ in cut(html)) == html


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"format": "pdf"}, "format"),
        ({"alternatives": 100}, "alternatives"),
        ({"source": "tlh"}, "'tlh'"),
        ({"source": "fr", "model": "en-es"}, "'fr'"),
        ({"target": "ja"}, "'ja'"),
        ({"source": "auto", "target": "ja"}, "'ja'"),
        ({"model": "writer"}, "no model translates"),
        ({"model": "gone"}, "'gone'"),
        ({"q": 5}, "q"),
        ({"unknown": "x"}, "unknown"),
    ],
    ids=str,
)
def test_refusals_are_texts_that_name_the_field(http: httpx.Client, fields: dict[str, Any], named: str) -> None:
    answer = http.post("/translate", json=asked(**fields))
    assert answer.status_code in (400, 404)
    assert named in answer.json()["error"]


@pytest.mark.parametrize(
    ("form", "named"),
    [(b"q=a&source=en&source=en&target=es", "source"), (b"q=%ff", "UTF-8"), (b"q=a&controls=x", "controls"), (b"", "")],
)
def test_broken_forms(address: str, form: bytes, named: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{address}/translate", data=form)
    assert caught.value.code == 400
    assert named in json.load(caught.value)["error"]


def test_a_broken_multipart_body(http: httpx.Client) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    for content in (b"nothing", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--"):
        assert http.post("/translate", content=content, headers=kind).status_code == 400
    assert http.post("/translate", content=b"", headers={"Content-Type": "multipart/form-data"}).status_code == 400


def test_a_model_of_many_languages_is_told(http: httpx.Client) -> None:
    """On our own route too; one of a single pair takes its own, and refuses others."""
    for body, status in (
        ({"model": "many", "text": "ab", "source": "fr", "target": "de"}, 200),
        ({"model": "many", "text": "ab", "source": "fr", "target": "ja"}, 400),
        ({"model": "en-es", "text": "ab"}, 200),
        ({"model": "en-es", "text": "ab", "source": "en-GB", "target": "es"}, 200),
        ({"model": "en-es", "text": "ab", "source": "auto"}, 200),
        ({"model": "en-es", "text": "ab", "target": "en"}, 400),
        ({"model": "reader", "text": "ab", "target": "en"}, 400),
    ):
        assert http.post("/v1/translations", json=body).status_code == status, body


def test_what_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """What clients ask before they have one; translating and detecting take it in the body, too."""
    monkeypatch.setenv("KEYS", json.dumps([{"name": "me", "key": "k" * 32}]))
    keys = Keys.from_environment("KEYS")
    with application(fakes(), languages={"en-es": ("en", "es")}, keys=keys) as app, Server(app) as address:
        for path in ("/languages", "/frontend/settings", "/ready", "/health"):
            assert httpx.get(address + path).status_code == 200, path
        settings = httpx.get(f"{address}/frontend/settings").json()
        assert settings["keyRequired"] is True
        assert settings["language"]["source"] == {"code": "en", "name": "English"}
        for path, body in (("/translate", asked()), ("/detect", {"q": ENGLISH})):
            assert httpx.post(address + path, json=body).status_code == 401
            assert isinstance(httpx.post(address + path, json=body).json()["error"], str)
            assert httpx.post(address + path, json=body | {"api_key": "k" * 32}).status_code == 200
            assert httpx.post(address + path, json=body, headers={"X-Api-Key": "k" * 32}).status_code == 200


def test_languages_are_matched_as_people_write_them() -> None:
    nllb = ("fra_Latn", "zho_Hans", "zho_Hant", "arb_Arab", "eng_Latn")
    found = [closest(code, nllb) for code in ("fr", "zh-TW", "zh", "ar", "en-GB", "fra_Latn", "xx", "german")]
    assert found == ["fra_Latn", "zho_Hant", "zho_Hans", "arb_Arab", "eng_Latn", "fra_Latn", None, None]
    assert detect("12 + 3") is None
    assert (detect(SPANISH, nllb) or ("",))[0] in nllb
