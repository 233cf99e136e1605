"""What a prompt may be: a text, tokens, a chat; and tokens and text on their own."""

import asyncio
from typing import Any

import pytest

from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.errors import BadInput, LimitError
from neurodial.control.models.loading import LoadedModel
from neurodial.service.engine.client import LocalClient
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.model.processor import RequestProcessor
from neurodial.service.engine.requests import EngineRequest, Message
from tests.tiny import EOS, VOCABULARY
from tests.word_tokenizer import tiny_with_text

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'narrator' %}{{ raise_exception('there is no narrator') }}{% endif %}"
    "{{ m.role }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}w7{% endif %}"
)
CHAT = (Message("user", "w30 w31"), Message("assistant", "w32"))


@pytest.fixture(scope="module")
def chatting() -> LoadedModel:
    """A causal model whose tokenizer knows chats."""
    loaded = tiny_with_text("llama")
    loaded.tokenizer.chat_template = TEMPLATE
    return loaded


def runner_of(loaded: LoadedModel) -> RequestProcessor:
    """With every model's settings."""
    return RequestProcessor(loaded, SetCatalogue({}), default_max_tokens=6)


def test_a_chat_is_written_by_the_template(chatting: LoadedModel) -> None:
    """The turns, and what makes the model answer; special tokens are the template's business."""
    runner = runner_of(chatting)
    assert runner.info.model.has_chat_template
    ids = runner.prepare(EngineRequest("a", "", messages=CHAT)).prompt_ids
    text = "user w30 w31 assistant w32 w7"
    assert ids == tuple(chatting.tokenizer(text, add_special_tokens=False)["input_ids"])
    assert runner.tokenize("", messages=CHAT) == tuple((i, f"w{i}") for i in ids)


def test_the_same_prompt_gives_the_same_text_however_it_is_given(chatting: LoadedModel) -> None:
    """As a chat, as tokens, as text."""
    engine = Engine(runner_of(chatting))
    try:
        ids = engine.processor.prepare(EngineRequest("x", "", messages=CHAT)).prompt_ids
        as_chat, as_tokens = (
            engine.submit(request).result(60)
            for request in (EngineRequest("a", "", messages=CHAT), EngineRequest("b", "", token_ids=ids))
        )
        text = engine.submit(EngineRequest("c", "w5 w6")).result(60)
        tokens = engine.submit(EngineRequest("d", "", token_ids=(5, 6, EOS))).result(60)
    finally:
        engine.close()
    assert as_chat == as_tokens
    assert as_chat.prompt_tokens == len(ids)
    assert text == tokens


@pytest.mark.parametrize(
    ("asked", "param", "said"),
    [
        ({"messages": (Message("narrator", "w5"),)}, "messages", "there is no narrator"),
        ({"token_ids": (3, VOCABULARY)}, "prompt[2][1]", r"prompt\[2\]\[1\] is 60; the model's tokens are 0 to 59"),
        ({"token_ids": (-1,)}, "prompt[2][0]", "is -1; the model's"),
        ({"token_ids": (2**70,)}, "prompt[2][0]", "is 1180591620717411303424"),
        ({"token_ids": ()}, "prompt[2]", "no tokens"),
        ({"token_ids": (5,) * 64}, "prompt[2]", "64 tokens; the model reads at most 63"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(
    chatting: LoadedModel, asked: dict[str, Any], param: str, said: str
) -> None:
    """With the field that the request names."""
    with pytest.raises(BadInput, match=said) as refused:
        runner_of(chatting).prepare(EngineRequest("a", "", field="prompt[2]", **asked))
    assert refused.value.param == param


@pytest.mark.parametrize("name", ["llama", "marian"])
def test_a_model_without_a_template_refuses_chats(name: str) -> None:
    """Also where they would only be tokenised."""
    runner = runner_of(tiny_with_text(name))
    assert not runner.info.model.has_chat_template
    for refuse in (
        lambda: runner.prepare(EngineRequest("a", "", messages=CHAT)),
        lambda: runner.tokenize("", messages=CHAT),
    ):
        with pytest.raises(BadInput, match="no chat template") as refused:
            refuse()
        assert refused.value.param == "messages"


def test_tokens_and_text_through_a_client(chatting: LoadedModel) -> None:
    """There and back, with and without special tokens."""
    engine = Engine(runner_of(chatting))
    client = LocalClient(engine)

    async def talk() -> None:
        assert await client.tokenize("w5 w6") == ((5, "w5"), (6, "w6"), (EOS, f"w{EOS}"))
        assert await client.tokenize("w5 w6", add_special_tokens=False) == ((5, "w5"), (6, "w6"))
        assert await client.tokenize("", add_special_tokens=False) == ()
        assert await client.detokenize((5, 6, EOS)) == f"w5 w6 w{EOS}"
        assert await client.detokenize(()) == ""
        with pytest.raises(BadInput, match="60") as refused:
            await client.detokenize((5, 60))
        assert refused.value.param == "tokens[1]"

    try:
        asyncio.run(talk())
    finally:
        engine.close()


@pytest.mark.parametrize("name", ["bert", "llama", "marian"])
def test_a_model_is_described(name: str) -> None:
    """What routes need to know before they ask."""
    loaded = tiny_with_text(name)
    model = runner_of(loaded).info.model
    assert (model.family, model.hidden_size, model.vocab_size) == (loaded.family, 32, VOCABULARY)


def test_the_last_place_of_a_causal_model_is_for_writing() -> None:
    """A prompt that fills all positions leaves none; one that leaves one writes one token."""
    runner = runner_of(tiny_with_text("llama"))
    assert runner.prepare(EngineRequest("a", "", token_ids=(5,) * 63)).max_tokens == 1
    with pytest.raises(LimitError):
        runner.prepare(EngineRequest("a", "", token_ids=(5,) * 64))
    assert runner.prepare(EngineRequest("a", "", token_ids=(5,) * 64, task="encode")).max_tokens == 0
