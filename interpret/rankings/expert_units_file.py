"""The table of expert units as the tool of Suau et al. (2020) writes and reads it, a CSV file with a row for each unit.

| Column | What |
|---|---|
| `ap` | average precision of high values as a detector of the concept |
| `off_mean`, `on_p50`, `on_p90` | mean off the concept, median and 90th percentile on it; may be missing |
| `layer`, `unit` | where: a site of ours, or a module of the model with `:0` behind it, and the number there |
| `uuid`, `concept`, `group` | number of the row, the concept and the group that it belongs to |

The tool's own layers are outputs of modules. One that is a site of ours, or whose outputs become the hidden units of an
FFN one by one, can be taken over; the values in a row of the latter are from before the non-linearity. `ap` knows no
direction: a unit that is low on the concept has one below the concept's prevalence, while our ranking finds it too.
"""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurodial.control.addresses import Site
from neurodial.control.artifacts.files import write_atomically
from neurodial.control.errors import BadInput
from neurodial.control.models.architectures import FfnRow
from neurodial.control.models.cutting import row_of
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.methods.contracts import RankingMethod
from neurodial.interpret.methods.ranking.expert_units import ExpertUnits

Array = np.ndarray[Any, Any]
VALUES = ("off_mean", "on_p50", "on_p90")
COLUMNS = ("ap", *VALUES, "layer", "unit", "uuid", "concept", "group")
WITHOUT_VALUES = tuple(name for name in COLUMNS if name not in VALUES)
GROUP = "neurodial"
HINT = f"a table of expert units has the columns {', '.join(COLUMNS)}"


@dataclass(frozen=True)
class Experts:
    """Expert units of one concept.

    Attributes:
        concept: its name.
        group: of concepts.
        layers: (units,) site, or module with `:0`.
        units: (units,) number in the layer.
        ap: (units,) average precision.
        values: `off_mean`, `on_p50`, `on_p90` → (units,); empty where they are not known.
    """

    concept: str
    group: str
    layers: tuple[str, ...]
    units: Array
    ap: Array
    values: dict[str, Array]

    @classmethod
    def of_method(cls, method: ExpertUnits, layers: Sequence[str], units: Sequence[int], concept: str) -> "Experts":
        """The table of a fitted method; of several concepts the last one.

        Args:
            method: fitted.
            layers: (units,).
            units: (units,).
            concept: its name.
        """
        values = {"off_mean": method.off_mean_[-1], "on_p50": method.on_p50_[-1], "on_p90": method.on_p90_[-1]}
        return cls(concept, GROUP, tuple(layers), np.asarray(units), method.high_ap_[-1], values)

    @classmethod
    def load(cls, path: str | Path) -> "Experts":
        """Reads a table.

        Raises:
            BadInput: naming the line that is wrong.
        """
        path = Path(path)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{path}: cannot be read ({error})", hint=HINT) from None
        if not lines or not is_table(lines[0]):
            raise BadInput(f"{path}:1: the header is not that of a table of expert units", hint=HINT)
        names = next(csv.reader([lines[0]]))
        rows = list(_rows(path, names, lines[1:]))
        if not rows:
            raise BadInput(f"{path}: there is no unit in it", hint=HINT)
        known = [name for name in VALUES if name in names]
        return cls(
            concept=rows[0]["concept"],
            group=rows[0]["group"],
            layers=tuple(row["layer"] for row in rows),
            units=np.array([int(row["unit"]) for row in rows]),
            ap=np.array([float(row["ap"]) for row in rows]),
            values={name: np.array([float(row[name]) for row in rows]) for name in known},
        )

    def save(self, path: str | Path) -> None:
        """Writes the table, atomically; numbers in single precision, as the tool writes them."""
        content = io.StringIO()
        writer = csv.writer(content, lineterminator="\n")
        known = [name for name in VALUES if name in self.values]
        writer.writerow([name for name in COLUMNS if name not in VALUES or name in known])
        ap, units = self.ap.astype(np.float32), self.units.tolist()
        single = {name: self.values[name].astype(np.float32) for name in known}
        for row, layer in enumerate(self.layers):
            numbers = [str(ap[row]), *(str(single[name][row]) for name in known)]
            writer.writerow([*numbers, layer, units[row], row, self.concept, self.group])
        write_atomically(Path(path), content.getvalue().encode())

    def addresses(self, loaded: LoadedModel) -> list[tuple[str, float]]:
        """(address, average precision) of the units that are neurons of a model, best first.

        Raises:
            BadInput: if none of them is, or a number is beyond its layer.
        """
        sites = {layer: _site(loaded, layer) for layer in dict.fromkeys(self.layers)}
        best: dict[str, float] = {}  # a gated FFN has two layers for each hidden unit
        for layer, unit, ap in zip(self.layers, self.units.tolist(), self.ap.tolist(), strict=True):
            site = sites[layer]
            if site is None:
                continue
            if not 0 <= unit < loaded.sites.info(site).width:
                raise BadInput(f"{layer} has no unit {unit}: {site} is {loaded.sites.info(site).width} neurons wide")
            address = f"{site}[{loaded.original(site, [unit])[0]}]"
            best[address] = max(ap, best.get(address, ap))
        if not best:
            raise BadInput(
                f"none of the layers is a site of {loaded.name}: {', '.join(list(sites)[:3])}",
                hint="their outputs must be sites or hidden units of an FFN",
            )
        return sorted(best.items(), key=lambda row: -row[1])


class Watcher:
    """Keeps the table while `interpret.discovery.discover` ranks the sites of one stack after the other."""

    def __init__(self, loaded: LoadedModel, concept: str) -> None:
        self._loaded = loaded
        self._concept = concept
        self._parts: list[Experts] = []

    def __call__(self, method: RankingMethod, sites: tuple[Site, ...]) -> None:
        """Takes a fitted method."""
        if isinstance(method, ExpertUnits):
            names = [(str(site), n) for site in sites for n in self._numbers(site)]
            layers, units = [name for name, _ in names], [number for _, number in names]
            self._parts.append(Experts.of_method(method, layers, units, self._concept))

    def _numbers(self, site: Site) -> tuple[int, ...]:
        return self._loaded.original(site, range(self._loaded.sites.info(site).width))

    def table(self) -> Experts:
        """All units."""
        parts = self._parts
        return Experts(
            self._concept,
            GROUP,
            tuple(layer for part in parts for layer in part.layers),
            np.concatenate([part.units for part in parts]),
            np.concatenate([part.ap for part in parts]),
            {name: np.concatenate([part.values[name] for part in parts]) for name in VALUES},
        )


def is_table(header: str) -> bool:
    """Whether a first line is that of a table of expert units."""
    names = next(csv.reader([header]), [])
    return set(WITHOUT_VALUES) <= set(names) <= set(COLUMNS)


def _rows(path: Path, names: list[str], lines: list[str]) -> Iterator[dict[str, str]]:
    numbers = ["ap", *(name for name in VALUES if name in names)]
    for number, cells in enumerate(csv.reader(lines), start=2):
        where = f"{path}:{number}"
        if len(cells) != len(names):
            raise BadInput(f"{where}: {len(cells)} columns instead of {len(names)}", hint=HINT)
        row = dict(zip(names, cells, strict=True))
        for name in numbers:
            if not _finite(row[name]):
                raise BadInput(f"{where}: {name} is {row[name]!r}, not a number")
        if not row["unit"].isdecimal():
            raise BadInput(f"{where}: the unit {row['unit']!r} is not a number")
        yield row


def _finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _site(loaded: LoadedModel, layer: str) -> Site | None:
    """The site that a layer's outputs are, or whose hidden units they become; None if there is none."""
    for site, info in loaded.sites.sites.items():
        if layer == str(site) or (info.side == "output" and layer == f"{info.path}:0"):
            return site
    for site in loaded.sites.sites:
        if site.kind != "ffn":
            continue
        place, row = row_of(loaded.sites, site)
        if isinstance(row, FfnRow) and not row.fused and any(layer == f"{place.path}.{path}:0" for path in row.into):
            return site
    return None
