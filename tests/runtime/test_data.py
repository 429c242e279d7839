"""Data sets: what is taken as it is, and what each mistake in one is answered with."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from mopt.runtime.contract import DataError
from mopt.runtime.data.sources import ImageFolder, NpzData, PythonData, RandomData
from mopt.runtime.data.splits import as_split, sliced, split_name, validate_split
from mopt.values import Location, PythonRef, Ratio, TensorType


def image(value: float, *shape: int) -> np.ndarray:
    return np.full(shape or (1, 8, 8), value, dtype=np.float32)


@pytest.fixture
def recipe(tmp_path):
    """Write a recipe's Python and refer to a name in it."""

    def write(source: str, name: str = "make", file: str = "data.py") -> PythonRef:
        (tmp_path / file).write_text(textwrap.dedent(source), encoding="utf-8")
        return PythonRef(Location(file, str(tmp_path)), name)

    return write


def good(recipe, count=5):
    return recipe(f"""
        import numpy as np
        def make(seed=0):
            images = [np.full((1, 8, 8), i + seed, np.float32) for i in range({count})]
            return {{"test": [{{"image": image, "target": i}} for i, image in enumerate(images)]}}
    """)


class TestPython:
    def test_samples_come_in_order_and_twice_the_same(self, recipe):
        split = PythonData(good(recipe)).splits(0)["test"]
        assert len(split) == 5
        for _ in range(2):
            assert [sample["target"] for sample in split] == [0, 1, 2, 3, 4]

    def test_the_recipes_seed_is_handed_on_unless_declared(self, recipe):
        reference = good(recipe)
        assert next(iter(PythonData(reference).splits(7)["test"]))["image"].max() == 7
        assert next(iter(PythonData(reference, seed=3).splits(7)["test"]))["image"].max() == 3

    def test_a_callable_without_seed_and_with_arguments(self, recipe):
        reference = recipe("def make(count):\n    return {'all': [{'x': i} for i in range(count)]}")
        assert len(PythonData(reference, args={"count": 3}).splits(1)["all"]) == 3

    def test_a_module_beside_it_is_importable_and_two_recipes_do_not_mix(self, tmp_path):
        for name in ("one", "two"):
            folder = tmp_path / name
            folder.mkdir()
            (folder / "shapes.py").write_text(f"NAME = {name!r}")
            (folder / "data.py").write_text("import shapes\ndef make(): return {shapes.NAME: [{'x': 1}]}")
        found = [
            list(PythonData(PythonRef(Location("data.py", str(tmp_path / name)), "make")).splits(0))
            for name in ("one", "two", "one")
        ]
        assert found == [["one"], ["two"], ["one"]]
        assert str(tmp_path / "one") not in sys.path

    def test_what_it_prints_goes_to_stderr(self, recipe, capfd):
        reference = recipe("""
            print("importing")
            class Lazy:
                def __len__(self): return 1
                def __getitem__(self, at):
                    print("sample", at)
                    return {"x": 1.0}
            def make():
                print("making")
                return {"test": Lazy()}
        """)
        list(PythonData(reference).splits(0)["test"])
        out, err = capfd.readouterr()
        assert out == ""
        assert err.split() == ["importing", "making", "sample", "0"]


MISTAKES = {
    "raises on import": ("import numpy as np\n\n1 / 0\n", "ZeroDivisionError: division by zero\n  at data.py:3: 1 / 0"),
    "syntax error": ("def make(:\n    pass\n", "data.py:1: invalid syntax"),
    "missing name": ("def mak(): pass\n", "defines no `make`; did you mean `mak`?"),
    "not callable": ("make = 3\n", "is an int; a function or a class is expected"),
    "raises when called": (
        "def make():\n    return {}['train']\n",
        "KeyError: 'train'\n  at data.py:2: return {}['train']",
    ),
    "exits": ("import sys\ndef make():\n    sys.exit(3)\n", "SystemExit: 3\n  at data.py:3"),
    "missing package": ("def make():\n    import no_such_package_at_all\n", "No module named 'no_such_package_at_all'"),
    "wants arguments": ("def make(folder):\n    pass\n", "(folder)` can't be called with nothing: missing a required"),
    "returns nothing": ("def make():\n    pass\n", "returned None; it must return a mapping of split names"),
    "returns a list": ("def make():\n    return [1]\n", "returned a list; it must return a mapping"),
    "returns no splits": ("def make():\n    return {}\n", "returned no splits"),
    "a split of nothing": ("def make():\n    return {'test': None}\n", "`make.test` is None; a split is a sequence"),
    "a number as split": ("def make():\n    return {'test': 3}\n", "`make.test` is an int"),
    "a generator": ("def make():\n    return {'test': (i for i in [1])}\n", "a generator, which can be read only once"),
    "uneven columns": (
        "import numpy as np\ndef make():\n    return {'t': {'x': np.ones(3), 'y': np.ones(2)}}\n",
        "the columns differ in length: `x` 3, `y` 2",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_a_recipes_python(name, recipe):
    source, told = MISTAKES[name]
    with pytest.raises(DataError) as caught:
        PythonData(recipe(source)).splits(0)
    assert told in str(caught.value)
    assert "data.py:make" in str(caught.value) or "make." in str(caught.value) or "data.py" in str(caught.value)


def test_an_empty_split_is_refused_where_it_is_used(recipe):
    """A function may have nothing for a split that its arguments did not ask for."""
    splits = PythonData(recipe("def make():\n    return {'train': [], 'test': [{'x': 1.0}]}\n")).splits(0)
    assert len(sliced(splits["test"], None, None)) == 1
    with pytest.raises(DataError, match=r"`make\.train` is empty; a split needs at least one sample"):
        sliced(splits["train"], None, None)
    with pytest.raises(DataError, match=r"`make\.train\[:5\]` is empty; the split has 0 samples"):
        sliced(splits["train"], None, 5)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"`nowhere\.py`: nothing at"):
        PythonData(PythonRef(Location("nowhere.py", str(tmp_path)), "make")).splits(0)


def test_a_sample_that_raises_is_told_by_its_number(recipe):
    reference = recipe("""
        class Data:
            def __len__(self): return 9
            def __getitem__(self, at):
                if at == 4:
                    raise OSError("disc 4 is scratched")
                return {"x": 1.0}
        def make(): return {"test": Data()}
    """)
    split = PythonData(reference).splits(0)["test"]
    with pytest.raises(DataError, match=r"giving sample 4 with OSError: disc 4 is scratched\n  at data\.py:6"):
        list(split)


class TestForms:
    """What other libraries' data sets look like, taken as they are."""

    def test_pairs_for_a_model_with_one_input(self, cnn):
        split = validate_split(as_split([(image(1), 3), (image(2), 4)], "pairs"), cnn)
        assert [(set(sample), sample["target"]) for sample in split] == [
            ({"image", "target"}, 3),
            ({"image", "target"}, 4),
        ]

    def test_columns(self, cnn):
        split = validate_split(
            as_split({"image": np.ones((3, 1, 8, 8), np.float32), "target": [5, 6, 7]}, "columns"), cnn
        )
        assert [sample["target"] for sample in split] == [5, 6, 7]

    def test_a_pair_of_arrays_is_columns(self, cnn):
        split = validate_split(as_split((np.ones((3, 1, 8, 8), np.float32), np.arange(3)), "keras"), cnn)
        assert len(split) == 3
        assert next(iter(split))["image"].shape == (1, 8, 8)

    def test_a_reiterable_without_length(self, cnn):
        class Stream:
            def __iter__(self):
                yield from ({"image": image(i)} for i in range(4))

        split = as_split(Stream(), "stream")
        assert len(split) == len(list(split)) == 4

    def test_a_torch_dataset(self, cnn):
        torch = pytest.importorskip("torch")
        data = torch.utils.data.TensorDataset(torch.ones(3, 1, 8, 8, requires_grad=True), torch.arange(3))
        split = validate_split(as_split(data, "torch"), cnn)
        assert [int(sample["target"]) for sample in split] == [0, 1, 2]
        (batch,) = split.batches(8)
        assert batch["image"].shape == (3, 1, 8, 8)
        assert batch["target"].dtype == np.int64

    def test_a_dataloader_is_refused(self):
        torch = pytest.importorskip("torch")
        loader = torch.utils.data.DataLoader([1, 2, 3], batch_size=2)
        with pytest.raises(DataError, match=r"DataLoader, which gives batches; give its `\.dataset` instead"):
            as_split(loader, "loader")

    def test_a_tensorflow_dataset(self, cnn):
        """By its protocol: importing TensorFlow takes longer than all of these tests."""

        class Dataset:
            def __iter__(self):
                pytest.fail("iterating gives tensors; as_numpy_iterator is there for arrays")

            def as_numpy_iterator(self):
                return iter([{"image": image(i), "target": np.int64(i)} for i in range(3)])

        assert [int(sample["target"]) for sample in validate_split(as_split(Dataset(), "tf"), cnn)] == [0, 1, 2]

    def test_a_hugging_face_dataset(self, cnn):
        class Dataset:
            column_names = ("image", "target")

            def __init__(self, kind="python"):
                self.kind = kind

            def with_format(self, kind):
                return Dataset(kind)

            def __len__(self):
                return 2

            def __getitem__(self, at):
                assert self.kind == "numpy"
                return {"image": image(at), "target": at}

        assert [sample["target"] for sample in validate_split(as_split(Dataset(), "hf"), cnn)] == [0, 1]

    def test_a_split_stays_what_it_is(self):
        split = as_split([{"x": 1}], "one")
        assert as_split(split, "again") is split


class TestSlices:
    def numbers(self):
        return as_split([{"x": np.float32(i)} for i in range(10)], "numbers")

    @pytest.mark.parametrize(
        ("start", "stop", "kept"),
        [(None, 3, [0, 1, 2]), (7, None, [7, 8, 9]), (2, 4, [2, 3]), (-2, None, [8, 9]), (None, 99, list(range(10)))],
    )
    def test_python_rules(self, start, stop, kept):
        split = sliced(self.numbers(), start, stop)
        assert [float(sample["x"]) for sample in split] == kept
        assert len(split) == len(kept)

    def test_all_of_it_is_itself(self):
        split = self.numbers()
        assert sliced(split, None, None) is split

    def test_of_a_slice(self):
        assert [float(sample["x"]) for sample in sliced(sliced(self.numbers(), 2, 8), 1, 3)] == [3, 4]

    def test_an_empty_one_is_an_error(self):
        with pytest.raises(DataError, match=r"`numbers\[12:\]` is empty; the split has 10 samples"):
            sliced(self.numbers(), 12, None)

    def test_no_more_than_needed_is_read(self):
        class Costly(list):
            def __getitem__(self, at):
                assert at <= 2
                return {"x": at}

        assert len(list(sliced(as_split(Costly(range(9)), "costly"), 0, 2))) == 2


class TestBatches:
    def test_equal_shapes_are_stacked_in_order(self):
        split = as_split([{"x": image(i), "target": i} for i in range(5)], "five")
        found = list(split.batches(2))
        assert [batch["x"].shape for batch in found] == [(2, 1, 8, 8), (2, 1, 8, 8), (1, 1, 8, 8)]
        assert [list(batch["target"]) for batch in found] == [[0, 1], [2, 3], [4]]

    def test_another_shape_starts_another_batch(self):
        widths = [4, 4, 6, 4]
        split = as_split([{"x": image(0, 2, width)} for width in widths], "ragged")
        assert [batch["x"].shape for batch in split.batches(8)] == [(2, 2, 4), (1, 2, 6), (1, 2, 4)]

    def test_padding_makes_one_batch_of_unequal_shapes(self):
        split = as_split([{"x": image(1, 2, width)} for width in (1, 3)], "ragged", pad=True)
        (batch,) = split.batches(8)
        assert batch["x"].tolist() == [[[1, 0, 0], [1, 0, 0]], [[1, 1, 1], [1, 1, 1]]]

    def test_padding_can_not_invent_axes(self):
        split = as_split([{"x": image(0, 3)}, {"x": image(0, 3, 3)}], "mixed", pad=True)
        with pytest.raises(DataError, match="padding can't make them equal"):
            list(split.batches(2))

    def test_targets_of_text_and_of_unequal_length(self):
        split = as_split([{"x": 0.0, "target": text} for text in ("a", "bc")], "texts")
        assert list(next(iter(split.batches(2)))["target"]) == ["a", "bc"]
        split = as_split([{"x": 0.0, "target": labels} for labels in ([1], [2, 3])], "labels")
        assert [list(labels) for labels in next(iter(split.batches(2)))["target"]] == [[1], [2, 3]]

    def test_samples_with_other_names_are_an_error(self):
        split = as_split([{"x": 0.0}, {"y": 0.0}], "mixed")
        with pytest.raises(DataError, match="sample 1 of `mixed` has `y`, the samples before it `x`"):
            list(split.batches(2))


WRONG = {
    "names": (
        {"picture": image(0)},
        ["sample 0 of `wrong` has no `image`", "it has `picture`", "`image`: f32[N, 1, 8, 8]"],
    ),
    "near names": ({"imag": image(0)}, ["rename `imag`"]),
    "shape": (
        {"image": image(0, 1, 8, 9)},
        ["the shape [1, 8, 9]", "`image` is f32[N, 1, 8, 8]", "without the batch axis"],
    ),
    "channels last": ({"image": image(0, 8, 8, 1)}, ["`.transpose(2, 0, 1)`"]),
    "no channels": ({"image": image(0, 8, 8)}, ["`[None]`"]),
    "integers": ({"image": np.zeros((1, 8, 8), np.uint8)}, ["`image` is u8 (integers)", ".astype('float32')", "/ 255"]),
    "text": ({"image": np.full((1, 8, 8), "a")}, ["`image` is str (text)"]),
    "a number": (3, ["sample 0 of `wrong` is an int; a sample is a dict of arrays"]),
    "a triple": ((1, 2, 3), ["is a tuple of 3"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_sample_that_does_not_fit_says_what_was_expected(name, cnn):
    sample, told = WRONG[name]
    with pytest.raises(DataError) as caught:
        validate_split(as_split([sample], "wrong"), cnn)
    for text in told:
        assert text in str(caught.value)


def test_a_later_sample_is_checked_when_it_is_read(cnn):
    split = validate_split(as_split([{"image": image(0)}, {"image": image(0, 1, 8, 9)}], "late"), cnn)
    with pytest.raises(DataError, match="sample 1 of `late`"):
        list(split)


def test_widths_are_cast_and_more_arrays_than_needed_left_out(cnn):
    split = validate_split(as_split([{"image": image(1).astype(np.float64), "id": 3, "target": 1}], "wide"), cnn)
    (sample,) = split
    assert set(sample) == {"image", "target"}
    assert sample["image"].dtype == np.float32


def test_pairs_need_a_model_with_one_input(packaged_module):
    with pytest.raises(DataError, match=r"the model has the inputs `input`.*`state`.*`sr`"):
        validate_split(as_split([(image(0), 1)], "pairs"), packaged_module("silero"))


def test_a_length_that_lies_is_an_error(cnn):
    class Empty:
        def __len__(self):
            return 3

        def __iter__(self):
            return iter(())

    with pytest.raises(DataError, match="says that it has 3 samples, but gives none"):
        validate_split(as_split(Empty(), "empty"), cnn)


class TestNpz:
    def write(self, tmp_path, **arrays):
        np.savez(tmp_path / "d.npz", **arrays)
        return Location("d.npz", str(tmp_path))

    def test_keras_names(self, tmp_path, cnn):
        images = np.ones((4, 1, 8, 8), np.float32)
        path = self.write(tmp_path, x_train=images, y_train=np.arange(4), x_test=images[:2], y_test=np.arange(2))
        splits = NpzData(path).splits(0)
        assert {name: len(split) for name, split in splits.items()} == {"train": 4, "test": 2}
        assert [int(sample["target"]) for sample in validate_split(splits["test"], cnn)] == [0, 1]

    def test_split_and_name(self, tmp_path):
        splits = NpzData(
            self.write(tmp_path, **{"test.image": np.ones((2, 3)), "calib/image": np.ones((1, 3))})
        ).splits(0)
        assert {name: (len(split), set(next(iter(split)))) for name, split in splits.items()} == {
            "test": (2, {"image"}), "calib": (1, {"image"}),
        }  # fmt: skip

    def test_divided_in_order(self, tmp_path):
        path = self.write(tmp_path, x=np.arange(10.0), label=np.arange(10))
        splits = NpzData(path, {"train": Ratio(0.8), "test": Ratio(0.2)}).splits(0)
        assert [len(splits[name]) for name in ("all", "train", "test")] == [10, 8, 2]
        assert [int(sample["target"]) for sample in splits["test"]] == [8, 9]

    def test_pickled_objects_are_not_loaded(self, tmp_path):
        path = self.write(tmp_path, x=np.array([{"a": 1}], dtype=object))
        with pytest.raises(DataError, match="holds pickled objects, save plain arrays"):
            NpzData(path).splits(0)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"text"], ids=["empty", "cut", "text"])
    def test_what_is_no_npz(self, tmp_path, content):
        (tmp_path / "d.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"`d\.npz` can't be read as `\.npz`"):
            NpzData(Location("d.npz", str(tmp_path))).splits(0)

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(DataError, match="nothing at"):
            NpzData(Location("d.npz", str(tmp_path))).splits(0)


class TestImages:
    def folder(self, tmp_path, *names, size=(6, 4)):
        pil = pytest.importorskip("PIL.Image")
        for at, name in enumerate(names):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            pil.new("RGB", size, (255, 51 * at, 0)).save(tmp_path / name)
        return Location(".", str(tmp_path))

    def test_classes_of_splits(self, tmp_path):
        path = self.folder(tmp_path, "train/dog/1.png", "train/cat/1.png", "test/cat/2.png")
        splits = ImageFolder(path).splits(0)
        assert {name: [sample["target"] for sample in split] for name, split in splits.items()} == {
            "train": [0, 1],
            "test": [0],
        }

    def test_layout_scale_and_normalisation(self, tmp_path, build):
        path = self.folder(tmp_path, "a.png", "b.png")
        samples = list(ImageFolder(path, size=(2, 3), mode="bgr", mean=(0.5,), std=(1.0, 0.5, 2.0)).splits(0)["all"])
        pixels = samples[1]["0"]
        assert pixels.shape == (3, 2, 3)
        assert pixels.dtype == np.float32
        assert pixels[:, 0, 0] == pytest.approx([-0.5, (0.2 - 0.5) / 0.5, 0.25], abs=1e-6)
        assert next(iter(ImageFolder(path, layout="hwc", mode="gray").splits(0)["all"]))["0"].shape == (4, 6, 1)

    def test_labels_of_text(self, tmp_path):
        path = self.folder(tmp_path, "a.png", "b.png")
        (tmp_path / "labels.txt").write_text("b.png\tzwei\na.png\teins\n", encoding="utf-8")
        assert [sample["target"] for sample in ImageFolder(path).splits(0)["all"]] == ["zwei", "eins"]
        (tmp_path / "labels.txt").write_text("b.png\tzwei\nc.png\tdrei\n", encoding="utf-8")
        with pytest.raises(DataError, match=r"labels\.txt:2: no file `c\.png`"):
            ImageFolder(path).splits(0)

    def test_a_broken_image_is_named(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"no image")
        with pytest.raises(DataError, match=r"a\.png can't be read as an image"):
            list(ImageFolder(Location(".", str(tmp_path))).splits(0)["all"])

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(DataError, match="no image in"):
            ImageFolder(Location(".", str(tmp_path))).splits(0)


class TestRandom:
    def test_synthetic_seeded_and_unlike_between_splits(self, cnn):
        source = RandomData({"image": TensorType("f32", ("N", 1, 8, 8))}, samples=4, classes=3)
        assert source.synthetic
        splits = source.splits(0)
        validate_split(splits["test"], cnn)
        first, again = (np.stack([sample["image"] for sample in splits["test"]]) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert np.abs(first - next(iter(splits["train"].batches(4)))["image"]).max() > 0.5
        assert np.abs(first - next(iter(source.splits(1)["test"].batches(4)))["image"]).max() > 0.5
        assert all(0 <= sample["target"] < 3 for sample in splits["test"])

    def test_a_scalar_is_refused(self):
        with pytest.raises(DataError, match="has no batch axis"):
            RandomData({"x": TensorType("f32", ())}).splits(0)


def test_names_for_messages():
    assert split_name(sliced(as_split([1, 2, 3], "s"), 0, 2)) == "s[0:2]"


def test_declaring_imports_nothing_heavy():
    code = (
        "import sys, json, mopt.runtime.data.sources, mopt.runtime.judge.metrics, mopt.runtime.judge.losses, "
        "mopt.runtime.ort_target, mopt.runtime.trt.target, mopt.runtime.contract; print(json.dumps(list(sys.modules)))"
    )
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
    heavy = {"numpy", "onnx", "onnx_ir", "onnxruntime", "networkx", "torch", "tensorflow", "sklearn", "jiwer", "PIL"}
    assert not heavy & set(loaded)
