"""The explanation job: model + neurons + corpus + method → what the neurons answer to."""

from collections.abc import Sequence
from typing import Any

from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.methods.explanations import ExplanationReport
from neurodial.interpret.methods.observations import Chosen, observe
from neurodial.interpret.methods.registry import make_explanation_method
from neurodial.interpret.methods.responding import ModelNeurons


def explain(
    loaded: LoadedModel,
    corpus: Corpus,
    addresses: Sequence[str],
    method: str = "top-contexts",
    *,
    params: dict[str, Any] | None = None,
    limit: int | None = None,
) -> ExplanationReport:
    """Says what neurons answer to.

    Args:
        loaded: the model.
        corpus: any corpus; a treebank gives methods more to say.
        addresses: of neurons of one stack, such as `encoder.2.ffn[17,902]`.
        method: slug of an explanation method.
        params: its settings.
        limit: read this many examples only.

    Raises:
        AddressError: for neurons that the model has not.
        BadInput: for unknown methods or settings, and for what the method cannot work with.
    """
    made = make_explanation_method(method, **(params or {}))
    if limit is not None and limit < 1:
        raise BadInput(f"limit={limit}: at least one example is needed", param="limit")
    chosen = Chosen.parse(loaded, addresses)
    translates = chosen.sites[0].stack == "decoder" and loaded.family == "encoder-decoder"
    asked = made.needs_model or (made.uses_model and not translates)
    seen = observe(loaded, corpus, chosen, limit=limit)
    made.fit(seen, ModelNeurons(loaded, chosen) if asked else None)
    return ExplanationReport(
        method=method,
        params=made.get_params(),
        model=loaded.name,
        fingerprint=loaded.fingerprint,
        corpus=corpus.name,
        explanations=made.explanations_,
        layout="side by side" if method == "visualization" else "cards",
        left_out=seen.left_out,
    )
