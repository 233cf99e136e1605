import numpy as np
import pytest

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput
from neurodial.interpret.gathering.readout import calibrate, fit_readout, score_readout

SITE = Site.parse("encoder.1.resid")
CLASSES = ("none", "present", "past")


def positions(rows: int, seed: int, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    y = draw.choice(3, size=rows, p=[0.8, 0.1, 0.1])
    x = draw.normal(size=(rows, 6)) * noise
    x[:, 2] += np.array([0.0, 1.0, -1.0])[y]
    return (x * 50 + 7).astype(np.float32), y


def test_a_readout_reads_planted_labels() -> None:
    readout = fit_readout(SITE, *positions(600, 0), CLASSES)
    x, y = positions(300, 1)
    report = score_readout(readout, x, y)
    assert report["accuracy"] > 0.93
    assert report["past"]["recall"] > 0.85
    assert report["rows"] == 300
    assert readout.weights.shape == (3, 6)
    assert np.abs(readout.weights[1:]).argmax(axis=1).tolist() == [2, 2]


def test_calibration_trades_false_alarms_for_misses() -> None:
    x, y = positions(800, 0, noise=0.6)
    readout = fit_readout(SITE, x, y, CLASSES)
    held_out = positions(800, 1, noise=0.6)
    recalls = [
        score_readout(calibrate(readout, *held_out, beta=beta), *held_out)["past"]["recall"] for beta in (0.3, 1.0, 4.0)
    ]
    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[2]
    assert (calibrate(readout, *held_out).bias[1:] == readout.bias[1:]).all()


def test_one_label_against_none() -> None:
    x, y = positions(500, 2)
    readout = fit_readout(SITE, x[y < 2], y[y < 2], ("none", "present"))
    assert readout.weights.shape == (2, 6)
    assert score_readout(readout, x[y < 2], y[y < 2])["accuracy"] > 0.93


def test_a_missing_class_is_refused() -> None:
    x, y = positions(50, 0)
    with pytest.raises(BadInput, match="only 0 word with the label 'past'"):
        fit_readout(SITE, x, np.where(y == 2, 1, y), CLASSES)
