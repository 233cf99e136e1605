"""Neuron addresses: `decoder.2.ffn[17,902]`, `encoder.0.resid[0-63]`, `decoder.3.attn.head[5]`, `encoder.embed[*]`.

One control may name several layers: `decoder.*.ffn[*]`, `decoder.0-2.ffn[1,5]`, `encoder.0,3-5.attn.head[0]`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

from neurodial.control.errors import AddressError

Stack = Literal["encoder", "decoder"]
SiteKind = Literal["embed", "attn", "cross", "ffn", "resid"]

KINDS: tuple[SiteKind, ...] = ("embed", "attn", "cross", "ffn", "resid")  # in the order of execution within a layer

_SITE = r"(?P<stack>encoder|decoder)\.(?:(?P<layer>\d+)\.(?P<kind>resid|ffn|attn|cross)|(?P<embed>embed))"
_SITE_PATTERN = re.compile(_SITE)
_ADDRESS_PATTERN = re.compile(_SITE + r"(?P<head>\.head)?\[(?P<selection>[^\]]*)\]")
_LAYERS_PATTERN = re.compile(
    r"(?P<stack>encoder|decoder)\.(?P<layers>\*|[\d,\s-]*[,-][\d,\s-]*)\.(?P<rest>.*)", re.DOTALL
)
_ITEM_PATTERN = re.compile(r"(?P<start>\d+)(?:-(?P<stop>\d+))?")
_HINT = "write STACK.LAYER.SITE[NEURONS], such as decoder.2.ffn[17,902], encoder.0.resid[0-63] or encoder.embed[3]"


@dataclass(frozen=True)
class Site:
    """A place whose output is read and written."""

    stack: Stack
    layer: int | None
    kind: SiteKind

    @classmethod
    def parse(cls, text: str) -> "Site":
        """Reads `encoder.2.resid` or `encoder.embed`.

        Raises:
            AddressError: if the text is not a site.
        """
        match = _SITE_PATTERN.fullmatch(text.strip())
        if match is None:
            raise AddressError(f"{text!r} is not a site", hint="write STACK.LAYER.SITE, such as encoder.2.resid")
        return cls._from(match)

    @classmethod
    def _from(cls, match: re.Match[str]) -> "Site":
        stack = cast(Stack, match["stack"])
        if match["embed"]:
            return cls(stack, None, "embed")
        return cls(stack, int(match["layer"]), cast(SiteKind, match["kind"]))

    @property
    def order(self) -> tuple[int, int]:
        """Sorts the sites of one stack in the order in which a forward pass reaches them."""
        return (-1 if self.layer is None else self.layer, KINDS.index(self.kind))

    def __str__(self) -> str:
        return f"{self.stack}.embed" if self.layer is None else f"{self.stack}.{self.layer}.{self.kind}"


@dataclass(frozen=True)
class Neurons:
    """Some neurons of one site, by index."""

    site: Site
    indices: tuple[int, ...]

    @classmethod
    def parse(cls, text: str, *, width: int | None = None, head_dim: int | None = None) -> "Neurons":
        """Reads an address.

        Args:
            text: such as `decoder.2.ffn[17,902]`; ranges are inclusive, `*` is every neuron of the site.
            width: the site's width; needed for `*`, and checked against where given.
            head_dim: neurons per attention head; needed for `.head[…]`.

        Raises:
            AddressError: if the text is not an address, names a neuron twice or one beyond the width.
        """
        match = _ADDRESS_PATTERN.fullmatch(text.strip())
        if match is None:
            raise AddressError(f"{text!r} is not a neuron address", hint=_HINT)
        site = Site._from(match)
        limit = width
        if match["head"]:
            if site.kind not in ("attn", "cross"):
                raise AddressError(f"{text!r}: only attn and cross have heads", hint=_HINT)
            if head_dim is None:
                raise AddressError(f"{text!r}: the size of a head is not known here")
            limit = width // head_dim if width is not None else None
        chosen = _select(match["selection"], limit, text)
        if match["head"] and head_dim is not None:
            chosen = [neuron for head in chosen for neuron in range(head * head_dim, (head + 1) * head_dim)]
        return cls(site, tuple(chosen))

    @staticmethod
    def site_of(text: str) -> Site:
        """The site of an address, without looking at its neurons.

        Raises:
            AddressError: if the text is not an address.
        """
        match = _ADDRESS_PATTERN.fullmatch(text.strip())
        if match is None:
            raise AddressError(f"{text!r} is not a neuron address", hint=_HINT)
        return Site._from(match)

    def __str__(self) -> str:
        return f"{self.site}[{compact_ranges(self.indices)}]"


def expand_layers(text: str, num_layers: Mapping[Stack, int]) -> list[str]:
    """Writes an address of several layers as one address for each layer.

    Args:
        text: such as `decoder.*.ffn[*]`, `decoder.0-2.ffn[1,5]`; other addresses are left as they are.
        num_layers: how many layers each stack has.

    Raises:
        AddressError: if it names a layer twice, or one that is not there.

    Examples:
        >>> expand_layers("decoder.0-1.ffn[5]", {"decoder": 6})
        ['decoder.0.ffn[5]', 'decoder.1.ffn[5]']
    """
    match = _LAYERS_PATTERN.fullmatch(text.strip())
    if match is None:
        return [text]
    stack = cast(Stack, match["stack"])
    if stack not in num_layers:
        raise AddressError(f"{text!r}: the model has no {stack}, only {' and '.join(num_layers)}")
    layers = _select(match["layers"], num_layers[stack], text, what="layer")
    return [f"{stack}.{layer}.{match['rest']}" for layer in layers]


def _select(selection: str, limit: int | None, text: str, *, what: str = "neuron") -> list[int]:
    noun = "" if what == "neuron" else f"{what} "
    if selection.strip() == "*":
        if limit is None:
            raise AddressError(f"{text!r}: the width of the site is not known here")
        return list(range(limit))
    chosen: list[int] = []
    for item in selection.split(","):
        match = _ITEM_PATTERN.fullmatch(item.strip())
        if match is None:
            raise AddressError(f"{text!r}: {item.strip()!r} is not a {what}, a range or *", hint=_HINT)
        start, stop = int(match["start"]), int(match["stop"] or match["start"])
        if stop < start:
            raise AddressError(f"{text!r}: the range {item.strip()} runs backwards")
        if limit is not None and stop >= limit:
            raise AddressError(f"{text!r}: there is no {noun}{stop}, the last one is {limit - 1}")
        if stop - start > 1_000_000:
            raise AddressError(f"{text!r}: the range {item.strip()} is longer than any site")
        chosen.extend(range(start, stop + 1))
    if len(set(chosen)) != len(chosen):
        raise AddressError(f"{text!r} names a {what} twice")
    return chosen


def compact_ranges(indices: Iterable[int]) -> str:
    """Writes numbers as an address does: `0-5,7,9,10`; the order is kept.

    Examples:
        >>> compact_ranges([3, 4, 5, 9])
        '3-5,9'
    """
    runs: list[list[int]] = []
    for i in indices:
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ",".join(str(a) if a == b else f"{a}-{b}" if b > a + 1 else f"{a},{b}" for a, b in runs)


def expand_ranges(text: str) -> tuple[int, ...]:
    """Reads what `compact_ranges` wrote.

    Raises:
        AddressError: if it is not a list of numbers and ranges.
    """
    return tuple(_select(text, None, text)) if text else ()
