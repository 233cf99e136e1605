"""The demo models with their neuron sets and calibrations: where they lie, and what they are called when served.

What trained and measured them is in tests/experiments. Imports nothing.
"""

from pathlib import Path

DEMO_FOLDER = Path(__file__).parent
DEMO_MODEL_ID = "en-es"
DEMO_LANGUAGES = ("en", "es")
DEMO_MODEL = DEMO_FOLDER / "en-es"
DEMO_HALF_ID = "en-es-half"
DEMO_HALF = DEMO_FOLDER / "en-es-half"
DEMO_LM_ID = "en-lm"
DEMO_LM = DEMO_FOLDER / "lm"
DEMO_SETS = {name: DEMO_FOLDER / "sets" / f"{name}.safetensors" for name in ("tense", "number", "negation")}
DEMO_CALIBRATION = DEMO_FOLDER / "calibration" / "en-es.safetensors"
