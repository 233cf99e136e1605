import subprocess
import sys

import pytest

import neurodial.control


def test_public_names_are_frozen_and_there() -> None:
    assert sorted(neurodial.control.__all__) == neurodial.control.__all__ == sorted(neurodial.control._HOMES)
    for name in neurodial.control.__all__:
        assert getattr(neurodial.control, name).__module__.startswith("neurodial.control.")


def test_former_names_warn() -> None:
    for old, new in neurodial.control._RENAMED.items():
        with pytest.warns(DeprecationWarning, match=new):
            assert getattr(neurodial.control, old) is getattr(neurodial.control, new)


def test_errors_do_not_load_torch() -> None:
    code = "import sys, neurodial.control.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
