"""What is known about a model, and about one of its neurons: its calibration, and the sets that it belongs to."""

import time
from collections.abc import Sequence as Items

import numpy as np

from neurodial.control.addresses import Neurons, Site
from neurodial.control.artifacts.calibration import Calibration
from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.distilled.head import Head
from neurodial.control.errors import ControlError
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.selecting import select_neurons
from neurodial.service.engine.model.languages import Languages
from neurodial.service.engine.model.prompts import Prompts
from neurodial.service.engine.types import Membership, ModelInfo, NeuronInfo


def describe(
    address: str, loaded: LoadedModel, sets: Items[tuple[str, NeuronSet]], calibration: Calibration | None
) -> NeuronInfo:
    """Describes a neuron.

    Args:
        address: such as `decoder.2.ffn[17]`.
        loaded: the model.
        sets: to look for it in, each with what requests call it.
        calibration: of the model.

    Raises:
        AddressError: if there is no such neuron.
        ControlError: if the address names several.
    """
    found = select_neurons(address, loaded, "address")
    if len(found) != 1 or len(found[0][1]) != 1:
        message = f"address: {address[:80]} names several neurons"
        raise ControlError(message, hint="name one, such as decoder.2.ffn[17]", param="address")
    site, neuron = found[0][0], int(found[0][1][0])
    mean, std, tokens = _measured(calibration, site, neuron)
    memberships = (_membership(name, known, site, neuron) for name, known in sets)
    return NeuronInfo(
        str(Neurons(site, (neuron,))),
        str(site),
        loaded.original_width(site),
        mean,
        std,
        tokens,
        tuple(membership for membership in memberships if membership is not None),
    )


def _measured(
    calibration: Calibration | None, site: Site, neuron: int
) -> tuple[float, float, int] | tuple[None, None, None]:
    known = calibration.sites.get(site) if calibration is not None else None
    if known is None or np.isnan(known.mean[neuron]):
        return None, None, None
    return float(known.mean[neuron]), float(known.std[neuron]), known.count


def _membership(name: str, found: NeuronSet, site: Site, neuron: int) -> Membership | None:
    address = str(Neurons(site, (neuron,)))
    for rank, (ranked, score, means) in enumerate(found.ranked(), 1):
        if ranked == address:
            return Membership(name.partition("@")[0], rank, score, means)
    return None


def model_info(
    loaded: LoadedModel,
    model_id: str,
    max_positions: int,
    prompts: Prompts,
    head: Head | None,
    languages: Languages | None,
) -> ModelInfo:
    """What a server says about a model."""
    model = loaded.model
    return ModelInfo(
        id=model_id,
        architecture=loaded.sites.model_type,
        fingerprint=loaded.fingerprint,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        max_positions=max_positions,
        created=int(time.time()),
        family=loaded.family,
        hidden_size=int(model.config.get_text_config().hidden_size),
        vocab_size=prompts.vocab_size,
        has_chat_template=prompts.has_chat_template,
        classifies=head.level if head else None,
        labels=head.labels if head else (),
        sites={str(site): loaded.original_width(site) for site in loaded.sites.sites},
        languages=tuple(languages.codes) if languages else (),
    )
