"""What extraction costs beside the forward pass alone, beside NeuroX, and how its memory grows with the corpus."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel

from neurodial.control import LoadedModel, Site
from neurodial.control.artifacts.neuron_set import NONE_CLASS
from neurodial.interpret.activations.accumulators import Collector, LabelStatistics, stream
from neurodial.interpret.activations.extract import Extraction, extract
from neurodial.interpret.activations.storing import extract_to_store
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.gathering.plan import match_sites
from tests.benchmarks.bench_control import ROOT
from tests.benchmarks.discovery_data import demo_model, labelled_corpus, texts
from tests.benchmarks.discovery_peer import peak_memory

BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Work:
    """A model, the sites that are read, and a corpus."""

    loaded: LoadedModel
    sites: tuple[Site, ...]
    corpus: Corpus

    @property
    def plan(self) -> Extraction:
        return Extraction(self.sites, batch_tokens=BATCH_TOKENS)

    @property
    def classes(self) -> tuple[str, ...]:
        return (NONE_CLASS, *self.corpus.labels)


def works(words: int) -> dict[str, Work]:
    """What is measured: name → work."""
    marian, lm, labelled = demo_model("en-es"), demo_model("lm"), labelled_corpus(words)
    parallel = Corpus.of(
        "grammar text, twice", (Example(e.number, e.source, target=Sentence.of(e.source.text)) for e in labelled)
    )
    return {
        "demo encoder, resid": Work(marian, match_sites(marian, ("encoder.*.resid",)), labelled),
        "demo encoder, all sites": Work(marian, match_sites(marian, ("encoder.*",)), labelled),
        "demo model, both stacks, resid and ffn": Work(marian, match_sites(marian, ("*.resid", "*.ffn")), parallel),
        "demo language model, resid": Work(lm, match_sites(lm, ("*.resid",)), labelled),
        "random BERT, 6 × 768, resid and ffn": _bert(marian, labelled_corpus(max(words // 8, 200))),
    }


def _bert(tokens: LoadedModel, corpus: Corpus) -> Work:
    """Half of BERT base, with the demo's tokenizer: the size at which models are studied."""
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=len(tokens.tokenizer), num_hidden_layers=6)).eval()
    loaded = LoadedModel.wrap(model, tokens.tokenizer)
    return Work(loaded, match_sites(loaded, ("*.resid", "*.ffn")), corpus)


def beside_the_forward_pass(work: Work, rounds: int) -> dict[str, float]:
    """Seconds of the bare pass over ready batches as a share of extraction's, and the like; medians of rounds."""
    module, batches = recorded_batches(work)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)

    @torch.inference_mode()
    def bare() -> None:
        for batch in batches:
            module(**batch)

    def tokenised() -> None:
        tokenizer: Any = work.loaded.tokenizer
        for example in work.corpus:
            tokenizer(example.source.text)
            if example.target is not None and work.loaded.family == "encoder-decoder":
                tokenizer(text_target=example.target.text)
        bare()

    def blocks() -> None:
        for _ in extract(work.loaded, work.corpus, work.classes, work.plan):
            pass

    def with_statistics() -> None:
        stream(work.loaded, work.corpus, work.plan, [LabelStatistics(work.classes)])

    ways = {"bare": bare, "tokenised": tokenised, "blocks": blocks, "statistics": with_statistics}
    taken = [{name: cpu_seconds(way) for name, way in ways.items()} for _ in range(rounds + 1)][1:]

    def ratio(over: str, under: str) -> float:
        return round(statistics.median(t[over] / t[under] for t in taken), 3)

    return {
        "tokens": tokens,
        "tokens_per_s": round(tokens / statistics.median(t["blocks"] for t in taken)),
        "bare / extraction": ratio("bare", "blocks"),
        "tokenising and bare / extraction": ratio("tokenised", "blocks"),
        "bare / extraction with statistics": ratio("bare", "statistics"),
    }


def recorded_batches(work: Work) -> tuple[torch.nn.Module, list[dict[str, Any]]]:
    """The module that extraction runs, and what it runs it on."""
    model: Any = work.loaded.model
    alone = work.loaded.family == "encoder-decoder" and all(site.stack == "encoder" for site in work.sites)
    module: torch.nn.Module = model.get_encoder() if alone else model.base_model
    batches: list[dict[str, Any]] = []
    hook = module.register_forward_pre_hook(lambda _, args, given: batches.append(given), with_kwargs=True)
    for _ in extract(work.loaded, work.corpus, work.classes, work.plan):
        pass
    hook.remove()
    return module, batches


def cpu_seconds(function: Callable[[], Any]) -> float:
    """Of the processor."""
    start = time.process_time()
    function()
    return time.process_time() - start


def beside_neurox(folder: Path, peer: Callable[[Path, str], dict[str, Any]], words: int) -> dict[str, Any]:
    """Every layer of the demo language model at every word, to disk: HDF5 there, an activation store here."""
    loaded = demo_model("lm")
    model: Any = loaded.model
    model.save_pretrained(folder / "model")
    loaded.tokenizer.save_pretrained(folder / "model")
    (folder / "texts.txt").write_text("\n".join(texts(words)) + "\n")
    answer = peer(folder, "extraction")
    if "problem" in answer:
        return answer
    corpus = open_corpus(f"text:{folder / 'texts.txt'}")
    plan = Extraction(match_sites(loaded, ("*.embed", "*.resid")))
    extract_to_store(loaded, corpus, plan, folder / "warm")
    ours = cpu_seconds(lambda: extract_to_store(loaded, corpus, plan, folder / "store"))
    return {"words": words, "neurox_s": round(answer["seconds"], 2), "ours_s": round(ours, 2), **answer}


def memory(words: int, folder: Path) -> dict[str, Any]:
    """Peak memory of a process that streams statistics and a bounded sample, for a corpus and one twice as large."""
    peaks = {}
    for size in (words, 2 * words):
        path = folder / f"{size}.txt"
        path.write_text("\n".join(texts(size)) + "\n")
        command = [sys.executable, "-m", "tests.benchmarks.discovery_extraction", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peaks[size] = json.loads(done.stdout)
    small, large = peaks[words], peaks[2 * words]
    return {
        "words": words,
        "peak_mb": [round(p["peak"] / 1e6, 1) for p in (small, large)],
        "above_the_loaded_model_mb": [round((p["peak"] - p["loaded"]) / 1e6, 1) for p in (small, large)],
        "ratio": round(large["peak"] / small["peak"], 3),
    }


def main(path: Path) -> None:
    """Streams a file's words and prints the process's peak memory."""
    torch.set_num_threads(1)
    loaded = demo_model("lm")
    corpus = open_corpus(f"regex:{path}?pattern=\\bthe\\b")
    before = peak_memory()
    classes = (NONE_CLASS, *corpus.labels)
    plan = Extraction(match_sites(loaded, ("*.resid",)))
    stream(loaded, corpus, plan, [LabelStatistics(classes), Collector(max_rows=2000)])
    print(json.dumps({"loaded": before, "peak": peak_memory()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
