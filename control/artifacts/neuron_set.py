"""The neuron set: a chosen top of a ranking with what is needed to read and to move its neurons. Schema version 1."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurodial.control.addresses import Neurons, Site
from neurodial.control.artifacts.files import Tensors, content_digest, parse_set_file, read_set_file, write_set_file
from neurodial.control.controls import OPERATIONS
from neurodial.control.errors import NeurodialError, NeuronSetError

if TYPE_CHECKING:
    from neurodial.control.models.loading import LoadedModel

SCHEMA_VERSION = 1
NONE_CLASS = "none"

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ReadOut:
    """A linear classifier of positions: the gate of a concept.

    The label of a position is the class with the largest `weights @ x[indices] + bias`.

    Attributes:
        site: where it reads.
        indices: (n,) neurons that it reads.
        weights: (classes, n).
        bias: (classes,).
        classes: `none` first, then labels of the set.
    """

    site: Site
    indices: Array
    weights: Array
    bias: Array
    classes: tuple[str, ...]

    def predict(self, x: Array) -> Array:
        """Class numbers (positions,) of activations (positions, width)."""
        labels: Array = (x[:, self.indices] @ self.weights.T + self.bias).argmax(axis=1)
        return labels


@dataclass(frozen=True)
class AffineMap:
    """x[written] + weight @ (x[read] − center) + offset.

    Attributes:
        read: (r,) neurons of the site that are read.
        weight: (k, r), rows in the order of the set's neurons at the site.
        center: (r,).
        offset: (k,).
    """

    read: Array
    weight: Array
    center: Array
    offset: Array


@dataclass(frozen=True)
class SiteNeurons:
    """The set's neurons at one site, best first.

    Attributes:
        site: the site.
        indices: (k,) neurons.
        scores: (k,) signed scores of the method.
        mean: label → (k,) mean activation where the label holds.
        std: label → (k,) standard deviation there.
        quantiles: label → (q, k) values at `quantile_levels` of the set's metadata.
        overall_mean: (k,) mean over all positions.
        delta: label → (k,) what to add to move a neuron to that label (from paired tokens, where there are pairs).
        maps: label → the map that moves a position to that label.
    """

    site: Site
    indices: Array
    scores: Array
    mean: dict[str, Array]
    std: dict[str, Array]
    overall_mean: Array
    delta: dict[str, Array]
    quantiles: dict[str, Array] = field(default_factory=dict)
    maps: dict[str, AffineMap] = field(default_factory=dict)


@dataclass(frozen=True)
class Recommended:
    """The control that `{"set": NAME, "to": LABEL}` stands for.

    Attributes:
        op: operation.
        where: `concept` or `all`.
        strength: target label → strength.
        top: number of neurons, or None for all of the set.
    """

    op: str
    where: str
    strength: dict[str, float]
    top: int | None = None


@dataclass(frozen=True)
class NeuronSet:
    """A concept's neurons in one model: the artifact that discovery writes and serving reads.

    Attributes:
        concept: such as `tense`.
        labels: the concept's values, such as `present`, `past`.
        model_name: for people.
        fingerprint: of the model it was made for.
        sites: its neurons.
        readouts: its gates, one a site at most.
        recommended: the control to use by default.
        evidence: what shows that these are the right neurons.
        provenance: method and settings, corpus, seed, versions.
        created: time of writing; not part of the digest.
    """

    concept: str
    labels: tuple[str, ...]
    model_name: str
    fingerprint: str
    sites: tuple[SiteNeurons, ...]
    readouts: tuple[ReadOut, ...]
    recommended: Recommended
    evidence: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    created: str = ""

    def __post_init__(self) -> None:
        validate_set(self)

    @cached_property
    def digest(self) -> str:
        """`sha256:` and 64 hexadecimal digits over all tensors and all metadata but the time of writing."""
        return content_digest(self._tensors(), self._metadata())

    @property
    def short(self) -> str:
        """`tense@sha256:ab12…` with twelve digits."""
        return f"{self.concept}@{self.digest[:19]}"

    @property
    def num_neurons(self) -> int:
        """Neurons of all sites together."""
        return sum(len(s.indices) for s in self.sites)

    def ranked(self) -> list[tuple[str, float, dict[str, float]]]:
        """(address, score, label → mean) of every neuron, best first over all sites."""
        rows = [
            (
                str(Neurons(s.site, (int(s.indices[i]),))),
                float(s.scores[i]),
                {label: float(s.mean[label][i]) for label in self.labels},
            )
            for s in self.sites
            for i in range(len(s.indices))
        ]
        return sorted(rows, key=lambda row: -abs(row[1]))

    def top(self, count: int | None) -> list[tuple[SiteNeurons, Array]]:
        """The best `count` neurons: pairs of a site and the places of its chosen neurons in that site's arrays."""
        places = [(-abs(float(s.scores[i])), n, i) for n, s in enumerate(self.sites) for i in range(len(s.indices))]
        chosen = sorted(places)[: count if count is not None else len(places)]
        by_site = [(s, np.array([i for _, m, i in chosen if m == n], dtype=np.int64)) for n, s in enumerate(self.sites)]
        return [(s, chosen_here) for s, chosen_here in by_site if len(chosen_here)]

    def readout_for(self, site: Site) -> ReadOut | None:
        """The read-out nearest to a site among those that a forward pass reaches at it or before."""
        before = [r for r in self.readouts if r.site.stack == site.stack and r.site.order <= site.order]
        return max(before, key=lambda r: r.site.order, default=None)

    def check_model(self, loaded: "LoadedModel", *, allow_changed_weights: bool = False) -> bool:
        """Refuses a model that the set was not made for, nor for an ancestor of it.

        Args:
            loaded: the model.
            allow_changed_weights: take a set of an ancestor even though weights were changed since.

        Returns:
            Whether the set is inherited: made for an ancestor of the model.

        Raises:
            FingerprintError: if the set is of another model, or of one whose weights were changed since.
        """
        return loaded.check_origin(
            self.fingerprint,
            what=f"the neuron set {self.concept!r} was made for {self.model_name}",
            remedy="discover the concept on this model: neurodial discover --model …",
            allow_changed_weights=allow_changed_weights,
        )

    def save(self, path: str | Path) -> None:
        """Writes the set to one safetensors file, atomically."""
        write_set_file(Path(path), self._tensors(), self._metadata())

    @classmethod
    def load(cls, path: str | Path) -> "NeuronSet":
        """Reads a set.

        Raises:
            NeuronSetError: if the file is missing, truncated, foreign, from a newer version or inconsistent.
        """
        return cls._read(*read_set_file(Path(path)), str(path))

    @classmethod
    def parse(cls, content: bytes, name: str = "the neuron set") -> "NeuronSet":
        """Reads a set whose file has been read already; `name` stands for it in messages.

        Raises:
            NeuronSetError: if the content is truncated, foreign, from a newer version or inconsistent.
        """
        return cls._read(*parse_set_file(content, name), name)

    @classmethod
    def _read(cls, tensors: Tensors, metadata: dict[str, Any], name: str) -> "NeuronSet":
        version = metadata.get("schema_version")
        if version != SCHEMA_VERSION:
            raise NeuronSetError(
                f"{name}: schema version {version!r} is not known, this release reads version {SCHEMA_VERSION}",
                hint="upgrade neurodial, or make the set again",
            )
        try:
            return _from_file(tensors, metadata)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise NeuronSetError(f"{name}: not a complete neuron set ({type(error).__name__}: {error})") from error
        except NeurodialError as error:
            raise NeuronSetError(f"{name}: {error.message}", hint=error.hint) from error

    def _metadata(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "concept": self.concept,
            "labels": list(self.labels),
            "model_name": self.model_name,
            "fingerprint": self.fingerprint,
            "sites": [str(s.site) for s in self.sites],
            "readouts": [{"site": str(r.site), "classes": list(r.classes)} for r in self.readouts],
            "recommended": {
                "op": self.recommended.op,
                "where": self.recommended.where,
                "strength": self.recommended.strength,
                "top": self.recommended.top,
            },
            "evidence": self.evidence,
            "provenance": self.provenance,
            "created": self.created,
        }

    def _tensors(self) -> dict[str, Array]:
        tensors: dict[str, Array] = {}
        for s in self.sites:
            here = f"sites/{s.site}"
            tensors |= {
                f"{here}/indices": s.indices,
                f"{here}/scores": s.scores,
                f"{here}/overall_mean": s.overall_mean,
            }
            for name in ("mean", "std", "delta", "quantiles"):
                tensors |= {f"{here}/{name}/{label}": value for label, value in getattr(s, name).items()}
            for label, m in s.maps.items():
                parts = {"read": m.read, "weight": m.weight, "center": m.center, "offset": m.offset}
                tensors |= {f"{here}/map/{label}/{part}": value for part, value in parts.items()}
        for r in self.readouts:
            here = f"readouts/{r.site}"
            tensors |= {f"{here}/indices": r.indices, f"{here}/weights": r.weights, f"{here}/bias": r.bias}
        integers = ("indices", "read")
        return {
            name: np.ascontiguousarray(value, dtype=np.int64 if name.endswith(integers) else np.float32)
            for name, value in tensors.items()
        }


_KINDS = {"concept": str, "model_name": str, "fingerprint": str, "evidence": dict, "provenance": dict, "created": str}


def _from_file(tensors: dict[str, Array], metadata: dict[str, Any]) -> NeuronSet:
    for name, kind in _KINDS.items():
        if not isinstance(metadata[name], kind):
            raise NeuronSetError(f"its {name} is not a {kind.__name__}")
    labels = tuple(metadata["labels"])

    def by_label(prefix: str) -> dict[str, Array]:
        return {label: tensors[f"{prefix}/{label}"] for label in labels if f"{prefix}/{label}" in tensors}

    sites = []
    for name in metadata["sites"]:
        here = f"sites/{name}"
        maps = {
            label: AffineMap(
                *(tensors[f"{here}/map/{label}/{part}"] for part in ("read", "weight", "center", "offset"))
            )
            for label in labels
            if f"{here}/map/{label}/read" in tensors
        }
        sites.append(
            SiteNeurons(
                Site.parse(name),
                tensors[f"{here}/indices"],
                tensors[f"{here}/scores"],
                by_label(f"{here}/mean"),
                by_label(f"{here}/std"),
                tensors[f"{here}/overall_mean"],
                by_label(f"{here}/delta"),
                by_label(f"{here}/quantiles"),
                maps,
            )
        )
    readouts = []
    for r in metadata["readouts"]:
        indices, weights, bias = (tensors[f"readouts/{r['site']}/{part}"] for part in ("indices", "weights", "bias"))
        readouts.append(ReadOut(Site.parse(r["site"]), indices, weights, bias, tuple(r["classes"])))
    return NeuronSet(
        labels=labels,
        sites=tuple(sites),
        readouts=tuple(readouts),
        recommended=Recommended(**metadata["recommended"]),
        **{name: metadata[name] for name in _KINDS},
    )


def validate_set(s: NeuronSet) -> None:
    """Refuses a set whose parts do not fit together.

    Raises:
        NeuronSetError: naming the part.
    """
    if not s.labels or not s.sites:
        raise NeuronSetError(f"the neuron set {s.concept!r} has no labels or no neurons")
    advice = s.recommended
    numbers = [*advice.strength.values(), 1 if advice.top is None else advice.top]
    if advice.op not in OPERATIONS or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise NeuronSetError(f"the neuron set {s.concept!r} recommends what cannot be done: {advice}")
    for here in s.sites:
        k = len(here.indices)
        rows: dict[str, Array] = {"scores": here.scores, "overall_mean": here.overall_mean}
        for name in ("mean", "std", "delta"):
            rows |= {f"{name}/{label}": value for label, value in getattr(here, name).items()}
        rows |= {f"map/{label}/offset": m.offset for label, m in here.maps.items()}
        for name, value in rows.items():
            _check(s, f"{here.site}/{name}", value, (k,))
        for label, m in here.maps.items():
            _check(s, f"{here.site}/map/{label}/weight", m.weight, (k, len(m.read)))
            _check(s, f"{here.site}/map/{label}/center", m.center, (len(m.read),))
        if missing := set(s.labels) - set(here.mean):
            raise NeuronSetError(f"the neuron set {s.concept!r} has no mean for {', '.join(sorted(missing))}")
        if len(set(here.indices.tolist())) != k or (k and here.indices.min() < 0):
            raise NeuronSetError(f"the neuron set {s.concept!r}: {here.site} names a neuron twice or below zero")
    for r in s.readouts:
        _check(s, f"{r.site}/read-out", r.weights, (len(r.classes), len(r.indices)))
        _check(s, f"{r.site}/read-out bias", r.bias, (len(r.classes),))
        if r.classes[:1] != (NONE_CLASS,) or not set(r.classes[1:]) <= set(s.labels):
            raise NeuronSetError(f"the neuron set {s.concept!r}: the read-out's classes are {r.classes}")


def _check(s: NeuronSet, name: str, value: Array, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
        raise NeuronSetError(f"the neuron set {s.concept!r}: {name} has shape {value.shape}, not {shape}")
    if not np.isfinite(value).all():
        raise NeuronSetError(f"the neuron set {s.concept!r}: {name} holds NaN or infinity")
