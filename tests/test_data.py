import re
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from consilience.data import Data, Dataset, check_dataset, load_data
from consilience.errors import InputError


def refused(*texts: str):
    """Expect an `InputError` that says all of this, in this order."""
    return pytest.raises(InputError, match="(?s)" + ".*".join(map(re.escape, texts)))


def dataset(n: int = 6, n_classes: int = 3) -> Dataset:
    return Dataset(torch.rand(n, 4), torch.arange(n) % n_classes, torch.arange(n))


def arrays(n_train: int = 36, n_test: int = 6, shape: tuple[int, ...] = (5, 4), n_classes: int = 3) -> dict:
    """Every pixel of row r is r, test rows after training rows; labels follow from the row."""
    rows = np.arange(n_train + n_test)
    x = np.broadcast_to(rows.reshape(-1, *[1] * len(shape)), (len(rows), *shape)).astype(np.uint8)
    y = rows % n_classes
    return {"x_train": x[:n_train], "y_train": y[:n_train], "x_test": x[n_train:], "y_test": y[n_train:]}


@pytest.fixture
def npz(tmp_path: Path):
    def write(**changes) -> Path:
        path = tmp_path / "rows.npz"
        content = {**arrays(), **changes}
        np.savez(path, **{name: value for name, value in content.items() if value is not None})
        return path

    return write


# --- Dataset ----------------------------------------------------------------------------------------------------------


def test_take_keeps_rows_labels_and_row_numbers_together():
    rows = dataset()
    taken = rows.take(torch.tensor([5, 0, 5, -2]))
    assert taken.ids.tolist() == [5, 0, 5, 4]
    assert torch.equal(taken.x, rows.x[taken.ids])
    assert torch.equal(taken.y, rows.y[taken.ids])
    assert len(taken) == 4
    assert taken.take([1]).ids.tolist() == [0]
    assert Dataset(rows.x, rows.y).ids.tolist() == [*range(len(rows))]
    assert len(rows.take([])) == 0


def test_take_copies():
    rows = dataset()
    rows.take(range(6)).x.zero_()
    assert rows.x.any()


def test_take_refuses_a_mask_which_would_pick_rows_0_and_1():
    rows = dataset()
    with refused("indices must be ints (m,)", "bool (6,)", "mask.nonzero"):
        rows.take(rows.y == 1)


def test_take_refuses_positions_outside():
    for position in (6, -7):
        with refused(f"indices must be from -6 to 5, got {position}"):
            dataset().take([0, position])


def test_image_shape_is_that_of_four_dimensional_inputs():
    def data(x: torch.Tensor) -> Data:
        rows = Dataset(x, torch.zeros(2, dtype=torch.int64), torch.arange(2))
        return Data("tiny", rows, rows, rows, rows, 1)

    assert data(torch.rand(2, 3, 5, 4)).image_shape == (3, 5, 4)
    assert data(torch.rand(2, 3)).image_shape is None


# --- check_dataset ----------------------------------------------------------------------------------------------------


def test_good_data_pass():
    check_dataset(dataset(), 3)
    check_dataset(dataset())
    check_dataset(Dataset(torch.rand(5, 2, dtype=torch.float64), torch.rand(5, 3), torch.arange(5)))  # regression


def replaced(**changes) -> Dataset:
    return Dataset(**{**vars(dataset()), **changes})


NAN, INF = float("nan"), float("inf")
ROWS = "here.x must be float32 (n, ...), one row per sample, got "


@pytest.mark.parametrize(
    ("broken", "n_classes", "text"),
    [
        (
            replaced(y=torch.zeros(5).long()),
            None,
            "here.y must have one row for each of the 6 rows of x, got int64",
        ),
        (replaced(x=torch.rand(0, 4), y=torch.zeros(0).long(), ids=torch.arange(0)), None, f"{ROWS}float32 (0, 4)"),
        (replaced(x=torch.ones(6, 4, dtype=torch.uint8)), None, f"{ROWS}uint8 (6, 4)"),
        (replaced(x=torch.rand(6)), None, f"{ROWS}float32 (6,)"),
        (replaced(y=torch.arange(6, dtype=torch.int32) % 3), 3, "here.y must be int64 labels, got int32 (6,)"),
        (
            replaced(y=torch.rand(6)),
            3,
            "here.y must be integer labels (6,), got float32 (6,)",
        ),
        (replaced(y=torch.eye(6).long()), 3, "here.y must be integer labels (6,), got int64 (6, 6)"),
        (replaced(y=torch.tensor([0, 1, -1, 2, -7, 0])), 3, "here.y must be labels from 0 to 2, got -1 in row 2"),
        (replaced(y=torch.tensor([0, 1, -1, 2, -7, 0])), None, "here.y must be labels >= 0, got -1 in row 2"),
        (replaced(y=torch.tensor([0, 1, 2, 0, 5, 4])), 3, "here.y must be labels from 0 to 2, got 5 in row 4"),
        (
            replaced(y=torch.tensor([0, 3, 0, 3, 0, 3])),
            5,
            "here.y must have rows of each class from 0 to 4, got none of class 1, 2, 4\n",
        ),
        (
            replaced(),
            1000,
            "here.y must have rows of each class from 0 to 999, got none of class 3, 4, 5, 6, 7, 8, ",
        ),
        (
            replaced(y=torch.tensor([0.0, 1, 2, NAN, 0, INF])),
            None,
            "here.y must be finite, got NaN or infinity in 2 of 6 rows, first row 3",
        ),
        (replaced(ids=torch.arange(5)), None, "here.ids must be int64 (6,), got int64 (5,)"),
        (replaced(x=np.zeros((6, 4))), None, "here.x must be a tensor, got ndarray"),
        ((torch.rand(6, 4), torch.arange(6)), None, "here must be a consilience Dataset, got tuple\n"),
    ],
)
def test_bad_data_are_refused_by_name(broken, n_classes, text):
    with refused(text):
        check_dataset(broken, n_classes, where="here")


@settings(deadline=None)
@given(
    bad=st.dictionaries(st.tuples(st.integers(0, 5), st.integers(0, 3)), st.sampled_from([NAN, INF, -INF]), min_size=1)
)
def test_every_row_with_a_value_that_is_not_finite_is_counted(bad):
    rows = dataset()
    for place, value in bad.items():
        rows.x[place] = value
    wrong = {row for row, _ in bad}
    with refused(f"NaN or infinity in {len(wrong)} of 6 rows, first row {min(wrong)}\n"):
        check_dataset(rows, 3)


# --- load_data: digits ------------------------------------------------------------------------------------------------


def test_digits_are_scaled_stratified_and_disjoint():
    data = load_data("digits")
    assert (data.name, data.n_classes, data.image_shape) == ("digits", 10, (1, 8, 8))
    assert (data.train.x.min(), data.train.x.max(), data.train.x.dtype) == (0, 1, torch.float32)
    parts = (data.train, data.validation, data.test)
    assert sorted(torch.cat([part.ids for part in parts]).tolist()) == list(range(1797))
    total = torch.bincount(torch.cat([part.y for part in parts]))
    for part, share in ((data.validation, 0.15), (data.test, 0.20)):
        assert (torch.bincount(part.y) - share * total).abs().max() <= 0.5  # every class, to rounding
    for part in (*parts, data.calibration):
        check_dataset(part, 10)


def test_ids_lead_back_to_the_source():
    images, labels = load_digits(return_X_y=True)
    data = load_data("digits", random_state=3)
    for part in (data.train, data.calibration, data.validation, data.test):
        assert np.array_equal(part.x.flatten(1).numpy() * 16, images[part.ids])
        assert np.array_equal(part.y.numpy(), labels[part.ids])


def test_the_seed_decides_everything():
    parts = ("train", "calibration", "validation", "test")
    one, same, other = (load_data("digits", random_state=seed) for seed in (0, 0, 1))
    for part in parts:
        assert torch.equal(getattr(one, part).ids, getattr(same, part).ids)
        assert torch.equal(getattr(one, part).x, getattr(same, part).x)
        assert not torch.equal(getattr(one, part).ids, getattr(other, part).ids)


def test_loading_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load_data("digits", random_state=5)
    assert torch.equal(torch.rand(1), expected)


def test_rows_are_shuffled_within_every_part():
    data = load_data("digits")
    for part in (data.train, data.calibration, data.validation, data.test):
        steps = part.ids.diff()
        assert 0.4 < (steps > 0).float().mean() < 0.6  # sorted rows would only ascend
        assert (part.y[1:] != part.y[:-1]).float().mean() > 0.8  # nor do classes come in runs


def test_calibration_is_a_random_part_of_train():
    data = load_data("digits", n_calibration=100)
    assert len(data.calibration) == 100
    assert set(data.calibration.ids.tolist()) < set(data.train.ids.tolist())
    before = data.train.x.clone()
    data.calibration.x.zero_()
    assert torch.equal(data.train.x, before)  # a copy: what is done to it for a look must not spoil training
    assert len(load_data("digits", n_calibration=10**6).calibration) == len(data.train)


# --- load_data: npz ---------------------------------------------------------------------------------------------------


def test_npz_keeps_its_test_set_and_takes_validation_from_shuffled_training_rows(npz):
    data = load_data(npz(), n_calibration=10)
    assert (data.name, data.n_classes, data.image_shape) == ("rows.npz", 3, (1, 5, 4))
    assert [len(part) for part in (data.train, data.calibration, data.validation, data.test)] == [30, 10, 6, 6]
    assert data.test.ids.tolist() == list(range(36, 42))
    assert sorted(torch.cat([data.train.ids, data.validation.ids]).tolist()) == list(range(36))
    assert data.validation.ids.tolist() != sorted(data.validation.ids.tolist())
    for part in (data.train, data.calibration, data.validation, data.test):
        assert torch.allclose(part.x * 255, part.ids.reshape(-1, 1, 1, 1).expand_as(part.x).float())
        assert torch.equal(part.y, part.ids % 3)


def test_validation_never_exceeds_5000_rows(npz):
    data = load_data(npz(**arrays(n_train=30_012, shape=(1,))))
    assert (len(data.validation), len(data.train), len(data.calibration)) == (5000, 25_012, 5000)


def test_colour_images_come_channels_first(npz):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (42, 5, 4, 3), dtype=np.uint8)
    data = load_data(npz(x_train=pixels[:36], x_test=pixels[36:]))
    assert data.image_shape == (3, 5, 4)
    for channel in range(3):
        expected = torch.from_numpy(pixels[data.train.ids][..., channel]) / 255
        assert torch.equal(data.train.x[:, channel], expected)
    assert data.train.x.is_contiguous()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("shape", "layout", "last", "words"),
    [
        ((28, 28, 1), "auto", True, "images with channels last"),
        ((32, 32, 3), "auto", True, "images with channels last"),
        ((1, 28, 28), "auto", False, "images with channels first"),
        ((3, 9, 7), "auto", False, "images with channels first"),
        ((3, 3, 1), "auto", True, "images with channels last"),
        ((3, 5, 4), "channels-last", True, "images with channels last"),
        ((3, 5, 4), "channels-first", False, "images with channels first"),
    ],
)
def test_images_come_channels_first_and_it_is_said(npz, shape, layout, last, words, dtype):
    values = np.random.default_rng(0).integers(0, 256, (42, *shape)).astype(dtype)
    data = load_data(npz(x_train=values[:36], x_test=values[36:]), layout=layout)
    expected = np.moveaxis(values, 3, 1) if last else values
    scale = 255 if dtype == np.uint8 else 1
    assert np.array_equal(data.train.x.numpy(), expected[data.train.ids].astype(np.float32) / scale)
    assert data.read_as == f"x: {np.dtype(dtype)} {(36, *shape)}, {words}; y: 3 classes"


def test_floating_point_images_of_three_axes_are_rows_unless_it_is_said(npz):
    values = np.random.default_rng(0).normal(size=(42, 6, 5)).astype("f4")
    path = npz(x_train=values[:36], x_test=values[36:])
    assert load_data(path).image_shape is None
    assert load_data(path, layout="channels-last").image_shape == (1, 6, 5)
    with refused("layout must be one of 'auto', 'channels-first', 'channels-last', 'rows', got 'NHWC'"):
        load_data(path, layout="NHWC")


@pytest.mark.parametrize(
    "change", [lambda y: y[:, None], lambda y: np.eye(3, dtype=bool)[y], np.float64, lambda y: y.astype(">i4")]
)
def test_labels_of_any_unambiguous_kind_are_taken(npz, change):
    y = np.arange(36) % 3
    expected, data = load_data(npz(y_train=y)), load_data(npz(y_train=change(y)))
    assert torch.equal(data.train.y, expected.train.y)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("shape", [(7,), (2, 5, 4)])
def test_floating_point_arrays_keep_shape_and_values(npz, shape, dtype):
    values = np.random.default_rng(0).normal(size=(42, *shape)).astype(dtype)
    data = load_data(npz(x_train=values[:36], x_test=values[36:]))
    assert data.train.x.dtype == torch.float32
    assert np.array_equal(data.train.x.numpy(), values[data.train.ids].astype(np.float32))
    assert np.array_equal(data.test.x.numpy(), values[36:].astype(np.float32))


def test_flat_rows_of_pixels_are_scaled(npz):
    pixels = arrays(shape=(20,))
    data = load_data(npz(**pixels))
    assert data.image_shape is None
    assert torch.allclose(data.train.x * 255, data.train.ids.reshape(-1, 1).expand(-1, 20).float())


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.uint64])
def test_labels_may_be_whole_numbers_of_any_size(npz, kind):
    data = load_data(npz(y_train=arrays()["y_train"].astype(kind), y_test=arrays()["y_test"].astype(kind)))
    assert data.train.y.dtype == torch.int64


ONE = np.ones((36, 5))
BROKEN = {
    "one array missing": (
        {"y_test": None},
        ("rows.npz must have arrays x_train, y_train, x_test, y_test", "add y_"),
    ),
    "lengths": (
        {"y_train": np.zeros(35, int)},
        ("train.y must have one row for each of the 36 rows of x",),
    ),
    "test lengths": ({"y_test": np.zeros(5, int)}, ("test.y must have one row for each of the 6",)),
    "no rows": (
        {"x_test": np.zeros((0, 5, 4), "u1"), "y_test": np.zeros(0, int)},
        ("test.x must be float32",),
    ),
    "scores": (
        {"y_train": np.ones((36, 2), int)},
        ("train.y must be integer labels (n,), got int64 (36, 2)", "argmax"),
    ),
    "fractions": ({"y_test": np.ones(6) / 2}, ("test.y must be integer labels (n,), got float64 (6,)",)),
    "one class": (
        {"y_train": np.zeros((36, 1), int), "y_test": np.zeros(6)},
        ("train.y must have at least 2 classes, got 0 in all rows", "nothing to learn"),
    ),
    "names": ({"y_train": np.array(["a"] * 36)}, ("train.y must be integer labels (n,), got <U1 (36,)", "for names")),
    "one class that is not 0": ({"y_train": np.full(36, 3)}, ("train.y must have at least 2 classes, got 3 in all",)),
    "few channels last, and square with channels first": (
        {"x_train": np.zeros((36, 8, 3, 3), "f4"), "x_test": np.zeros((6, 8, 3, 3), "f4")},
        ("train.x must have channels first or last, got either in float32 (36, 8, 3, 3)", "--layout"),
    ),
    "either layout": (
        {"x_train": np.zeros((36, 3, 5, 4), "u1"), "x_test": np.zeros((6, 3, 5, 4), "u1")},
        ("train.x must have channels first or last, got either in uint8 (36, 3, 5, 4)", "--layout"),
    ),
    "integers that are not bytes": ({"x_train": np.ones((36, 5, 4), int)}, ("train.x must be bytes", "got int64")),
    "tokens below 0": ({"x_train": np.full((36, 5), -1)}, ("train.x must be tokens >= 0, got -1 in row 0",)),
    "five axes": ({"x_train": np.ones((36, 2, 2, 2, 3), "u1")}, ("train.x must be bytes", "(36, 2, 2, 2, 3)")),
    "one number a row": ({"x_train": np.ones(36, "f4"), "x_test": np.ones(6, "f4")}, ("one row per sample",)),
    "other shape in test": (
        {"x_test": np.zeros((6, 4, 5), "u1")},
        ("got uint8 (36, 5, 4) and uint8 (6, 4, 5)",),
    ),
    "other scale in test": ({"x_test": np.zeros((6, 5, 4), "f4")}, ("must have one type", "float32")),
    "NaN": ({"x_train": ONE * NAN, "x_test": ONE[:6]}, ("train.x must be finite", "36 of 36 rows, first row 0")),
    "NaN in test": ({"x_train": ONE, "x_test": ONE[:6] * INF}, ("test.x must be finite", "6 of 6 rows")),
    "too large for float32": ({"x_train": ONE * 1e300, "x_test": ONE[:6]}, ("train.x must be finite",)),
    "a gap in the classes": ({"y_train": np.arange(36) % 3 * 2}, ("train.y must have rows", "none of class 1, 3\n")),
    "a class only in test": ({"y_test": np.full(6, 4)}, ("train.y must have rows", "none of class 3, 4\n")),
    "negative": ({"y_train": np.arange(36) - 1}, ("train.y must be labels from 0", "got -1 in row 0")),
    "negative in test": ({"y_test": np.full(6, -1)}, ("test.y must be labels >= 0",)),
    "Python objects": ({"y_test": np.array([{}] * 6)}, ("must be an .npz of plain arrays", "allow_pickle")),
}


@pytest.mark.parametrize(("changes", "text"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_npz_is_refused_with_its_reason(npz, changes, text):
    with np.errstate(all="ignore"):
        path = npz(**{name: None if value is None else np.asarray(value) for name, value in changes.items()})
    with refused(*text):
        load_data(path)


def test_a_row_that_a_split_needs_is_missed(npz):
    content = arrays(n_train=5)
    with refused("must have rows for each of train, validation and test, got 5 rows of 3 classes"):
        load_data(npz(**content))


def test_a_class_that_the_split_loses_is_told(npz):
    y = np.zeros(36, int)
    y[7] = 1
    path = npz(y_train=y, y_test=np.zeros(6, int))
    lost = []
    for seed in range(12):  # a chance of 1 in 6 that row 7 goes to validation
        try:
            data = load_data(path, random_state=seed)
        except InputError:
            lost.append(seed)
        else:
            assert 1 in data.train.y
    assert 0 < len(lost) < 12
    with refused("the split's train.y must have rows of each class", "none of class 1"):
        load_data(path, random_state=lost[0])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.999), save=st.sampled_from([np.savez, np.savez_compressed]))
def test_a_file_that_is_cut_anywhere_is_refused(tmp_path, share, save):
    path = tmp_path / "cut.npz"
    save(path, **arrays())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with refused("cut.npz must be an .npz of plain arrays"):
        load_data(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_byte_is_refused_or_harmless(tmp_path, data):
    path = tmp_path / "flipped.npz"
    np.savez_compressed(path, **arrays())
    expected = load_data(path)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        found = load_data(path)
    except InputError:
        return
    assert torch.equal(found.train.x, expected.train.x)
    assert torch.equal(found.test.y, expected.test.y)


def test_other_files_under_the_name_of_an_npz_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("x_train")
    with (tmp_path / "single.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with refused("text.npz must be an .npz of plain arrays"):
        load_data(tmp_path / "text.npz")
    with refused("it is a single array"):
        load_data(tmp_path / "single.npz")


# --- load_data: names, seeds, extras ----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["mnist", "", "data.doc", Path("digits"), None])
def test_an_unknown_source_is_answered_with_the_known_ones(source):
    with refused(
        "source must be ", '"digits", a path to an .npz, .csv or .parquet file, "text:FILE" for a text, or "hf:NAME"'
    ):
        load_data(source)


def test_a_missing_file_is_told(tmp_path):
    (tmp_path / "folder.npz").mkdir()
    for name in ("absent.npz", "absent.parquet", "folder.npz"):
        with refused("source must be a file, got ", name):
            load_data(tmp_path / name)
    with refused("source must be a path that the system can hold, got one too long", "choose a shorter name"):
        load_data("long" * 99 + ".npz")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_calibration": 0}, ("n_calibration must be an int >= 1, got 0",)),
        ({"n_calibration": 2.5}, ("n_calibration must be an int >= 1, got 2.5",)),
        ({"random_state": None}, ("random_state must be an int >= 0, got None",)),
        ({"random_state": -1}, ("random_state must be an int >= 0, got -1",)),
        ({"random_state": 2**64}, ("random_state must be an int from 0 to 18446744073709551615",)),
        ({"target": "a"}, ("target must be left out for a source without columns, got 'a' for 'absent.npz'",)),
        ({"columns": "a"}, ("columns must be a list of names, got str",)),
    ],
)
def test_options_are_checked_before_the_file_is_looked_for(options, text):
    with refused(*text):
        load_data("absent.npz", **options)


@pytest.mark.parametrize(
    ("source", "module", "text"),
    [
        ("table.parquet", "pandas", ("needs pandas and pyarrow", "pip install pandas pyarrow")),
        ("hf:mnist", "datasets", ("reading hf:mnist needs the package datasets", "pip install 'consilience[hub]'")),
    ],
)
def test_a_missing_extra_is_named_with_its_cure(tmp_path, monkeypatch, source, module, text):
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)  # what Python does for a module that cannot be imported
    with refused(*text):
        load_data(source)


class FakeSplit(dict):
    column_names = property(lambda self: list(self))


@pytest.fixture
def hub(monkeypatch):
    """Stand in for the package datasets: what load_dataset(name) returns is set by the test."""
    from PIL import Image

    def install(**splits) -> None:
        module = ModuleType("datasets")
        module.load_dataset = lambda name: {
            split: FakeSplit({column: self_images(Image, values) for column, values in columns.items()})
            for split, columns in splits.items()
        }
        monkeypatch.setitem(sys.modules, "datasets", module)

    def self_images(image, values):
        return [image.fromarray(value) if isinstance(value, np.ndarray) else value for value in values]

    return install


def test_images_of_the_hub_become_pixels(hub):
    pixels = np.random.default_rng(0).integers(0, 256, (42, 5, 4, 3), dtype=np.uint8)
    labels = [row % 3 for row in range(42)]
    hub(train={"img": list(pixels[:36]), "label": labels[:36]}, test={"img": list(pixels[36:]), "label": labels[36:]})
    data = load_data("hf:someone/things")
    assert (data.name, data.image_shape, len(data.test)) == ("hf:someone/things", (3, 5, 4), 6)
    assert np.array_equal((data.train.x * 255).round().permute(0, 2, 3, 1).numpy(), pixels[data.train.ids])


def test_a_hub_source_without_a_test_set_is_split_by_class(hub):
    hub(train={"image": [np.full((5, 4), row, np.uint8) for row in range(40)], "label": [row % 2 for row in range(40)]})
    data = load_data("hf:grey")
    assert data.image_shape == (1, 5, 4)
    assert torch.bincount(data.test.y).tolist() == [4, 4]
    assert torch.bincount(data.validation.y).tolist() == [3, 3]


def test_a_class_that_is_too_small_to_share_stays_in_train(hub):
    labels = [1, 0, 0, 0, 1, *[0] * 20]
    hub(train={"image": [np.full((2, 2), row, np.uint8) for row in range(25)], "label": labels})
    data = load_data("hf:rare")
    assert {0, 4} <= set(data.train.ids.tolist())


def test_hub_sources_that_do_not_fit_are_refused(hub):
    small, large = np.zeros((5, 4), np.uint8), np.zeros((6, 4), np.uint8)
    hub(train={"image": [small, large], "label": [0, 1]})
    with refused("images of hf:sizes train must have one size", "(5, 4) and (6, 4)"):
        load_data("hf:sizes")
    hub(train={"text": ["a"], "label": [0]})
    with refused("exactly one column image or img, got columns text, label\n"):
        load_data("hf:words")
    hub(train={"image": [small], "label": [0], "y": [0]})
    with refused("exactly one column label or y or fine_label"):
        load_data("hf:two")
    hub(test={"image": [small], "label": [0]})
    with refused("hf:tests must have a split train"):
        load_data("hf:tests")


def test_an_error_of_the_hub_is_passed_on(monkeypatch):
    def load_dataset(name):
        raise ConnectionError("offline")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with refused("hf:far must be a data set of the Hugging Face hub", "ConnectionError: offline"):
        load_data("hf:far")


def test_parquet_tables_are_read(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pandas = pytest.importorskip("pandas", exc_type=ImportError)
        pytest.importorskip("pyarrow", exc_type=ImportError)
    frame = pandas.DataFrame({"a": np.arange(40.0), "y": np.arange(40) % 2, "b": np.arange(40)})
    frame.to_parquet(tmp_path / "table.parquet")
    data = load_data(tmp_path / "table.parquet")
    assert torch.equal(data.train.x, data.train.ids.reshape(-1, 1).expand(-1, 2).float())
    assert torch.equal(data.train.y, data.train.ids % 2)
    assert data.read_as == "x: columns a, b; target y; y: 2 classes"
    odd = {"of str": "007", "datetime64": pandas.Timestamp(2020, 1, 1), "of object": b"bytes"}
    for kind, value in odd.items():
        frame.assign(b=value).to_parquet(tmp_path / "table.parquet")
        with refused("must have columns of numbers, got 'b' of ", *([kind] if "date" in kind else []), "--columns"):
            load_data(tmp_path / "table.parquet")
        assert load_data(tmp_path / "table.parquet", columns=["a"]).train.x.shape[1] == 1
    frame.set_index("a").to_parquet(tmp_path / "table.parquet")
    assert torch.equal(load_data(tmp_path / "table.parquet").train.x, data.train.x)
    frame.set_index(frame["a"] + 1).to_parquet(tmp_path / "table.parquet")  # an index of the same name
    with refused("columns and target must be different columns", "got 'a' of 'a', 'a', 'y', 'b'"):
        load_data(tmp_path / "table.parquet")
    frame.assign(y="word").to_parquet(tmp_path / "table.parquet")
    with refused("train.y must have at least 2 classes, got 0 in all rows"):
        load_data(tmp_path / "table.parquet")
    renamed = frame.rename(columns={"y": "kind"}).assign(b=frame["b"] > 3)
    renamed.to_parquet(tmp_path / "table.parquet")
    with refused("must have exactly one column label or y", "--target"):
        load_data(tmp_path / "table.parquet")
    named = load_data(tmp_path / "table.parquet", columns=["b", "a"], target="kind")
    assert named.train.x[:, 0].tolist() == (named.train.ids > 3).tolist()
    with refused("columns must be among a, kind, b, got 'c'"):
        load_data(tmp_path / "table.parquet", columns=["c"], target="kind")
    for columns, name in ((["a", "a"], "a"), (["a", "kind"], "kind")):
        with refused("columns and target must be different columns", f"got '{name}' of"):
            load_data(tmp_path / "table.parquet", columns=columns, target="kind")
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    with refused("must be a .parquet file"):
        load_data(tmp_path / "table.parquet")


def test_integers_are_tokens_with_the_next_ones_or_with_labels(tmp_path: Path) -> None:
    x = np.arange(36 * 5).reshape(36, 5) % 7
    arrays = {"x_train": x, "x_test": x[:6]}
    following = {"y_train": x + 1, "y_test": x[:6] + 1}
    np.savez(tmp_path / "next.npz", **arrays, **following)
    data = load_data(tmp_path / "next.npz", task="next-token")
    assert (data.task, data.n_outputs, data.read_as) == ("next-token", 8, "x: int64 (36, 5), tokens; y: tokens below 8")
    assert torch.equal(data.train.x + 1, data.train.y)
    np.savez(tmp_path / "labels.npz", **arrays, y_train=np.arange(36) % 2, y_test=np.arange(6) % 2)
    data = load_data(tmp_path / "labels.npz")
    assert (data.train.x.dtype, data.n_classes) == (torch.int64, 2)
    np.savez(tmp_path / "named.npz", **following, ids_train=x, ids_test=x[:6])
    data = load_data(tmp_path / "named.npz", task="next-token", columns=["ids"])
    assert data.train.x["ids"].dtype == torch.int64
