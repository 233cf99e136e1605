"""Multilingual translation models are told their languages, as `generate` is told them by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import M2M100Tokenizer, MarianTokenizer, MBart50Tokenizer, MBartTokenizer, NllbTokenizer

from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.errors import BadInput, NeurodialError
from neurodial.control.models.loading import LoadedModel
from neurodial.service.engine.engine import Engine
from neurodial.service.engine.model.processor import RequestProcessor
from neurodial.service.engine.requests import EngineRequest
from neurodial.service.engine.scheduler import Capacity
from neurodial.service.engine.types import Finished
from tests.experiments.demo_en_es.tokenizer import train_tokenizer
from tests.tiny import tiny

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXT = "cab dab"
PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((x, -3.0) for x in LETTERS)]


def _spm(folder: Path) -> None:
    train_tokenizer([TEXT, *LETTERS], folder, vocab_size=32, max_length=48)


def m2m(folder: Path) -> Any:
    _spm(folder)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    numbered = {piece: n for n, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>"])}
    numbered |= {p: 4 + n for n, p in enumerate(p for p in vocabulary if p not in numbered)}
    (folder / "vocab.json").write_text(json.dumps(numbered))
    return M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "source.spm"))


def mbart(_: Path) -> Any:
    return MBartTokenizer(vocab=PIECES)


def mbart50(_: Path) -> Any:
    return MBart50Tokenizer(vocab=PIECES)


def nllb(_: Path) -> Any:
    return NllbTokenizer(vocab={piece: n for n, (piece, _) in enumerate(PIECES)}, merges=[])


def marian(folder: Path) -> Any:
    _spm(folder)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    vocabulary |= {code: len(vocabulary) + n for n, code in enumerate([">>fra<<", ">>deu<<"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    files: Any = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    marian_tokenizer: Any = MarianTokenizer
    return marian_tokenizer(*files, unk_token="<unk>", eos_token="</s>", pad_token="<pad>")


FAMILIES: dict[str, tuple[str, Callable[[Path], Any], str, str]] = {
    "m2m_100": ("m2m_100", m2m, "fr", "de"),
    "mbart": ("mbart", mbart, "fr_XX", "de_DE"),
    "mbart50": ("mbart", mbart50, "fr_XX", "de_DE"),
    "nllb": ("m2m_100", nllb, "fra_Latn", "deu_Latn"),
    "marian": ("marian", marian, "", "deu"),
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, LoadedModel, str, str]:
    """A random model of a family, its own code for French and that for German."""
    architecture, tokenizer_of, french, german = FAMILIES[request.param]
    tokenizer = tokenizer_of(tmp_path)
    tokens = {"bos_token_id": 0, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    last = max([len(tokenizer) - 1, *getattr(tokenizer, "lang_code_to_id", {}).values()])
    model = tiny(architecture, vocab_size=last + 1, decoder_start_token_id=tokenizer.eos_token_id, **tokens)
    letters = {token for piece, token in tokenizer.get_vocab().items() if piece in LETTERS}
    told = set(tokenizer.convert_tokens_to_ids([french, german, "__fr__", "__de__"])) - {tokenizer.unk_token_id}
    kept = letters | told | {tokenizer.eos_token_id}  # or random weights write languages, which are no text
    model.generation_config.suppress_tokens = sorted(set(range(last + 1)) - kept)
    return request.param, LoadedModel.wrap(model, tokenizer), french, german


def translated(loaded: LoadedModel, languages: Any, num_beams: int = 1) -> Finished:
    """What an engine makes of the text."""
    processor = RequestProcessor(loaded, SetCatalogue({}))
    engine = Engine(processor, Capacity(max_rows=8, max_waiting=8))
    try:
        requests = [EngineRequest("1", TEXT, max_tokens=9, languages=languages, num_beams=num_beams)]
        requests.append(EngineRequest("2", "b " + TEXT, max_tokens=9, languages=languages))  # not alone
        first, _ = (handle.result() for handle in engine.submit_all(requests))
        return first
    finally:
        engine.close()


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_translation_is_that_of_generate(family: tuple[str, LoadedModel, str, str], num_beams: int) -> None:
    """With the source's token at the text, and the target's where the family wants it; French is not the default."""
    name, loaded, french, german = family
    tokenizer: Any = loaded.tokenizer
    model: Any = loaded.model
    told: dict[str, Any] = {}
    if name == "marian":
        inputs = tokenizer(f">>{german}<< {TEXT}", return_tensors="pt")
    else:
        tokenizer.src_lang = french
        inputs = tokenizer(TEXT, return_tensors="pt")
        token = tokenizer.convert_tokens_to_ids("__de__" if name == "m2m_100" else german)
        told = {"decoder_start_token_id" if name == "mbart" else "forced_bos_token_id": token}
        tokenizer.src_lang = "it" if name == "m2m_100" else {"nllb": "ita_Latn"}.get(name, "it_IT")
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=9, num_beams=num_beams, do_sample=False, **told)
    expected = tokenizer.decode(ids[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    expected = expected.removeprefix("__de__")  # M2M100's tokenizer does not know that its languages are special
    found = translated(loaded, ("fr", "de"), num_beams)
    assert found.text == expected
    assert translated(loaded, ("fr", "de-AT"), num_beams).text == expected


def test_what_is_missing_or_unknown_is_refused(family: tuple[str, LoadedModel, str, str]) -> None:
    """With the field, and what there is."""
    name, loaded, _, _ = family
    for languages, field in (((None, None), "target"), (("fr", "tlh"), "target"), (("fr", None), "target")):
        with pytest.raises(BadInput) as refused:
            translated(loaded, languages)
        assert refused.value.param == field
        assert "it knows " in str(refused.value.hint)
    if name != "marian":
        for source in (None, "tlh"):
            with pytest.raises(NeurodialError) as refused_too:
                translated(loaded, (source, "de"))
            assert refused_too.value.param == "source"


def test_the_configured_languages_are_the_usual_ones(family: tuple[str, LoadedModel, str, str]) -> None:
    """Of a request that names none; one that does is served in its own, and leaves no trace."""
    _, loaded, _, _ = family
    processor = RequestProcessor(loaded, SetCatalogue({}), languages=("fr", "de"))

    def told(*languages: str | None) -> Any:
        prepared = processor.prepare(EngineRequest("1", TEXT, languages=languages or (None, None)))  # type: ignore[arg-type]
        return prepared.prompt_ids, prepared.start, prepared.first

    usual, back = told(), told("de", "fr")
    assert usual == told("fr", "de") == told() != back
    assert back == told("de", "fr")


def test_texts_are_read_without_languages(family: tuple[str, LoadedModel, str, str]) -> None:
    """Embeddings and activations ask for none, a decoder's text with its language before it included."""
    _, loaded, _, _ = family
    processor = RequestProcessor(loaded, SetCatalogue({}))
    assert processor.info.model.languages
    plain = processor.prepare(EngineRequest("1", TEXT, task="encode"))
    assert plain.prompt_ids
    asked = EngineRequest("2", TEXT, task="activations", neurons=("decoder.0.ffn[1]",), target="abc")
    target = processor.prepare(asked).target_ids
    assert len(target) >= 4
    assert not set(target[2:]) & loaded_ends(loaded)


def loaded_ends(loaded: LoadedModel) -> set[int]:
    """Tokens that end a text."""
    return {int(loaded.tokenizer.eos_token_id)}
