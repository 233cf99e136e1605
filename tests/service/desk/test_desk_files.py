"""The page's files, without a browser."""

import re

from neurodial.service.desk.settings import FOLDER

FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file())


def test_they_are_small() -> None:
    assert sum(path.stat().st_size for path in FILES) < 150_000


def test_they_name_no_other_host_and_write_no_html() -> None:
    """Names of namespaces are no addresses that anything is loaded from."""
    for path in FILES:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//cdn", text), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), path


def test_every_import_leads_to_a_file() -> None:
    modules = [path for path in FILES if path.suffix == ".js"]
    found = [
        (path, name)
        for path in modules
        for name in re.findall(r'from "([^"]+)"|^import "([^"]+)"', path.read_text(), re.M)
    ]
    assert len(found) > 20
    for path, names in found:
        assert (path.parent / "".join(names)).is_file(), (path, names)
