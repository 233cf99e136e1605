"""Where a checkpoint that Neurodial derived (pruned, baked, adapted) comes from, and which original neurons it keeps.

Addresses always mean the neurons of the original model: on a pruned one the index map leads to the neuron's place in
the smaller matrices, and an address of a neuron that was removed is an error.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurodial.control.addresses import Site, compact_ranges, expand_ranges
from neurodial.control.errors import AddressError, ModelError

FILE_NAME = "neurodial.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class KeptNeurons:
    """What is left of one site.

    Attributes:
        original_width: neurons of the site in the original model.
        indices: the original index of every neuron that is left, in their present order.
    """

    original_width: int
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Lineage:
    """How a derived checkpoint came about.

    Attributes:
        ancestors: fingerprints from the parent to the original model.
        original_name: of the original model, for people.
        steps: what was done to each ancestor, oldest first: `{"kind": "pruned", "weights_changed": false, …settings}`.
        weights_changed: whether weights that are left differ from the original's (baking, adaptation, recovery).
        kept: the sites that lost neurons, in numbers of the original model.
    """

    ancestors: tuple[str, ...]
    original_name: str
    steps: tuple[Mapping[str, Any], ...]
    weights_changed: bool
    kept: Mapping[Site, KeptNeurons] = field(default_factory=dict)

    @classmethod
    def derive(
        cls,
        parent: "Lineage | None",
        *,
        fingerprint: str,
        name: str,
        step: Mapping[str, Any],
        weights_changed: bool,
        kept: Mapping[Site, KeptNeurons] | None = None,
    ) -> "Lineage":
        """The lineage of a child: one step after `parent` (None where the parent is an original).

        Args:
            parent: the parent's own lineage.
            fingerprint: the parent's.
            name: the parent's, used where it is the original.
            step: what was done.
            weights_changed: by this step.
            kept: in numbers of the original model; sites that this step left alone keep the parent's entry.
        """
        return cls(
            ancestors=(fingerprint, *(parent.ancestors if parent else ())),
            original_name=parent.original_name if parent else name,
            steps=(*(parent.steps if parent else ()), {**step, "weights_changed": weights_changed}),
            weights_changed=weights_changed or (parent is not None and parent.weights_changed),
            kept={**(parent.kept if parent else {}), **(kept or {})},
        )

    @property
    def is_truncated(self) -> bool:
        """Whether layers or a whole stack were removed, so that no language-model head is left."""
        return any(step.get("kind") == "truncated" for step in self.steps)

    def changed_since(self, ancestor: str) -> bool:
        """Whether weights that are left differ from those of one of the ancestors, given by its fingerprint."""
        later = self.steps[len(self.steps) - 1 - self.ancestors.index(ancestor) :]
        return any(step.get("weights_changed", self.weights_changed) for step in later)

    def physical(self, site: Site, neurons: Sequence[int]) -> tuple[int, ...]:
        """Places in this model of neurons given by their original numbers.

        Raises:
            AddressError: if one was removed, or never existed.
        """
        kept = self.kept.get(site)
        if kept is None:
            return tuple(int(n) for n in neurons)
        places = {original: place for place, original in enumerate(kept.indices)}
        missing = [int(n) for n in neurons if int(n) not in places]
        if missing:
            beyond = [n for n in missing if n >= kept.original_width]
            if beyond:
                raise AddressError(f"{site}: there is no {beyond[0]}, the last one is {kept.original_width - 1}")
            shown = compact_ranges(missing[:20]) + (",…" if len(missing) > 20 else "")
            raise AddressError(
                f"{site}[{shown}] was removed from this pruned model",
                hint=f"it keeps {len(kept.indices)} of the site's {kept.original_width} neurons: neurodial inspect",
            )
        return tuple(places[int(n)] for n in neurons)

    def original(self, site: Site, places: Sequence[int]) -> tuple[int, ...]:
        """Original numbers of this model's neurons, the reverse of `physical`."""
        kept = self.kept.get(site)
        return tuple(int(p) if kept is None else kept.indices[int(p)] for p in places)

    def save(self, folder: Path) -> None:
        """Writes `neurodial.json` beside a checkpoint's weights."""
        document = {
            "format_version": FORMAT_VERSION,
            "ancestors": list(self.ancestors),
            "original_name": self.original_name,
            "steps": [dict(step) for step in self.steps],
            "weights_changed": self.weights_changed,
            "kept": {
                str(site): {"original_width": k.original_width, "neurons": compact_ranges(k.indices)}
                for site, k in self.kept.items()
            },
        }
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Lineage | None":
        """Reads `neurodial.json`; None where there is none.

        Raises:
            ModelError: if the file is damaged or of a newer format.
        """
        file = folder / FILE_NAME
        if not file.is_file():
            return None
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            if document["format_version"] != FORMAT_VERSION:
                raise ModelError(
                    f"{file}: format version {document['format_version']!r} is not known, this release reads "
                    f"version {FORMAT_VERSION}",
                    hint="upgrade neurodial",
                )
            return cls(
                ancestors=tuple(document["ancestors"]),
                original_name=document["original_name"],
                steps=tuple(document["steps"]),
                weights_changed=bool(document["weights_changed"]),
                kept={
                    Site.parse(site): KeptNeurons(int(k["original_width"]), expand_ranges(k["neurons"]))
                    for site, k in document["kept"].items()
                },
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, AddressError) as error:
            raise ModelError(f"{file}: not a readable lineage ({type(error).__name__}: {error})") from error
