"""The programs of docs/transfer.md, unchanged, each in its own process, which cannot import this package."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "transfer.md").read_text(encoding="utf-8")
PART = re.compile(r"^(?:##+ (?P<heading>[^\n]+)|```python\n(?P<source>.*?)^```)$", flags=re.MULTILINE | re.DOTALL)


def programs():
    """Python blocks by heading, ONNX apart from TFLite: `{heading: source}`."""
    found, heading = {}, None
    for part in PART.finditer(PAGE):
        if part["heading"]:
            heading = part["heading"]
        else:
            name = heading + " (ONNX)" * ("onnxruntime" in part["source"])
            assert name not in found
            found[name] = part["source"]
    return found


MEASURES = """
import sys
sys.modules["keras_moco"] = None
import numpy as np

expected = np.load("expected.npz")


def difference(found, name="features"):
    assert found.shape == expected[name].shape
    return np.abs(found - expected[name]).max() / np.abs(expected[name]).max()


def fell(losses, to=0.9):
    third = len(losses) // 3
    return np.mean(losses[-third:]) < to * np.mean(losses[:third])


def values(variables):
    return [np.array(variable) for variable in variables]


def moved(variables, before):
    assert len(variables) == len(before) > 0
    return [bool(np.any(np.array(variable) != old)) for variable, old in zip(variables, before)]


def check_stages(backbone, fresh, trained):
    "All weights of a layer have moved, moving statistics too, if its stage was trained; otherwise no bit has."
    stages = set()
    for layer, old in zip(backbone.layers, fresh.layers, strict=True):
        if layer.weights:
            stage = layer.name.split("_")[0]
            stages.add(stage)
            assert set(moved(layer.weights, values(old.weights))) == {stage in trained}, layer.name
    assert stages == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}
"""

# By heading: statements inserted before lines of the program, and what must hold at its end.
CHECKS = {
    "TensorFlow alone": (
        {"import tensorflow": 'sys.modules["keras"] = None  # TensorFlow imports Keras where it can'},
        """
fresh = tf.saved_model.load("runs/quickstart/export/saved_model")
assert difference(features) < 1e-5
assert len(backbone.variables) == 60 and all(moved(backbone.variables, values(fresh.variables)))
assert all(moved([weights], [np.zeros(weights.shape)]))
assert fell(losses)
""",
    ),
    "The SavedModel as a Keras layer": (
        {"history =": "before = values(classifier.variables)"},
        """
assert difference(features) < 1e-5
assert len(classifier.trainable_variables) == 36 + 2 and len(classifier.non_trainable_variables) == 24
assert all(moved(classifier.variables, before))
assert fell(history.history["loss"])

classifier.save("layer.keras")
again = keras.models.load_model("layer.keras", safe_mode=False)
np.testing.assert_array_equal(again.predict(images), classifier.predict(images))
""",
    ),
    "The Keras file": (
        {"history =": "before = values(classifier.layers[-1].weights)"},
        """
assert difference(features) < 1e-5
check_stages(backbone, keras.models.load_model("runs/quickstart/export/backbone.keras"), {"layer3", "layer4"})
assert all(moved(classifier.layers[-1].weights, before))
assert fell(history.history["loss"])

again = keras.models.load_model("classifier.keras")
np.testing.assert_array_equal(again.predict(images), classifier.predict(images))
""",
    ),
    "In two phases": (
        {
            "first =": "before = values(classifier.layers[-1].weights)",
            "# Second phase": """
fresh = keras.models.load_model("runs/quickstart/export/backbone.keras")
check_stages(backbone, fresh, set())
assert all(moved(classifier.layers[-1].weights, before))
before = values(classifier.layers[-1].weights)
""",
        },
        """
assert difference(features) < 1e-5
check_stages(backbone, fresh, {"layer3", "layer4"})
assert all(moved(classifier.layers[-1].weights, before))
assert fell(first.history["loss"], to=1) and fell(second.history["loss"])
assert second.history["loss"][-1] < first.history["loss"][-1]
""",
    ),
    "Detection: RetinaNet on its stages": (
        {
            "history =": """
seen = tf.image.resize(digits.images[:512, ..., None] * 255 / 16, (16, 16)).numpy()
maps = model.feature_extractor.predict(seen)
before = values(model.variables)
"""
        },
        """
assert sorted(maps) == ["P3", "P4", "P5"] and all(difference(maps[level], level) < 1e-5 for level in maps)
# Stages 1 to 4 with their statistics, pyramid and heads.
assert len(model.variables) == 60 + 2 * (6 + 3 + 3) and all(moved(model.variables, before))
assert fell(history.history["loss"])
assert found["boxes"].shape == (32, 100, 4)

again = detector(keras.models.load_model("runs/quickstart/export/backbone.keras"), classes=10)
again.load_weights("detector.weights.h5")
np.testing.assert_array_equal(again(images[:2])["box"], model(images[:2])["box"])
""",
    ),
    "TFLite and ONNX": (
        {},
        """
assert difference(features) < 1e-5
assert 1e-5 < difference(rough) < 5e-2

larger = tf.image.resize(images[:8], (24, 20)).numpy()
small = Interpreter("backbone.tflite").get_signature_runner()(images=larger)["output_0"]
wanted = backbone.predict(larger)
assert np.abs(small - wanted).max() < 1e-5 * wanted.max()
""",
    ),
    "TFLite and ONNX (ONNX)": (
        {},
        """
assert difference(features) < 1e-5
larger = tf.image.resize(images[:8], (24, 20)).numpy()
[found] = session.run(None, {"images": larger})
wanted = backbone.predict(larger)
assert np.abs(found - wanted).max() < 1e-5 * wanted.max()
""",
    ),
}


def with_checks(source, before, after):
    """The program with checks in it and at its end; its own lines stay unchanged."""
    for line, inserted in before.items():
        [place] = [match.start() for match in re.finditer(f"^{re.escape(line)}", source, flags=re.MULTILINE)]
        source = f"{source[:place]}{inserted}\n{source[place:]}"
    return MEASURES + source + after


def test_every_program_of_the_page_is_checked():
    assert programs().keys() == CHECKS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("heading", CHECKS)
def test_a_program_of_the_page_runs_elsewhere_and_learns(heading, folder):
    program = with_checks(programs()[heading], *CHECKS[heading])
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
