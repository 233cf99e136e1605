"""The ranking file: neurons and heads with their scores, as CSV that people and other tools can write too.

    # neurodial ranking 1; model en-es; fingerprint sha256:…
    address,score
    decoder.2.ffn[17],0.53
    decoder.0.attn.head[3],0.41

Addresses are those of controls, by original number; one of several neurons gives all of them its score. The sign of a
score is that of a direction and does not matter: the larger its size, the more the neuron matters. The first line may
be missing; where it names a fingerprint, the ranking is refused on another model.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurodial.control.addresses import Neurons, Site
from neurodial.control.artifacts.files import write_atomically
from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.errors import AddressError, BadInput, NeurodialError
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.rankings.expert_units_file import Experts, is_table
from neurodial.interpret.rankings.salience import Scores, magnitude, per_unit

Array = np.ndarray[Any, Any]
COLUMNS = ["address", "score"]
_HEAD = re.compile(r"# neurodial ranking 1; model (?P<model>.*); fingerprint (?P<fingerprint>sha256:[0-9a-f]+)")
_HINT = "a ranking is a CSV file with the columns address and score, such as decoder.2.ffn[17],0.53"


@dataclass(frozen=True)
class Ranking:
    """Addresses with scores.

    Attributes:
        name: of the file or set, for people.
        rows: (address, score), in any order.
        model_name: of the model it was made for; "" where the file does not say.
        fingerprint: of that model; "" where the file does not say.
    """

    name: str
    rows: tuple[tuple[str, float], ...]
    model_name: str = ""
    fingerprint: str = ""

    @classmethod
    def of_set(cls, found: NeuronSet) -> "Ranking":
        """The neurons of a set with their scores."""
        rows = tuple((address, score) for address, score, _ in found.ranked())
        return cls(found.short, rows, found.model_name, found.fingerprint)

    @classmethod
    def of_scores(cls, loaded: LoadedModel, scores: Scores, name: str) -> "Ranking":
        """All neurons and heads of some sites of a model, best first."""
        rows: list[tuple[str, float]] = []
        for site, values in scores.items():
            size = loaded.sites.info(site).head_dim or 1
            numbers = loaded.original(site, range(0, len(values) * size, size))
            head = ".head" if loaded.sites.info(site).head_dim else ""
            rows += [(f"{site}{head}[{n // size}]", float(v)) for n, v in zip(numbers, values, strict=True)]
        rows.sort(key=lambda row: -abs(row[1]))
        origin = loaded.fingerprint
        return cls(name, tuple(rows), loaded.name, origin)

    @classmethod
    def load(cls, path: str | Path, loaded: LoadedModel | None = None) -> "Ranking":
        """Reads a ranking file, or takes a neuron set (`.safetensors`) or a table of expert units (`.csv`) as one.

        Args:
            path: the file.
            loaded: the model, whose modules a table of expert units (`expert_units_file`) names; without it such a
                table is only checked, and gives no rows.

        Raises:
            BadInput: naming the line that is wrong.
        """
        path = Path(path)
        if path.suffix == ".safetensors":
            return cls.of_set(NeuronSet.load(path))
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise BadInput(f"{path}: there is no such ranking", hint=_HINT) from None
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{path}: cannot be read ({error})", hint=_HINT) from None
        if lines and is_table(lines[0]):
            table = Experts.load(path)
            return cls(path.name, tuple(table.addresses(loaded)) if loaded else ())
        head = _HEAD.fullmatch(lines[0]) if lines else None
        rows = tuple(_rows(path, lines))
        return cls(path.name, rows, head["model"] if head else "", head["fingerprint"] if head else "")

    def check_model(self, loaded: LoadedModel, remedy: str = "rank this model's neurons") -> None:
        """Refuses a model that the ranking was not made for, where it says for which.

        Raises:
            FingerprintError: if it is of another model.
        """
        if self.fingerprint:
            what = f"the ranking {self.name} was made for {self.model_name}"
            loaded.check_origin(self.fingerprint, what=what, remedy=remedy)

    def neurons(self, loaded: LoadedModel, address: str) -> tuple[int, ...]:
        """The original numbers that an address names.

        Raises:
            BadInput: if the model never had them.
        """
        site = Neurons.site_of(address)
        try:
            head_dim = loaded.sites.info(site).head_dim
            return Neurons.parse(address, width=loaded.original_width(site), head_dim=head_dim).indices
        except NeurodialError as error:
            raise BadInput(
                f"the ranking {self.name} does not fit {loaded.name}: {error.message}", hint="is it of another model?"
            ) from None

    def save(self, path: str | Path) -> None:
        """Writes the file, atomically."""
        content = io.StringIO()
        if self.fingerprint:
            content.write(f"# neurodial ranking 1; model {self.model_name}; fingerprint {self.fingerprint}\n")
        writer = csv.writer(content, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((address, repr(score)) for address, score in self.rows)
        write_atomically(Path(path), content.getvalue().encode())


def _rows(path: Path, lines: Sequence[str]) -> Iterable[tuple[str, float]]:
    """Address and score of every row; lines that begin with # are skipped."""
    seen: dict[str, int] = {}
    header = False
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        here, cells = f"{path}:{number}", [cell.strip() for cell in next(csv.reader([line]))]
        if not header:
            if cells != COLUMNS:
                raise BadInput(f"{here}: the header is not address,score", hint=_HINT)
            header = True
            continue
        if len(cells) != len(COLUMNS):
            raise BadInput(f"{here}: {len(cells)} columns instead of {len(COLUMNS)}", hint=_HINT)
        address, score = cells[0], _score(here, cells[1])
        if address in seen:
            raise BadInput(f"{here}: {address} stands in line {seen[address]} already")
        seen[address] = number
        try:
            Neurons.site_of(address)
        except AddressError as error:
            raise BadInput(f"{here}: {error.message}", hint=error.hint) from None
        yield address, score
    if not seen:
        raise BadInput(f"{path}: it ranks nothing", hint=_HINT)


def _score(here: str, text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        raise BadInput(f"{here}: {text!r} is not a number", hint=_HINT) from None
    if not math.isfinite(score):
        raise BadInput(f"{here}: the score {text} is not finite")
    return score


@dataclass(frozen=True)
class Ranked:
    """A ranking applied to a model.

    Attributes:
        scores: site → (neurons,) or (heads,).
        named: units of the sites that the ranking names; the others come after them, ordered by magnitude.
        total: units of the sites.
    """

    scores: Scores
    named: int
    total: int


def rank_by(loaded: LoadedModel, ranking: Ranking, sites: Sequence[Site]) -> Ranked:
    """Scores of a model's neurons and heads by a ranking.

    Those that it names are kept first, by the size of their scores; the others come after them, by magnitude.

    Raises:
        FingerprintError: for a ranking of another model.
        BadInput: if it names a neuron that the model never had, or none of the sites.
    """
    ranking.check_model(loaded)
    values: dict[Site, dict[int, float]] = {site: {} for site in sites}
    for address, score in ranking.rows:
        site = Neurons.site_of(address)
        if site in values:
            neurons = ranking.neurons(loaded, address)
            share = abs(score) / (len(neurons) if ".head[" in address else 1)
            values[site] |= dict.fromkeys(neurons, share)
    if not any(values.values()):
        kinds = ", ".join(sorted({site.kind for site in sites}))
        raise BadInput(
            f"the ranking {ranking.name} names no neuron of the sites to prune ({kinds})",
            hint="rank FFN neurons or heads, or prune what it names with --what",
        )
    scores = {site: _filled(loaded, site, found) for site, found in values.items()}
    named = sum(int((s >= 0).sum()) for s in scores.values())
    return Ranked(scores, named, sum(len(s) for s in scores.values()))


def _filled(loaded: LoadedModel, site: Site, found: dict[int, float]) -> Array:
    """Scores in the order of the model's tensors; what is not named lies below zero, by magnitude."""
    info = loaded.sites.info(site)
    numbers = loaded.original(site, range(info.width))
    named = per_unit(info, np.array([n in found for n in numbers], dtype=np.float64)) > 0
    scores = per_unit(info, np.array([found.get(n, 0.0) for n in numbers]))
    sizes = magnitude(loaded, site)
    lowest: Array = np.where(named, scores, sizes / max(float(sizes.max()), 1e-30) - 2.0)
    return lowest
