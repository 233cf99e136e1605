"""The activation store: a corpus's activations on disk, written once and read instead of running the model again.

A folder with a manifest (`store.json`) and parts (`part-000000.safetensors`, some tens of megabytes each). The
manifest says what the store belongs to: the model's fingerprint, the corpus's digest and every setting that decides a
value. It is replaced after each window of examples, and names the parts that belong to the windows that are done; a
part that it does not name is left over from a run that was stopped, and is removed when extraction goes on. A stop at
any moment therefore costs one window at most, and nothing half-written is ever read.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from neurodial.control.addresses import Site, Stack
from neurodial.control.artifacts.files import write_atomically
from neurodial.control.errors import FingerprintError, StoreError
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.blocks import COLUMNS, Block, Level
from neurodial.interpret.activations.extract import Extraction
from neurodial.interpret.activations.left_out import LeftOut
from neurodial.interpret.corpora.corpus import Corpus, Example

Array = np.ndarray[Any, Any]
FORMAT_VERSION = 1
MANIFEST = "store.json"
CORPUS_FIELDS = ("name", "labels", "size", "counts", "digest", "paired", "parallel", "word_labels", "num_problems")


@dataclass(frozen=True)
class ActivationStore:
    """A folder of activations.

    Attributes:
        folder: where it lies.
        model: name and fingerprint of the model.
        corpus: what is known of the corpus, without its texts.
        settings: what decides the values: sites, levels, aggregation, tokens, dtypes.
        parts: file → (stack, level, rows) of each part, in the order of extraction.
        examples: how many of the corpus's examples are done.
        windows: how many windows of examples they are.
        left_out: what of these examples has no rows.
    """

    folder: Path
    model: dict[str, str]
    corpus: dict[str, Any]
    settings: dict[str, Any]
    parts: dict[str, tuple[Stack, Level, int]] = field(default_factory=dict)
    examples: int = 0
    windows: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)

    @classmethod
    def open(cls, folder: str | Path) -> "ActivationStore":
        """Reads a manifest.

        Raises:
            StoreError: if there is none, or it is damaged or of another version.
        """
        folder = Path(folder)
        try:
            document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            version = document.pop("format_version")
            if version != FORMAT_VERSION:
                raise StoreError(f"{folder}: version {version} of the format is not known here", hint="upgrade")
            parts = {name: (stack, level, int(rows)) for name, (stack, level, rows) in document.pop("parts").items()}
            left_out = LeftOut(**document.pop("left_out", {}))
            return cls(folder, parts=parts, left_out=left_out, **document)
        except FileNotFoundError:
            raise StoreError(
                f"{folder}: there is no activation store", hint="neurodial extract MODEL CORPUS --out FOLDER makes one"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{folder / MANIFEST}: not a readable manifest ({error})") from error

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that are stored."""
        return tuple(Site.parse(name) for name in self.settings["sites"])

    @property
    def levels(self) -> tuple[Level, ...]:
        """The kinds of rows that are stored."""
        return tuple(self.settings["levels"])

    @property
    def rows(self) -> dict[str, int]:
        """`stack level` → number of rows."""
        counts: dict[str, int] = {}
        for stack, level, rows in self.parts.values():
            counts[f"{stack} {level}"] = counts.get(f"{stack} {level}", 0) + rows
        return counts

    @property
    def complete(self) -> bool:
        """Whether the whole corpus is in it."""
        return self.examples == int(self.corpus["size"])

    def opened_corpus(self) -> Corpus:
        """The corpus as far as it is known here: everything but its texts."""

        def read() -> Iterator[Example]:
            raise StoreError(
                f"{self.folder}: a store holds activations and no texts", hint="name the corpus too (--corpus)"
            )

        known = {name: self.corpus[name] for name in CORPUS_FIELDS} | {"labels": tuple(self.corpus["labels"])}
        return Corpus(**known, read=read)

    def check(self, loaded: LoadedModel, corpus: Corpus | None = None) -> None:
        """Refuses a store of another model or corpus, and one that is not finished.

        Raises:
            FingerprintError: for another model.
            StoreError: for another corpus, or a store that is not complete.
        """
        if self.model["fingerprint"] != loaded.fingerprint:
            raise FingerprintError(
                f"{self.folder}: the activations are of {self.model['name']} ({self.model['fingerprint'][:19]}…), not "
                f"of this model ({loaded.fingerprint[:19]}…)",
                hint="extract this model's activations into another folder",
            )
        if corpus is not None and corpus.digest != self.corpus["digest"]:
            raise StoreError(
                f"{self.folder}: the activations are of the corpus {self.corpus['name']}, not of {corpus.name}",
                hint="leave --corpus out, or extract this corpus into another folder",
            )
        if not self.complete:
            raise StoreError(
                f"{self.folder}: only {self.examples:,} of {self.corpus['size']:,} examples are extracted",
                hint="run neurodial extract again with the same settings: it goes on where it stopped",
            )

    def check_plan(self, plan: Extraction) -> None:
        """Refuses settings that the activations were not extracted with.

        Raises:
            StoreError: naming the setting.
        """
        names = ("words" if "word" in plan.levels else "sentences", "decoder")
        for name in names if self.settings["origin"] == "model" else ():
            if getattr(plan, name) != self.settings[name]:
                raise StoreError(
                    f"{self.folder}: it was extracted with {name}={self.settings[name]}, not {getattr(plan, name)}",
                    hint=f"discover with --{name} {self.settings[name]}",
                )

    def blocks(self, sites: tuple[Site, ...] = (), levels: tuple[Level, ...] = ()) -> Iterator[Block]:
        """The stored rows, part by part in float32: what `activations.extract` yields, in larger blocks.

        Args:
            sites: which; by default all. Only their values are read from the disk.
            levels: which kinds of rows; by default all.

        Raises:
            StoreError: for a site or level that is not stored, or a part that is missing or damaged.
        """
        for kind, wanted, stored in (("site", sites, self.sites), ("level", levels, self.levels)):
            if missing := [str(one) for one in wanted if one not in stored]:
                raise StoreError(
                    f"{self.folder}: the {kind} {missing[0]} is not stored, but {', '.join(map(str, stored))}",
                    hint="extract it into another folder",
                )
        for name, (stack, level, _) in self.parts.items():
            here = tuple(site for site in sites or self.sites if site.stack == stack)
            if here and level in (levels or self.levels):
                yield self._part(name, stack, level, here)

    def _part(self, name: str, stack: Stack, level: Level, sites: tuple[Site, ...]) -> Block:
        try:
            with safe_open(self.folder / name, framework="numpy") as file:
                columns = {column: file.get_tensor(column) for column in COLUMNS}
                values = {site: file.get_tensor(str(site)).astype(np.float32) for site in sites}
        except (SafetensorError, OSError) as error:
            raise StoreError(
                f"{self.folder / name}: not a readable part ({error})", hint="extract into a new folder"
            ) from error
        if level == "sentence" and not columns["types"].any():  # as they were stored once
            columns["types"] = columns["examples"]
        return Block(stack, level, values=values, **columns)

    def save(self) -> None:
        """Writes the manifest, atomically."""
        document = {
            name: getattr(self, name) for name in ("model", "corpus", "settings", "parts", "examples", "windows")
        }
        document |= {"format_version": FORMAT_VERSION, "left_out": self.left_out.report()}
        text = json.dumps(document, ensure_ascii=False, indent=1)
        write_atomically(self.folder / MANIFEST, text.encode())
