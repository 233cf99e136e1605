"""What discovery finds in the demo model, and which of the survey's findings hold there: `make results DATA=…`.

Tense, number, negation and part of speech, in encoder and decoder. Each step's figures are kept in the build folder and
taken up again, so that a run that was interrupted goes on where it stopped. Writes the results page, its figures, and
the numbers as JSON.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import typer
from rich.console import Console

from neurodial.control.addresses import Site
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.deploy.demo import DEMO_LM, DEMO_MODEL
from neurodial.interpret.activations.gathered import Gathered
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
from neurodial.interpret.corpora.grammars.contrasts import LABELS, generate_contrasts
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.discovery.discover import Discovery
from neurodial.interpret.gathering.gather import gather
from neurodial.interpret.rankings.ranking_file import Ranking
from neurodial.interpret.studies.evaluation.ground import Evaluation
from neurodial.interpret.studies.evaluation.report import to_html
from neurodial.interpret.studies.evaluation.suite import evaluate
from tests.experiments.demo_en_es.corpora import read_tsv
from tests.experiments.demo_en_es.paired import tense_corpus
from tests.experiments.results.results_page import write_page
from tests.experiments.results.results_probes import erased, layers, overlap, redundancy
from tests.experiments.results.results_single import single_neurons
from tests.experiments.results.results_tuned import TASK, fine_tuned

ROOT = Path(__file__).parents[3]
CLASSES = ("NOUN", "VERB", "ADJ", "ADV", "PRON", "DET", "ADP", "AUX")
UPOS = f"label=upos&labels={','.join(CLASSES)}"
CONCEPTS = ("tense", "number", "negation", "part of speech")
RELATIONS = ("nsubj", "obj", "obl", "nmod", "amod", "advmod", "conj", "xcomp")
SYNTAX = f"label=deprel&labels={','.join(RELATIONS)}"
KINDS = ("embed", "resid", "ffn")
COMPARED = {"encoder": "encoder.2.resid", "decoder": "decoder.1.resid"}  # where the methods are compared
CURVE = (1, 5, 20, 50, 100)  # neurons
ERASED_SENTENCES = 400  # for BLEU
Results = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much is read.

    Attributes:
        pairs: minimal pairs, or sentences of a treebank.
        rows: words that probes see.
        examples: held-out inputs for causal effects.
    """

    pairs: int
    rows: int
    examples: int


SIZES = {"small": Sizes(500, 2500, 12), "full": Sizes(2000, 6000, 32)}


def corpus_of(concept: str, stack: str, data: Path, limit: int) -> Corpus:
    """The corpus of a concept; the decoder's part of speech is that of translations in a Spanish treebank."""
    if concept == "tense":
        return tense_corpus(data, limit)
    if concept in LABELS:
        pairs = generate_contrasts(concept, limit)
        labels = LABELS[concept]
        examples = [example for n, pair in enumerate(pairs) for example in pair.examples(n, labels)]
        return Corpus.of(f"grammar:{concept}?count={limit}", examples, labels=labels)
    return _english_treebank(data, UPOS, limit) if stack == "encoder" else _translated_treebank(data)


def _english_treebank(data: Path, label: str, limit: int) -> Corpus:
    return open_corpus(f"conllu:{data / 'ud' / 'en_ewt.train.conllu.gz'}?{label}").drawn(limit)


def _translated_treebank(data: Path) -> Corpus:
    """English sentences with their Spanish translations, whose words are annotated."""
    english = {row["es"]: row["en"] for row in read_tsv(data / "pud_en_es.tsv.gz")}
    treebank = open_corpus(f"conllu:{data / 'ud' / 'es_pud.conllu.gz'}?{UPOS}")
    found = [e for e in treebank if e.source.text in english]
    examples = [Example(n, Sentence.of(english[e.source.text]), target=e.source) for n, e in enumerate(found)]
    text = Corpus.of("pud_en_es with the words of es_pud", examples)
    counts = {label: sum(e.source.labels.count(label) for e in found) for label in CLASSES}
    return Corpus(
        text.name, CLASSES, text.size, counts, text.digest,
        paired=False, parallel=True, word_labels=True, read=text.read,
    )  # fmt: skip


class Run:
    """One run: measures each concept in each stack, keeping what is done in a folder."""

    def __init__(self, model: Path, data: Path, sizes: Sizes, folder: Path) -> None:
        self.model, self.data, self.sizes, self.folder = model, data, sizes, folder
        self.loaded, self.language_model = load_model(model), load_model(DEMO_LM)
        self.console = Console(stderr=True)

    def kept(self, name: str, make: Callable[[], Results]) -> Results:
        """A step's figures, from the folder or made now."""
        path = self.folder / f"{name}.json"
        models = [self.loaded.fingerprint, self.language_model.fingerprint]
        key = [*models, self.sizes.pairs, self.sizes.rows, self.sizes.examples]
        if path.is_file() and (stored := json.loads(path.read_text(encoding="utf-8")))["key"] == key:
            result: Results = stored["result"]
            return result
        self.console.print(f"[dim]{name}[/]")
        made: Results = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"key": key, "result": made}) + "\n", encoding="utf-8")
        return made

    def concept(self, concept: str, stack: str) -> Results:
        """Layers, redundancy and the comparison of methods."""
        corpus = corpus_of(concept, stack, self.data, self.sizes.pairs)
        decoder: Literal["reference", "own"] = "reference" if corpus.parallel else "own"
        name = f"{concept}-{stack}".replace(" ", "-")
        job = Discovery(concept, max_rows=self.sizes.rows, decoder=decoder)
        found = self.kept(f"{name}-layers", lambda: self._layers(corpus, stack, job))
        folder = self.folder / name
        suite = Evaluation(
            concept, sites=(COMPARED[stack],), sizes=CURVE, examples=self.sizes.examples, max_rows=self.sizes.rows,
            decoder=decoder,
        )  # fmt: skip
        report = evaluate(self.loaded, corpus, suite, folder, say=lambda line: self.console.print(f"[dim]  {line}[/]"))
        (folder / "report.html").write_text(to_html(report), encoding="utf-8")
        return found | {"methods": report}

    def _layers(self, corpus: Corpus, stack: str, job: Discovery) -> Results:
        data, sites = _gathered(self.loaded, corpus, stack, job)
        return {
            "corpus": {"name": corpus.name, "labels": corpus.counts},
            "layers": layers(data, sites, job.seed),
            "redundancy": redundancy(data, Site.parse(COMPARED[stack]), job.seed),
        }

    def only_layers(self, loaded: LoadedModel, corpus: Corpus, stack: str, concept: str) -> Results:
        """Where a concept is in another model, or of what is no concept of the page's."""
        job = Discovery(concept, max_rows=self.sizes.rows)
        data, sites = _gathered(loaded, corpus, stack, job)
        return layers(data, sites, job.seed)

    def other_model(self, concept: str) -> Results:
        """The layers of the language model."""
        corpus = corpus_of(concept, "encoder", self.data, self.sizes.pairs)
        return self.only_layers(self.language_model, corpus, "decoder", concept)

    def tuned(self) -> Results:
        """Part of speech in a copy of the encoder that was fine-tuned on a sentence task."""
        loaded, accuracy = fine_tuned(self.model, self.data)
        corpus = corpus_of("part of speech", "encoder", self.data, self.sizes.pairs)
        return {"task": TASK, "accuracy": accuracy, "layers": self.only_layers(loaded, corpus, "encoder", "upos")}

    def single(self) -> Results:
        """Single neurons for what the survey lists."""
        sites = [s for s in self.loaded.sites.sites if s.stack == "encoder" and s.kind in KINDS]
        return single_neurons(self.loaded, _english_treebank(self.data, UPOS, self.sizes.pairs // 2), sites)

    def syntax(self) -> Results:
        """Where dependency relations are."""
        corpus = _english_treebank(self.data, SYNTAX, self.sizes.pairs)
        return self.only_layers(self.loaded, corpus, "encoder", "relations")


def _gathered(loaded: LoadedModel, corpus: Corpus, stack: str, job: Discovery) -> tuple[Gathered, tuple[Site, ...]]:
    sites = tuple(s for s in loaded.sites.sites if s.stack == stack and s.kind in KINDS)
    return gather(loaded, corpus, job.gathering(sites)), sites


def survey(data: Path, size: str, folder: Path, model: Path) -> Results:
    """All figures."""
    sizes = SIZES[size]
    run = Run(model, data, sizes, folder / size)
    loaded = run.loaded
    concepts = {c: {stack: run.concept(c, stack) for stack in ("encoder", "decoder")} for c in CONCEPTS}
    tops = {
        concept: [name for name, _ in _ranking(run.folder / f"{concept}-encoder".replace(" ", "-"))]
        for concept in CONCEPTS
    }
    rows = read_tsv(data / "tatoeba_en_es.valid.tsv.gz")[:ERASED_SENTENCES]
    return {
        "model": {"name": loaded.name, "fingerprint": loaded.fingerprint},
        "size": size,
        "concepts": concepts,
        "overlap": overlap(tops, loaded.sites.info(Site.parse(COMPARED["encoder"])).width),
        "erased": run.kept("erased", lambda: erased(loaded, tops["part of speech"], rows)),
        "sentences": len(rows),
        "relations": run.kept("relations", run.syntax),
        "language_model": {c: run.kept(f"{c}-lm".replace(" ", "-"), partial(run.other_model, c)) for c in CONCEPTS},
        "fine_tuned": run.kept("fine-tuned", run.tuned),
        "single": run.kept("single-neurons", run.single),
    }


def _ranking(folder: Path) -> list[tuple[str, float]]:
    """Addresses and scores by probeless, best first."""
    return list(Ranking.load(folder / "rankings" / "probeless.csv").rows)


def rounded(value: Any) -> Any:
    """Floats to four places, NumPy's numbers as Python's."""
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return round(float(value), 4) if isinstance(value, float | np.floating) else value


def main(
    data: Path = typer.Option(..., exists=True, file_okay=False, help="the data folder"),
    model: Path = typer.Option(DEMO_MODEL, help="checkpoint"),
    size: str = typer.Option("full", help="small or full"),
    folder: Path = typer.Option(Path("build/results"), help="keeps what is done, and each comparison as a page"),
    page: Path = typer.Option(ROOT / "docs/results/findings.md", help="receives the page; its figures lie beside it"),
    out: Path = typer.Option(ROOT / "tests" / "benchmarks" / "results" / "findings.json", help="receives the figures"),
) -> None:
    """Measures what discovery finds in the demo model and writes the results page."""
    if size not in SIZES:
        raise typer.BadParameter(f"{size}: one of {', '.join(SIZES)}")
    results = rounded(survey(data, size, folder, model))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_page(results, page)
    print(f"written to {page} and {out}")


if __name__ == "__main__":
    typer.run(main)
