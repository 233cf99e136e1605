"""What discovery finds in the demo model, and which of the survey's findings hold there: `make results DATA=…`.

Tense, number, negation and part of speech, in encoder and decoder. Each step's figures are kept in the build folder and
taken up again, so that a run that was interrupted goes on where it stopped. Writes the numbers as JSON, the tables of
docs/results/findings.md and its pictures; its sentences and verdicts are written by hand.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

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
from tests.documentation.filling import PAGES, RESULTS, keep
from tests.experiments import pictures
from tests.experiments.common import Data, Model, Out, Steps, Work
from tests.experiments.demo_en_es.corpora import read_tsv
from tests.experiments.demo_en_es.paired import tense_corpus
from tests.experiments.results.fine_tuned import TASK, fine_tuned
from tests.experiments.results.probes import erased, layers, overlap, redundancy
from tests.experiments.results.single_neurons import single_neurons

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
        key = [self.loaded.fingerprint, self.language_model.fingerprint, sizes.pairs, sizes.rows, sizes.examples]
        self.kept = Steps(folder, key)

    def concept(self, concept: str, stack: str) -> Results:
        """Layers, redundancy and the comparison of methods."""
        corpus = corpus_of(concept, stack, self.data, self.sizes.pairs)
        decoder: Literal["reference", "own"] = "reference" if corpus.parallel else "own"
        name = f"{concept}-{stack}".replace(" ", "-")
        job = Discovery(concept, max_rows=self.sizes.rows, decoder=decoder)
        found: Results = self.kept(f"{name} layers", lambda: self._layers(corpus, stack, job))
        folder = self.folder / name
        suite = Evaluation(
            concept, sites=(COMPARED[stack],), sizes=CURVE, examples=self.sizes.examples, max_rows=self.sizes.rows,
            decoder=decoder,
        )  # fmt: skip
        report = evaluate(self.loaded, corpus, suite, folder, say=partial(typer.echo, err=True))
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
        "language_model": {c: run.kept(f"{c} lm", partial(run.other_model, c)) for c in CONCEPTS},
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
    data: Data,
    model: Model = DEMO_MODEL,
    size: Annotated[str, typer.Option(help="small or full")] = "full",
    work: Work = Path("build/results"),
    out: Out = RESULTS / "findings.json",
    pictures_in: Annotated[Path, typer.Option("--pictures", help="receives the two pictures")] = PAGES,
) -> None:
    """Measures what discovery finds in the demo model."""
    if size not in SIZES:
        raise typer.BadParameter(f"{size}: one of {', '.join(SIZES)}")
    results = rounded(survey(data, size, work, model))
    pictures.layers(results, pictures_in / "results-layers.png")
    pictures.methods(results, pictures_in / "results-methods.png")
    keep(results, out)
    print(f"written to {out} and {pictures_in}")


if __name__ == "__main__":
    typer.run(main)
