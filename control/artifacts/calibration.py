"""The calibration: mean and standard deviation of every neuron of a model over a corpus's tokens. Schema version 1.

Pruning to the mean and limits in standard deviations read it; `neurodial calibrate` makes one for any model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.artifacts.files import CALIBRATION, content_digest, read_set_file, write_set_file
from neurodial.control.errors import AddressError, CalibrationError

if TYPE_CHECKING:
    from neurodial.control.models.loading import LoadedModel

SCHEMA_VERSION = 1
PLAIN = ("model_name", "fingerprint", "corpus", "tokens", "decoder", "versions")  # metadata that is kept as it is

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class SiteStatistics:
    """What the neurons of one site did, by their original numbers.

    Attributes:
        count: tokens seen, padding not among them.
        mean: (original width,) float32; NaN for neurons that the measured (pruned) model had no more.
        std: (original width,) float32 standard deviation (of the population), NaN in the same places.
    """

    count: int
    mean: Array
    std: Array


@dataclass(frozen=True)
class Calibration:
    """Statistics of every neuron of every site of one model.

    Attributes:
        model_name: for people.
        fingerprint: of the model that was measured.
        sites: site → its statistics.
        corpus: name, digest and number of examples of the corpus.
        tokens: `all` of the corpus's tokens, padding left out, or `words`: those that are part of a word, the special
            ones left out.
        decoder: what the decoder of an encoder–decoder was run on: the corpus's target side (`reference`) or the
            model's own greedy output (`own`); None for other models.
        versions: of the packages that made it.
        created: time of writing; not part of the digest.

    Example:
        ```python
        calibration = Calibration.load("deploy/demo/en-es-calibration.safetensors")
        calibration.mean(Site.parse("decoder.1.ffn"))[17]
        ```
    """

    model_name: str
    fingerprint: str
    sites: Mapping[Site, SiteStatistics]
    corpus: Mapping[str, Any]
    tokens: str = "all"
    decoder: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""

    def __post_init__(self) -> None:
        if not self.sites:
            raise CalibrationError("the calibration holds no site")
        for site, found in self.sites.items():
            _check(site, found)

    @cached_property
    def digest(self) -> str:
        """`sha256:` and 64 hexadecimal digits over all tensors and all metadata but the time of writing."""
        return content_digest(self._tensors(), self._metadata())

    def mean(self, site: Site) -> Array:
        """(original width,) means of a site's neurons, NaN for those that were not measured.

        Raises:
            CalibrationError: if the site was not measured.
        """
        return self._site(site).mean

    def std(self, site: Site) -> Array:
        """(original width,) standard deviations of a site's neurons, NaN for those that were not measured.

        Raises:
            CalibrationError: if the site was not measured.
        """
        return self._site(site).std

    def count(self, site: Site) -> int:
        """Tokens that the site's statistics were taken over.

        Raises:
            CalibrationError: if the site was not measured.
        """
        return self._site(site).count

    def check_model(self, loaded: "LoadedModel", *, allow_changed_weights: bool = False) -> bool:
        """Refuses a model that the calibration does not describe.

        Args:
            loaded: the model it is to be used on.
            allow_changed_weights: accept it on a descendant whose weights differ from the measured model's.

        Returns:
            Whether it is inherited: made for a model that this one was derived from.

        Raises:
            FingerprintError: if it was made for a model that is neither this one nor an ancestor of it, or for an
                ancestor whose weights were changed since.
        """
        return loaded.check_origin(
            self.fingerprint,
            what=f"the calibration was made for {self.model_name}",
            remedy="make one for this model: neurodial calibrate --model … --corpus … --out …",
            allow_changed_weights=allow_changed_weights,
        )

    def save(self, path: str | Path) -> None:
        """Writes the calibration to one safetensors file, atomically."""
        write_set_file(Path(path), self._tensors(), self._metadata(), CALIBRATION)

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Reads a calibration.

        Raises:
            CalibrationError: if the file is missing, truncated, foreign, from a newer version or inconsistent.
        """
        tensors, metadata = read_set_file(Path(path), CALIBRATION)
        version = metadata.get("schema_version") if isinstance(metadata, dict) else None
        if version != SCHEMA_VERSION:
            raise CalibrationError(
                f"{path}: schema version {version!r} is not known, this release reads version {SCHEMA_VERSION}",
                hint="upgrade neurodial, or make the calibration again: neurodial calibrate",
            )
        try:
            plain = {name: metadata[name] for name in PLAIN}
            sites = {
                Site.parse(name): SiteStatistics(int(count), tensors[f"{name}/mean"], tensors[f"{name}/std"])
                for name, count in metadata["counts"].items()
            }
            return cls(sites=sites, created=str(metadata["created"]), **plain)
        except (KeyError, TypeError, AttributeError, ValueError, AddressError) as error:
            raise CalibrationError(f"{path}: not a complete calibration ({type(error).__name__}: {error})") from error
        except CalibrationError as error:
            raise CalibrationError(f"{path}: {error.message}", hint=error.hint) from error

    def _site(self, site: Site) -> SiteStatistics:
        if site not in self.sites:
            raise CalibrationError(f"the calibration of {self.model_name} has no statistics of {site}")
        return self.sites[site]

    def _metadata(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "model_name": self.model_name,
            "fingerprint": self.fingerprint,
            "corpus": dict(self.corpus),
            "tokens": self.tokens,
            "decoder": self.decoder,
            "counts": {str(site): found.count for site, found in self.sites.items()},
            "versions": dict(self.versions),
            "created": self.created,
        }

    def _tensors(self) -> dict[str, Array]:
        return {
            f"{site}/{name}": np.ascontiguousarray(getattr(found, name), dtype=np.float32)
            for site, found in self.sites.items()
            for name in ("mean", "std")
        }


def _check(site: Site, found: SiteStatistics) -> None:
    if found.count < 1 or found.mean.ndim != 1 or found.mean.shape != found.std.shape:
        raise CalibrationError(
            f"{site}: {found.count} tokens, means of shape {found.mean.shape} and deviations of shape "
            f"{found.std.shape} do not fit together"
        )
    measured = ~np.isnan(found.mean)
    usable = np.isfinite(found.mean[measured]).all() and np.isfinite(found.std[measured]).all()
    if not usable or not np.isnan(found.std[~measured]).all() or (found.std[measured] < 0).any():
        raise CalibrationError(f"{site}: a mean or a deviation is infinite, below zero or missing")
