"""The table of other people's clients."""

from collections.abc import Iterator

from tests.documentation.filling import Document, table


def clients(document: Document) -> Iterator[str]:
    """Each client, its version, what it did, and what went wrong."""
    yield from (f"{document['date']}; {document['machine']}.", "")
    rows = ([row["client"], row["version"], "; ".join(row["did"]), row["problem"]] for row in document["clients"])
    yield from table(("Client", "Version", "What ran", "Problem"), rows)
