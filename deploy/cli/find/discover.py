"""`neurodial discover`: find the neurons that carry a concept and write a neuron set."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Option

from neurodial.control.errors import BadInput, NeurodialError
from neurodial.deploy.cli.inputs import executor, load, method_params
from neurodial.deploy.cli.options import (
    AsJson,
    Concept,
    Decoder,
    Device,
    Dtype,
    Model,
    Params,
    SentencePooling,
    SkipBad,
    Words,
)
from neurodial.deploy.cli.output import check_file, print_json, say, writing
from neurodial.deploy.jobs.publishing import KEY_VARIABLE, Destination, published_lines
from neurodial.interpret.evidence.thresholds import Thresholds, shortfalls
from neurodial.interpret.methods.names import check_slug

if TYPE_CHECKING:
    from neurodial.control.artifacts.neuron_set import NeuronSet
    from neurodial.interpret.corpora.corpus import Corpus

Publishing = partial(Option, rich_help_panel="Publishing")


def command(
    ctx: typer.Context,
    model: Model,
    concept: Concept,
    out: Annotated[Path, Option(help="Neuron set to write, such as tense.safetensors.")],
    corpus: Annotated[
        str | None, Option(help="Corpus, such as grammar:tense?count=3000 or pairs:FILE?now=COL&then=COL.")
    ] = None,
    store: Annotated[
        Path | None, Option(help="Activations of neurodial extract, read instead of running the model.")
    ] = None,
    method: Annotated[
        str | None,
        Option(
            help="Discovery method; mean-difference where there are minimal pairs, else probeless.", show_default=False
        ),
    ] = None,
    param: Params = None,
    site: Annotated[
        list[str] | None, Option(help="Site or pattern, such as encoder.2.resid or '*.resid'; repeatable.")
    ] = None,
    top: Annotated[int, Option(min=1, help="Neurons of the set.")] = 100,
    seed: Annotated[int, Option(min=0, help="The same seed gives the same set.")] = 0,
    examples: Annotated[int, Option(min=1, help="Pairs or facts that a causal method runs.")] = 50,
    decoder: Decoder = "reference",
    words: Words = "last",
    sentences: Annotated[
        SentencePooling,
        Option(help="Activation of a labelled sentence or prompt: mean, last or max of its pieces."),
    ] = "mean",
    ridge: Annotated[float, Option(help="Penalty of the maps.")] = 100.0,
    op: Annotated[
        Literal["map", "shift", "clamp", "prune"] | None,
        Option(help="Recommended operation: map, shift, clamp or prune."),
    ] = None,
    strength: Annotated[float | None, Option(help="Recommended strength.")] = None,
    tune: Annotated[
        int,
        Option(min=0, help="Steps for which maps are fitted through the model; it then also picks the neurons."),
    ] = 0,
    experts: Annotated[
        Path | None, Option(help="With --method expert-units: write every unit's average precision (.csv).")
    ] = None,
    evidence: Annotated[
        Literal["quick", "full", "none"],
        Option(help="How much evidence is gathered: quick (about a minute on the demo), full or none."),
    ] = "quick",
    other: Annotated[
        str | None, Option(help="Corpus of other text, on which the evidence measures the cost off target.")
    ] = None,
    publish: Annotated[
        str | None, Publishing(metavar="URL", help="Server that gets the set if its evidence suffices.")
    ] = None,
    publish_as: Annotated[str | None, Publishing(help="What requests will call it; its concept where absent.")] = None,
    publish_model: Annotated[str | None, Publishing(help="The model's id there; not needed where it has one.")] = None,
    key_env: Annotated[str, Publishing(help="Environment variable with the admin key.")] = KEY_VARIABLE,
    min_gain: Annotated[
        float, Publishing(help="Least held-out accuracy above the most frequent label.")
    ] = Thresholds.min_gain,
    min_selectivity: Annotated[
        float, Publishing(help="Least held-out accuracy above the control task, lower bound.")
    ] = Thresholds.min_selectivity,
    min_significant: Annotated[
        float, Publishing(help="Least share of the neurons that tell the labels apart.")
    ] = Thresholds.min_significant,
    min_effect: Annotated[
        float, Publishing(help="Least effect of the control, lower end of 95 %, nats per token.")
    ] = Thresholds.min_effect,
    min_selection: Annotated[
        float, Publishing(help="Least effect above random neurons fitted alike, lower end of 95 %, nats per token.")
    ] = Thresholds.min_selection,
    max_p: Annotated[
        float, Publishing(help="Largest share of random sets, and of shuffled labels, that do as much.")
    ] = Thresholds.max_p,
    max_cost: Annotated[
        float, Publishing(help="Largest perplexity ratio of other text under the control.")
    ] = Thresholds.max_cost,
    skip_bad: SkipBad = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Find the neurons that carry a concept and write a neuron set."""
    check_file(out, "tense.safetensors")
    if corpus is None and store is None:
        raise BadInput("there is nothing to learn from", hint="give --corpus, or --store with extracted activations")
    if experts is not None and method != "expert-units":
        raise BadInput(f"--experts {experts}: {method} has no expert units", hint="use --method expert-units")
    if store is not None and ctx.obj is not None:
        raise BadInput("--store: a job has no pass over the corpus to share then", hint="run neurodial discover")
    if publish is not None and evidence == "none":
        raise BadInput("--publish needs evidence", hint="leave --evidence none out")
    destination = None if publish is None else Destination.of(publish, key_env, publish_as, publish_model)
    params = method_params(param)
    if method is not None:
        check_slug(method, "ranking", "causal")

    from neurodial.interpret.activations.store import ActivationStore
    from neurodial.interpret.corpora.readers import open_corpus
    from neurodial.interpret.discovery.discover import Discovery, discover
    from neurodial.interpret.discovery.tuning import TuningSettings
    from neurodial.interpret.methods.registry import make_ranker
    from neurodial.interpret.rankings.expert_units_file import Watcher

    stored = ActivationStore.open(store) if store else None
    opened = stored.opened_corpus() if stored and not corpus else open_corpus(str(corpus), skip_bad=skip_bad)
    method = method or ("mean-difference" if opened.paired else "probeless")
    make_ranker(method, **params)  # refused before anything slow happens
    elsewhere = open_corpus(other, skip_bad=skip_bad) if other else None
    loaded = load(model, device, dtype)
    if stored is not None:
        stored.check(loaded, opened)
    watcher = Watcher(loaded, concept) if experts is not None else None
    job = Discovery(
        concept=concept, method=method, params=params, sites=tuple(site or ()), top=top, seed=seed, examples=examples,
        decoder=decoder, words=words, sentences=sentences, ridge=ridge, op=op, strength=strength, evidence=evidence,
        tuning=TuningSettings(steps=tune) if tune else None,
    )  # fmt: skip
    workers = executor(ctx, model, loaded, device, dtype)
    found = discover(loaded, opened, job, other=elsewhere, store=stored, watch=watcher, executor=workers)
    with writing(f"--out {out}"):
        found.save(out)
        if watcher is not None and experts is not None:
            watcher.table().save(experts)
    sent = None
    if destination is not None:
        thresholds = Thresholds(min_gain, min_selectivity, min_significant, min_effect, min_selection, max_p, max_cost)
        sent = _published(found, out, destination, thresholds)
    _report(found, opened, out, sent, as_json)


def _published(
    found: "NeuronSet", out: Path, destination: Destination, thresholds: Thresholds
) -> tuple[int, dict[str, Any]]:
    """What the server answers.

    Raises:
        NeurodialError: if the evidence does not suffice; the set stays where it was written.
    """
    if lacking := shortfalls(found.evidence, thresholds):
        raise NeurodialError(
            f"not published: {'; '.join(lacking)}",
            hint=f"{out} holds the set and its evidence; neurodial publish publishes it all the same",
        )
    return destination.send(out.read_bytes())


def _report(
    found: "NeuronSet", corpus: "Corpus", out: Path, sent: tuple[int, dict[str, Any]] | None, as_json: bool
) -> None:
    if as_json:
        print_json(
            {
                "path": str(out),
                "digest": found.digest,
                "concept": found.concept,
                "labels": list(found.labels),
                "neurons": found.num_neurons,
                "sites": {str(s.site): len(s.indices) for s in found.sites},
                "skipped_rows": corpus.num_problems,
                "left_out": found.provenance["corpus"].get("left_out", {}),
                "evidence": found.evidence,
                "published": None if sent is None else sent[1],
            }
        )
        return
    for problem in corpus.problems:
        say(f"skipped: {problem}")
    if corpus.num_problems > len(corpus.problems):
        say(f"skipped: {corpus.num_problems - len(corpus.problems):,} more rows")

    from neurodial.deploy.cli.rendering.neuron_set import print_set

    print_set(found, top=10)
    asked = found.provenance["settings"]["top"]
    if found.num_neurons < asked:
        say(f"--top {asked}: the sites have no more than {found.num_neurons} neurons, all of them are in the set")
    typer.echo(f"wrote {out} ({found.short})")
    for line in published_lines(*sent) if sent is not None else ():
        typer.echo(line)
