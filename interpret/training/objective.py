"""What training minimises: cross-entropy of the text, and closeness to a teacher.

loss = ce · CE + kl · T² KL(teacher ‖ model) + hidden · mean over layers of ‖h − h_teacher‖² / ‖h_teacher − mean‖²

CE and KL are means over the predicted tokens (`activations.losses` says which those are), with the teacher forced on
the same tokens (Hinton et al. 2015, arXiv 1503.02531). The last term is over real tokens of every residual stream.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.module import _IncompatibleKeys

from neurodial.control.errors import BadInput, ModelError
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.losses import IGNORED, LossBatch
from neurodial.interpret.training.settings import Settings

HIDDEN = {"encoder": "encoder_hidden_states", "decoder": "decoder_hidden_states"}


class Objective(nn.Module):
    """A model with its loss, as transformers' `Trainer` wants it.

    Its state is that of the parameters which are trained, each once: what is frozen or tied needs no checkpoint.

    Args:
        model: is trained in place.
        family: of the model.
        settings: of the loss.
        teacher: of the same vocabulary, and for `hidden` of the same layers; it is never trained.
    """

    _keys_to_ignore_on_save = None  # asked for by the Trainer

    def __init__(self, model: nn.Module, family: str, settings: Settings, teacher: LoadedModel | None) -> None:
        super().__init__()
        self.model = model
        self._family, self._settings = family, settings
        self._teacher = (teacher,)  # in a tuple, for it must not become a part of this module

    def train(self, mode: bool = True) -> "Objective":
        """Dropout is on only where the settings want it."""
        return super().train(mode and self._settings.dropout)

    def forward(self, batch: LossBatch) -> dict[str, torch.Tensor]:
        """`loss`, a mean over the predicted tokens of a batch, and how many `tokens` those are."""
        settings, teacher = self._settings, self._teacher[0]
        predicted = batch.labels != IGNORED
        outputs = self._run(self.model, batch)
        logits, wanted = _logits(outputs, predicted), batch.labels[predicted]
        own = logits.log_softmax(dim=-1)  # the largest product: worked out once for both losses
        loss = settings.ce * functional.nll_loss(own, wanted)
        if settings.label_smoothing:
            even = -own.mean(dim=-1).mean()
            loss = (1 - settings.label_smoothing) * loss + settings.ce * settings.label_smoothing * even
        if teacher is not None:
            with torch.no_grad():
                taught = self._run(teacher.model, batch)
                other = _logits(taught, predicted)
            if settings.kl:
                shown = own if settings.temperature == 1 else (logits / settings.temperature).log_softmax(dim=-1)
                loss = loss + settings.kl * _divergence(shown, other, settings.temperature)
            if settings.hidden:
                loss = loss + settings.hidden * self._distance(outputs, taught, batch)
        return {"loss": loss, "tokens": predicted.sum()}

    def _run(self, model: Any, batch: LossBatch) -> Any:
        uncached = {"use_cache": False} if self._family != "encoder-only" else {}
        return model(**batch.inputs, **uncached, output_hidden_states=self._settings.hidden > 0)

    def _distance(self, outputs: Any, taught: Any, batch: LossBatch) -> torch.Tensor:
        """Mean over all residual streams of the squared distance as a share of the teacher's variance."""
        parts = []
        for stack, mask in batch.masks.items():
            name = HIDDEN[stack] if self._family == "encoder-decoder" else "hidden_states"
            for own, other in zip(getattr(outputs, name), getattr(taught, name), strict=True):
                x, y = own[mask].float(), other[mask].float()
                parts.append((x - y).square().sum() / (y - y.mean(dim=0)).square().sum().clamp(min=1e-6))
        return torch.stack(parts).mean()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The trained parameters by name."""
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Puts back what `state_dict` gave."""
        own = self.state_dict()
        for name, value in state.items():
            if name in own:
                own[name].copy_(value)
        missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        return _IncompatibleKeys(missing, unexpected)


def _logits(outputs: Any, predicted: torch.Tensor) -> torch.Tensor:
    logits = getattr(outputs, "logits", None)
    if logits is None or logits.shape[:2] != predicted.shape:
        raise ModelError("a model without a language-model head has nothing to be trained on")
    chosen: torch.Tensor = logits[predicted].float()
    return chosen


def _divergence(own: torch.Tensor, other: torch.Tensor, temperature: float) -> torch.Tensor:
    """T² KL(other ‖ own), the mean over tokens: of log-probabilities at T, and of (tokens, vocabulary) logits."""
    taught = (other / temperature).log_softmax(dim=-1)
    return functional.kl_div(own, taught, reduction="batchmean", log_target=True) * temperature**2


def check_teacher(loaded: LoadedModel, teacher: LoadedModel | None, settings: Settings) -> None:
    """Refuses a teacher that does not fit the model.

    Raises:
        BadInput: if the vocabularies, or for `hidden` the layers, differ.
    """
    if teacher is None:
        return
    embeddings: list[Any] = [m.model.get_input_embeddings() for m in (loaded, teacher)]
    sizes = [embedding.weight.shape for embedding in embeddings]
    if loaded.family != teacher.family or sizes[0][0] != sizes[1][0]:
        raise BadInput(
            f"{teacher.name} cannot teach {loaded.name}: another architecture or vocabulary",
            hint="the teacher must be the model that this one was made from",
        )
    layers = [{stack: len(found) for stack, found in m.sites.layers.items()} for m in (loaded, teacher)]
    if settings.hidden and (layers[0] != layers[1] or sizes[0] != sizes[1]):
        raise BadInput(f"{teacher.name} and {loaded.name} differ in layers or width", hint="set hidden to 0")


def mask_gradients(model: nn.Module, masks: Mapping[str, torch.Tensor]) -> None:
    """Multiplies the gradients of parameters by masks from now on; a parameter whose mask is zero is not trained.

    Where the mask is zero the weights stay bit for bit what they are, for there is no weight decay.

    Args:
        model: whose parameters; tied ones have the name that `named_parameters` gives them.
        masks: name → tensor that broadcasts to the parameter's shape.

    Raises:
        BadInput: for a parameter that does not exist, or a mask that does not fit.
    """
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        if name not in parameters:
            raise BadInput(f"gradient mask {name!r}: the model has no such parameter", hint=_near(name, parameters))
        parameter = parameters[name]
        try:
            fitted = mask.to(parameter).expand_as(parameter)
        except RuntimeError:
            shapes = f"{tuple(mask.shape)} does not fit {tuple(parameter.shape)}"
            raise BadInput(f"gradient mask {name!r}: {shapes}") from None
        if not bool(fitted.any()):
            parameter.requires_grad_(False)
        elif not bool((fitted == 1).all()):
            parameter.register_hook(lambda gradient, fitted=fitted: gradient * fitted)


def _near(name: str, known: Iterable[str]) -> str:
    ending = name.rsplit(".", 2)[-2:]
    return "for example " + next((k for k in known if k.split(".")[-2:] == ending), next(iter(known), "none"))
