"""Activations as NeuroX 1.0 writes and reads them, in HDF5 and JSON lines.

HDF5: a dataset `"0"`, `"1"`, … for each sentence, (layers, words, width) float32, and `sentence_to_index`, one JSON
string that maps each sentence to its number; a sentence that comes again has ` (Occurrence 2)` behind it. JSON: a line
for each sentence, `{"linex_index": 0, "features": [{"token": "She", "layers": [{"index": 0, "values": […]}]}]}`, values
rounded to eight places.

NeuroX knows one stack, one row a word, and layers of one width: the input of the first layer (`embed`) and the residual
stream behind each. What it calls a word is what lies between two spaces; its activations are used here where they agree
with the corpus's words in number, or are some of them in their order. In HDF5 a space within a word is written as one
that does not break (U+00A0). A sentence that could not be aligned with its tokens is written with no word.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import NONE_CLASS
from neurodial.control.errors import StoreError
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.blocks import Block, labelled_rows
from neurodial.interpret.activations.extract import Extraction, extract_window, windows
from neurodial.interpret.activations.left_out import LeftOut
from neurodial.interpret.activations.neurox.hdf5 import PatientFile
from neurodial.interpret.activations.neurox.reading import INDEX, NeuroxFile, residual_sites
from neurodial.interpret.activations.store import ActivationStore
from neurodial.interpret.activations.storing import Produced, extract_to_store
from neurodial.interpret.common.progress import progress
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence

Array = np.ndarray[Any, Any]
SUFFIXES = (".hdf5", ".json")
INNER_SPACE = "\u00a0"


def import_neurox(
    path: str | Path, loaded: LoadedModel, corpus: Corpus, folder: str | Path, *, dtype: str = "float32"
) -> ActivationStore:
    """Turns a file of NeuroX activations into a store at the level of words.

    Args:
        path: HDF5 or JSON.
        loaded: the model that they are of; NeuroX does not write that down, only shapes can be compared.
        corpus: the sentences, in the same order, with their labels.
        folder: the store.
        dtype: of the stored values.

    Raises:
        StoreError: for a damaged file, layers that are not the model's, or sentences that are not the corpus's.
    """
    file = NeuroxFile.open(path)
    if file.size != len(corpus):
        raise StoreError(f"{path}: {file.size:,} sentences, but {len(corpus):,} in the corpus {corpus.name}")
    sites = file.sites(loaded)
    plan = Extraction(sites, ("word",))
    stream = iter(file)
    passed = 0

    def produce(window: list[Example]) -> Produced:
        nonlocal passed
        left_out = LeftOut()
        for example in window:
            while passed <= example.number:  # sentences of windows that are stored already
                words, values = next(stream)
                passed += 1
            places = _places(words, example.source)
            if len(places) != len(words) or len(words) != values.shape[1]:
                raise StoreError(
                    f"{path}: sentence {example.number} has {len(words)} words, but {len(example.source.words)} in the "
                    f"corpus ({example.source.text[:40]!r})",
                    hint="cut both into words the same way, such as at spaces",
                )
            if missing := len(example.source.words) - len(words):
                left_out.merge(LeftOut(words_not_in_file=missing, examples=[example.number]))
            if rows := [(example, word) for word in places]:
                layers = {site: values[layer] for layer, site in enumerate(sites)}
                yield labelled_rows(sites[0].stack, "word", rows, layers, (NONE_CLASS, *corpus.labels))
        yield left_out

    return extract_to_store(
        loaded, corpus, plan, folder, dtype=dtype, produce=produce, origin=f"neurox:{file.path.name}"
    )


def _places(words: list[str], sentence: Sentence) -> list[int]:
    """The numbers of words in a sentence: of all of them in their order, else of those that come next."""
    if len(words) == len(sentence.words):
        return list(range(len(words)))
    places: list[int] = []
    for number in range(len(sentence.words)):
        if len(places) < len(words) and sentence.word(number).split() == words[len(places)].split():
            places.append(number)
    return places


def export_neurox(
    loaded: LoadedModel, corpus: Corpus, path: str | Path, plan: Extraction | None = None
) -> tuple[int, tuple[int, int], LeftOut]:
    """Runs the model over a corpus and writes what NeuroX would have written: one row a word, every layer.

    Args:
        loaded: the model.
        corpus: any corpus.
        path: a file that ends in .hdf5 or .json; it appears when it is whole.
        plan: sites of one stack and one width in the order of the layers; by default `residual_sites`.

    Returns:
        Sentences, layers and neurons a layer, and what has no rows; the user has been warned of it.

    Raises:
        StoreError: for another ending, sites of different widths, or a file that cannot be written.
    """
    path = Path(path)
    plan = plan or Extraction(residual_sites(loaded))
    widths = {loaded.sites.info(site).width for site in plan.sites}
    if len(widths) > 1 or len({site.stack for site in plan.sites}) > 1 or plan.levels != ("word",):
        raise StoreError("NeuroX files hold words at sites of one stack and one width", hint="choose fewer with --site")
    classes, left_out = (NONE_CLASS, *corpus.labels), LeftOut()
    with _writer(path) as write, progress("Activations", len(corpus)) as advance:
        for window in windows(corpus, plan.window):
            values = _by_example(extract_window(loaded, window, classes, plan, left_out), plan.sites)
            for example in window:
                target = plan.sites[0].stack == "decoder" and loaded.family == "encoder-decoder"
                side = example.target if target and example.target else example.source
                numbers, here = values.get(example.number, ([], np.zeros((len(plan.sites), 0, max(widths)))))
                write(example.number, [side.word(number) for number in numbers], here.astype(np.float32))
            advance(len(window))
    left_out.warn(corpus.name)
    return len(corpus), (len(plan.sites), max(widths)), left_out


def _by_example(blocks: Iterator[Block], sites: Sequence[Site]) -> dict[int, tuple[list[int], Array]]:
    """Example → its words' numbers and their (layers, words, width) activations."""
    found: dict[int, tuple[list[int], Array]] = {}
    for block in blocks:
        layers = np.stack([block.values[site] for site in sites])
        for number in np.unique(block.examples).tolist():
            rows = np.flatnonzero(block.examples == number)
            rows = rows[np.argsort(block.words[rows], kind="stable")]
            found[number] = (block.words[rows].tolist(), layers[:, rows])
    return found


Write = Callable[[int, list[str], Array], None]


@contextmanager
def _writer(path: Path) -> Iterator[Write]:
    """Writes beside the file and renames at the end."""
    if path.suffix not in SUFFIXES:
        raise StoreError(f"{path}: NeuroX reads {' and '.join(SUFFIXES)}", hint=f"name it {path.stem}.hdf5")
    beside = path.with_name(f".{path.name}.part{path.suffix}")
    try:
        try:
            with _hdf5(beside) if path.suffix == ".hdf5" else _json(beside) as write:
                yield write
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({getattr(error, 'strerror', None) or error}); nothing is left of it",
            hint="make room, or name another disk",
        ) from error


@contextmanager
def _hdf5(path: Path) -> Iterator[Write]:
    import h5py

    index: dict[str, str] = {}
    with PatientFile(str(path)) as raw:
        with h5py.File(raw, "w") as file:
            yield lambda number, words, values: _dataset(file, raw, index, number, words, values)
            file.create_dataset(INDEX, (1,), dtype=h5py.string_dtype())[0] = json.dumps(index)
        raw.check()


def _dataset(file: Any, raw: PatientFile, index: dict[str, str], number: int, words: list[str], values: Array) -> None:
    file.create_dataset(str(number), values.shape, dtype="float32", data=values)
    raw.check()
    text = name = " ".join(INNER_SPACE.join(word.split()) for word in words)
    count = 1
    while name in index:
        count += 1
        name = f"{text} (Occurrence {count})"
    index[name] = str(number)


@contextmanager
def _json(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda number, words, values: _json_line(file, number, words, values)


def _json_line(file: TextIO, number: int, words: list[str], values: Array) -> None:
    features = [
        {
            "token": word,
            "layers": [
                {"index": layer, "values": [round(float(x), 8) for x in values[layer, place]]}
                for layer in range(len(values))
            ],
        }
        for place, word in enumerate(words)
    ]
    file.write(json.dumps({"linex_index": number, "features": features}) + "\n")
