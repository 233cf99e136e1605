"""Corpus specs such as `pairs:verbs.tsv?present=now&past=then`, and the tables that most of them name."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from neurodial.control.errors import CorpusError, choices
from neurodial.interpret.corpora.corpus import BadRow, path_name
from neurodial.interpret.corpora.lines import numbered_lines

SPEC_HINT = "write KIND:FILE?OPTIONS, such as pairs:verbs.tsv?present=now&past=then or grammar:tense?count=3000"
RESERVED = ("where", "labels", "text", "label", "source", "target", "count", "seed", "limit")
FILE_OPTIONS = ("list", "patterns")  # options that name another file


@dataclass(frozen=True)
class Spec:
    """A corpus spec, taken apart."""

    kind: str
    place: str
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, kinds: Collection[str]) -> "Spec":
        """Reads `KIND:PLACE?KEY=VALUE&…`; the kind of `.conllu` and `.txt` files may be left out.

        Args:
            text: the spec; `%26` and the like stand for characters with a meaning of their own, a plus for itself.
            kinds: those that there are.

        Raises:
            CorpusError: if the kind is not known or an option is malformed.
        """
        head, _, query = text.partition("?")
        kind, colon, place = head.partition(":")
        if colon and kind.isalpha() and kind not in kinds:
            raise CorpusError(f"{text!r}: there is no kind of corpus {kind!r}", hint=choices(kind, kinds))
        if not colon or kind not in kinds:
            place = head
            name = head.removesuffix(".gz")
            kind = "conllu" if name.endswith(".conllu") else "text" if name.endswith(".txt") else ""
        if not kind or not place:
            raise CorpusError(f"{text!r} does not say what kind of corpus it is", hint=SPEC_HINT)
        items = [item.partition("=") for item in query.split("&") if query]
        if any(not key or not separator for key, separator, _ in items):
            raise CorpusError(f"{text!r}: the options after '?' are not KEY=VALUE&…", hint=SPEC_HINT)
        options = {unquote(key): unquote(value) for key, _, value in items}
        return cls(kind, place, options)

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.place).expanduser()

    @property
    def name(self) -> str:
        """For people and artifacts: without folders of this machine."""
        shown = {k: path_name(Path(v)) if k in FILE_OPTIONS else v for k, v in self.options.items()}
        options = "&".join(f"{k}={v}" for k, v in shown.items())
        place = self.place if self.kind == "grammar" else path_name(self.path)
        return f"{self.kind}:{place}" + (f"?{options}" if options else "")

    @property
    def renamed(self) -> dict[str, str]:
        """Label in the file → label of the concept, in order."""
        items = [item.partition(":") for item in self.options.get("labels", "").split(",") if item]
        return {old.strip(): (new or old).strip() for old, _, new in items}

    @property
    def where(self) -> tuple[str, str] | None:
        """The column and the value that rows must have."""
        if "where" not in self.options:
            return None
        column, separator, value = self.options["where"].partition(":")
        if not separator:
            raise CorpusError(f"where={column!r} is not COLUMN:VALUE", hint="write where=split:train")
        return column, value

    def whole(self, key: str, default: int) -> int:
        """An option that is a whole number."""
        value = self.options.get(key, str(default))
        if not value.isdecimal():
            raise CorpusError(f"{key}={value!r} is not a whole number", hint=SPEC_HINT)
        return int(value)

    def check_options(self, *names: str) -> None:
        """Refuses an option that is none of these.

        Raises:
            CorpusError: naming it.
        """
        if unknown := set(self.options) - set(names):
            raise CorpusError(
                f"{self.name}: {min(unknown)!r} is not an option of {self.kind}",
                hint=choices(min(unknown), names, said="options:"),
            )


def label_columns(spec: Spec) -> dict[str, str]:
    """The options of a spec of pairs that name columns: of each of two labels, and of what belongs to it.

    Raises:
        CorpusError: if there are not two labels.
    """
    columns = {key: value for key, value in spec.options.items() if key not in RESERVED}
    labels = [key for key in columns if not key.endswith(".target")]
    if len(labels) != 2:
        raise CorpusError(
            f"{spec.name}: {'a minimal pair' if spec.kind == 'pairs' else 'a contrast'} has two labels, "
            f"{len(labels)} are given",
            hint=f"name the column of each label: {spec.kind}:FILE?present=COLUMN&past=COLUMN",
        )
    return columns


def table_rows(spec: Spec, needed: list[str], path: Path | None = None) -> Iterator[tuple[str, dict[str, str] | str]]:
    """Rows of the spec's tab-separated file, or of another one, as dictionaries, or what is wrong with them."""
    lines = numbered_lines(path or spec.path)
    where, header = next(lines, (str(path or spec.path), BadRow("", "")))
    if isinstance(header, BadRow):
        raise CorpusError(f"{where}: there is no header line")
    names = header.split("\t")
    condition = spec.where if path is None else None
    for name in [*needed, *([condition[0]] if condition else [])]:
        if name not in names:
            raise CorpusError(f"{where}: there is no column {name!r}", hint=choices(name, names, said="columns:"))
    for where, line in lines:
        if isinstance(line, BadRow):
            yield where, line.message
            continue
        values = line.split("\t")
        row = dict(zip(names, values, strict=False))
        if len(values) != len(names):
            yield where, f"{len(values)} columns instead of {len(names)}"
        elif condition and row[condition[0]] != condition[1]:
            continue
        elif empty := [name for name in needed if not row[name].strip()]:
            yield where, f"the column {empty[0]!r} is empty"
        else:
            yield where, row
