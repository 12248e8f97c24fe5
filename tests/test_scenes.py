"""Scenes, German signs, drawn signs and composites, against the obvious way of doing the same."""

import os
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ats.datasets.composites import Composites
from ats.datasets.decoded import DecodedImages, small_shape, small_view
from ats.datasets.drawn_signs import draw_limit, draw_other
from ats.datasets.german_signs import GermanSigns
from ats.datasets.joined import Joined
from ats.datasets.scenes import EMPTY, Scene, Scenes, balanced_weights
from ats.datasets.sources import SOURCES
from ats.datasets.spoilt import _exposed
from ats.datasets.street_scenes import make_street_scenes
from ats.datasets.swedish_signs import SwedishSigns
from ats.files import atomic_folder
from ats.images import ArrayImages, JoinedImages, TensorImages
from ats.images.pasted import Overlay, PastedImages, paste
from ats.transforms import Change, change_small_views

SHARED = os.environ.get("ATS_SHARED")
needs_shared = pytest.mark.skipif(not SHARED, reason="ATS_SHARED, with the scenes, is not set")
LIMITS = ("30", "50", "70", "80", "100", "120")


def write_photograph(path: Path, height: int = 53, width: int = 67, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def photographs(folder: Path, labels: list[str], **size: int) -> list[Scene]:
    return [
        Scene(write_photograph(folder / f"{n:03d}.png", seed=n, **size), label)
        for n, label in enumerate(labels)
    ]


@pytest.fixture
def scenes(tmp_path: Path) -> Scenes:
    found = photographs(tmp_path, [EMPTY, "OTHER", EMPTY, "OTHER"], height=160, width=230)
    return Scenes(found, [EMPTY, "OTHER"], scale=0.3, cache=tmp_path / "cache", progress=False)


def whole(scenes: Scenes, index: int) -> np.ndarray:
    return np.array(Image.open(scenes.scenes[index].path))


# Reading


def test_batches_hold_the_photographs(scenes: Scenes) -> None:
    batch = scenes.__getitems__([2, 1])
    assert batch.target.tolist() == [0, 1]
    assert batch.index.tolist() == [2, 1]
    offsets = torch.tensor([[[0, 0]], [[150, 220]]])
    patches = batch.x_high.patches(offsets, (10, 10))
    np.testing.assert_array_equal(patches[0, 0].permute(1, 2, 0), whole(scenes, 2)[:10, :10])
    np.testing.assert_array_equal(patches[1, 0].permute(1, 2, 0), whole(scenes, 1)[150:, 220:])
    np.testing.assert_array_equal(scenes.pixels(1).permute(1, 2, 0), whole(scenes, 1))


def test_small_views_average_areas(scenes: Scenes) -> None:
    view = scenes[0].x_low[0].permute(1, 2, 0).numpy()
    assert view.shape == (48, 69, 3)
    pixels = whole(scenes, 0).astype(float)
    for row, column in np.ndindex(48, 69):
        inside = [
            (np.arange(large) + 0.5 > small_index * large / small)
            & (np.arange(large) + 0.5 <= (small_index + 1) * large / small)
            for small_index, large, small in ((row, 160, 48), (column, 230, 69))
        ]
        mean = pixels[inside[0]][:, inside[1]].mean((0, 1))
        assert np.abs(view[row, column] - mean).max() <= 1


def test_a_panned_photograph_has_the_panned_small_view(scenes: Scenes) -> None:
    for pan, pan_low in (((20, -30), (6, -9)), ((-10, 0), (-3, 0)), ((0, 50), (0, 15))):
        panned = np.zeros((160, 230, 3), np.uint8)
        rows = [slice(max(t, 0), n + min(t, 0)) for t, n in zip(pan, (160, 230), strict=True)]
        read = [slice(max(-t, 0), n - max(t, 0)) for t, n in zip(pan, (160, 230), strict=True)]
        panned[tuple(rows)] = whole(scenes, 3)[tuple(read)]
        wanted = torch.from_numpy(small_view(panned, 0.3)).permute(2, 0, 1).float() / 255
        change = Change(torch.ones(1), torch.zeros(1), torch.tensor([pan]), torch.tensor([pan_low]))
        got = change_small_views(scenes[3].x_low, change)[0]
        # Borders included, up to the last bit of 8.
        assert (got - wanted).abs().max() <= 1.01 / 255


def test_a_slightly_different_scale_is_another(tmp_path: Path) -> None:
    path = write_photograph(tmp_path / "a.png", 800, 20)
    cache = DecodedImages(tmp_path / "cache", 1 << 20)
    shapes = []
    for scale in (0.300625, 0.3006251):
        shapes.append(cache.small(path, scale, cache.full(path)).shape[:2])
        assert shapes[-1] == small_shape((800, 20), scale)
    assert shapes == [(240, 6), (241, 6)]


def test_photographs_are_decoded_once_and_anew_when_they_change(tmp_path: Path) -> None:
    path = write_photograph(tmp_path / "a.png")
    cache = DecodedImages(tmp_path / "cache", 1 << 20)
    first = cache.full(path)
    assert isinstance(first, np.memmap)
    kept = list((tmp_path / "cache").glob("*.npy"))
    assert len(kept) == 1
    before = kept[0].stat().st_mtime_ns
    DecodedImages(tmp_path / "cache", 1 << 20).full(path)
    assert kept[0].stat().st_mtime_ns == before
    write_photograph(path, seed=1)
    os.utime(path, ns=(1, 1))
    assert not np.array_equal(cache.full(path), first)


@pytest.mark.parametrize("damage", ["empty", "cut", "other type", "pickle"])
def test_a_damaged_decoded_photograph_is_made_anew(tmp_path: Path, damage: str) -> None:
    path = write_photograph(tmp_path / "a.png")
    cache = DecodedImages(tmp_path / "cache", 1 << 20)
    wanted = np.array(cache.full(path))
    view = cache.small(path, 0.3, wanted)
    for kept in (tmp_path / "cache").iterdir():
        if damage == "empty":
            kept.write_bytes(b"")
        elif damage == "cut":
            kept.write_bytes(kept.read_bytes()[:-100])
        else:
            array = np.zeros(3) if damage == "other type" else np.array([{}])
            np.save(kept, array, allow_pickle=True)
    np.testing.assert_array_equal(cache.full(path), wanted)
    np.testing.assert_array_equal(cache.small(path, 0.3, wanted), view)
    assert isinstance(cache.full(path), np.memmap)


def test_the_bound_on_decoded_photographs_holds(tmp_path: Path) -> None:
    paths = [write_photograph(tmp_path / f"{n}.png", seed=n) for n in range(5)]
    bound = 2 * (53 * 67 * 3 + 200)
    cache = DecodedImages(tmp_path / "cache", bound)
    arrays = [cache.full(path) for path in paths]
    for path, array in zip(paths, arrays, strict=True):
        np.testing.assert_array_equal(array, np.array(Image.open(path)))
    kept = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
    assert 0 < kept <= bound
    # A second process finds what the first one kept.
    DecodedImages(tmp_path / "cache", bound).full(paths[4])
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) == kept


def test_scenes_that_cannot_be_used(tmp_path: Path) -> None:
    make = partial(Scenes, cache=tmp_path / "cache", progress=False)
    found = photographs(tmp_path, ["A", "A"])
    with pytest.raises(ValueError, match=r"scale=0 must lie above 0"):
        make(found, ["A"], scale=0)
    with pytest.raises(ValueError, match=r"scenes=0 .*give at least one scene"):
        make([], ["A"], scale=1)
    with pytest.raises(ValueError, match=r"labels \['A'\] beside the classes \['B'\]"):
        make(found, ["B"], scale=1)
    other = Scene(write_photograph(tmp_path / "other.png", height=54), "A")
    with pytest.raises(ValueError, match=r"other.png has 54 x 67 pixels, the scenes before it 53"):
        make([*found, other], ["A"], scale=1)
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    with pytest.raises(ValueError, match=r"text.jpg is truncated or no image"):
        make([Scene(text, "A")], ["A"], scale=1)
    huge = tmp_path / "huge.png"
    Image.new("1", (14_000, 13_000)).save(huge)
    with pytest.raises(ValueError, match=r"huge.png has too many pixels.*ats train"):
        make([Scene(huge, "A")], ["A"], scale=1)
    outside = found[0]._replace(boxes=((3, 4, 10, 12), (50, 4, 58, 12)))
    with pytest.raises(ValueError, match=r"000.png has 53 x 67 pixels.*row 54 and column 8"):
        make([outside], ["A"], scale=1)
    with pytest.raises(FileNotFoundError, match=r"none.jpg is missing"):
        make([Scene(tmp_path / "none.jpg", "A")], ["A"], scale=1)


def test_weights_balance_the_classes() -> None:
    targets = torch.tensor([0, 0, 0, 0, 0, 1, 2, 2])
    weights = balanced_weights(targets, ["a", "b", "c"])
    torch.testing.assert_close(weights, torch.tensor([8 / 15, 8 / 3, 8 / 6]))
    assert float(weights[targets].mean()) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"the classes d have no training image"):
        balanced_weights(targets, ["a", "b", "c", "d"])


# German signs


@needs_shared
def test_the_german_benchmark() -> None:
    signs = GermanSigns(Path(SHARED or "") / "data" / "gtsdb", LIMITS)
    train, test = signs.scenes(train=True), signs.scenes(train=False)
    assert (len(train), len(test)) == (288, 84)
    assert max(Counter(scene.label for scene in test).values()) == 28  # a third
    assert {scene.label for scene in train} == set(signs.classes)
    assert all(bool(scene.boxes) == (scene.label != EMPTY) for scene in train + test)
    shown = next(scene for scene in train if scene.path.stem == "00003")
    assert (shown.label, shown.boxes) == ("70", ((442, 741, 466, 765),))
    backgrounds = signs.backgrounds()
    assert {scene.label for scene in backgrounds} == {EMPTY, "OTHER"}
    # Every training scene either has a limit or is a background.
    every = GermanSigns(signs.folder).scenes(train=True)
    assert len([scene for scene in every if scene.boxes]) + len(backgrounds) == 600


def german_folder(folder: Path, suffix: str) -> Path:
    for number in (0, 1, 599, 600, 601):
        write_photograph(folder / f"{number:05d}.{suffix}")
    lines = ["00001.ppm;3;4;10;12;4", "00599.ppm;3;4;10;12;13", "00600.ppm;3;4;10;12;4"]
    (folder / "gt.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("suffix", ["ppm", "jpg", "JPEG"])
def test_a_german_folder_as_published_or_encoded_anew(tmp_path: Path, suffix: str) -> None:
    signs = GermanSigns(german_folder(tmp_path, suffix))
    assert signs.classes[:3] == [EMPTY, "20", "30"]
    train = signs.scenes(train=True)
    assert [(scene.path.name, scene.label) for scene in train] == [
        (f"00000.{suffix}", EMPTY),
        (f"00001.{suffix}", "70"),
    ]
    assert train[1].boxes == ((3, 2, 12, 10),)
    assert [scene.label for scene in signs.scenes(train=False)] == ["70", EMPTY]
    assert [scene.label for scene in signs.backgrounds()] == [EMPTY, "OTHER"]
    # A limit that was not asked for leaves its scene out, and is no background either.
    others = GermanSigns(tmp_path, ("30",))
    assert [scene.label for scene in others.scenes(train=True)] == [EMPTY]
    assert len(others.backgrounds()) == 2


def test_german_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gt.txt is missing: give the benchmark"):
        GermanSigns(tmp_path).scenes(train=True)
    wanted = (
        r"limits=\['40'\] are not in this set of scenes; it has 20, 30, 50, 60, 70, 80, 100, 120"
    )
    with pytest.raises(ValueError, match=wanted):
        GermanSigns(tmp_path, ("40",))
    folder = german_folder(tmp_path, "jpg")
    (folder / "00001.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 images that gt.txt names, such as 00001"):
        GermanSigns(folder).scenes(train=True)
    (folder / "gt.txt").write_text("00000.ppm;10;2;5;7;1\n")
    with pytest.raises(ValueError, match=r"gt.txt: line 1 has a box inside out"):
        GermanSigns(folder).scenes(train=True)
    # After a byte order mark, as some editors write it.
    (folder / "gt.txt").write_text("00000.ppm;1;2;5;7;43\n", encoding="utf-8-sig")
    with pytest.raises(ValueError, match=r"gt.txt: line 1 has a class beyond 0 to 42"):
        GermanSigns(folder).scenes(train=True)
    (folder / "gt.txt").write_text("00000.ppm;1;2;5;7;1\n", encoding="utf-8-sig")
    assert [scene.label for scene in GermanSigns(folder).scenes(train=True)][:1] == ["30"]
    with pytest.raises(ValueError, match=r"gt.txt names no test image"):
        GermanSigns(folder).scenes(train=False)
    (folder / "gt.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(ValueError, match=r"gt.txt: line 1 is no NAME"):
        GermanSigns(folder).scenes(train=True)
    (folder / "gt.txt").write_text("")
    for path in folder.glob("006*"):
        path.rename(folder / f"9{path.name}")
    with pytest.raises(FileNotFoundError, match=r"none of the test images 00600 to 00899"):
        GermanSigns(folder).scenes(train=False)
    (folder / "gt.txt").write_text("00000.ppm;1;2;3\n")
    with pytest.raises(ValueError, match=r"gt.txt: line 1 is no NAME;left;top;right;bottom;class"):
        GermanSigns(folder).scenes(train=True)


# Drawn signs and scenes


@pytest.mark.parametrize("height", [16, 131])
def test_drawn_signs(height: int) -> None:
    for draw in (partial(draw_limit, "70"), draw_other):
        pixels = draw(np.random.default_rng(3), height)
        assert pixels.dtype == np.uint8
        # Some room for the blur around it.
        assert height < pixels.shape[0] <= 1.3 * height
        assert pixels[..., 3].max() == 255
        assert pixels[0, 0, 3] < 30
        again = draw(np.random.default_rng(3), height)
        np.testing.assert_array_equal(pixels, again)
        assert not np.array_equal(draw(np.random.default_rng(4), height), pixels)
    with pytest.raises(ValueError, match="height=3 must be at least 4"):
        draw_limit("70", np.random.default_rng(0), 3)


def test_limits_look_different() -> None:
    seen = [draw_limit(limit, np.random.default_rng(0), 60) for limit in LIMITS]
    for number, one in enumerate(seen):
        for other in seen[number + 1 :]:
            assert one.shape != other.shape or not np.array_equal(one, other)


def test_worn_signs_are_seen_in_any_light() -> None:
    grey = np.full((4, 4, 4), 100.0, np.float32)
    light = {}
    for wear in (0.3, 0.6):
        rng = np.random.default_rng(0)
        light[wear] = np.array([_exposed(grey.copy(), rng, wear)[0, 0] for _ in range(2000)])
        assert (light[wear][:, 3] == 100).all()
    assert (light[0.3] == 100).all()
    means = light[0.6][:, :3].mean(1)
    # Three in ten in shadow, three in too much light, the others as they were.
    assert 0.25 < (means < 90).mean() < 0.35
    assert 0.25 < (means > 105).mean() < 0.35
    assert means.min() < 25
    assert means.max() > 230
    # Shadow is blue, and light warm.
    red, blue = light[0.6][:, 0], light[0.6][:, 2]
    assert (blue >= red)[means < 90].all()
    assert (red >= blue)[means > 105].all()


def test_drawn_scenes_are_made_by_one_process_in_a_folder_that_is_free(tmp_path: Path) -> None:
    with (
        atomic_folder(tmp_path / "Set1"),
        pytest.raises(ValueError, match="Set1 is being made by another process; wait for it"),
    ):
        make_street_scenes(tmp_path, n_train=4, n_test=4, progress=False)
    with pytest.raises(ValueError, match=r"Set1 is there without annotations.txt.*delete it"):
        make_street_scenes(tmp_path, n_train=4, n_test=4, progress=False)


def test_drawn_scenes_are_as_many_as_asked_for(tmp_path: Path) -> None:
    make_street_scenes(tmp_path, n_train=4, n_test=2, progress=False)
    make_street_scenes(tmp_path, n_train=4, n_test=2, progress=False)
    with pytest.raises(ValueError, match=r"Set2.*annotations.txt is of 2 scenes, not of 11"):
        make_street_scenes(tmp_path, n_train=4, n_test=10, progress=False)
    # The script takes what is there.
    assert len(SOURCES["synthetic"](tmp_path, None).scenes(train=True)) == 4


def test_drawn_scenes_are_read_as_swedish_ones(tmp_path: Path) -> None:
    make_street_scenes(tmp_path, n_train=12, n_test=4, progress=False)
    signs = SwedishSigns(tmp_path)
    train = signs.scenes(train=True)
    assert Counter(scene.label for scene in train) == {EMPTY: 3, "50": 3, "70": 3, "80": 3}
    assert len(signs.scenes(train=False)) == 4
    assert {scene.label for scene in signs.backgrounds()} == {EMPTY, "OTHER"}
    before = (tmp_path / "Set1" / "annotations.txt").stat().st_mtime_ns
    make_street_scenes(tmp_path, n_train=12, n_test=4, progress=False)
    assert (tmp_path / "Set1" / "annotations.txt").stat().st_mtime_ns == before
    again = make_street_scenes(tmp_path / "again", n_train=12, n_test=4, progress=False)
    name = train[5].path.relative_to(tmp_path)
    assert (again / name).read_bytes() == train[5].path.read_bytes()


# Pasting


def opaque(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)


@pytest.mark.parametrize("offset", [(0, 0), (-3, 20), (45, 60), (-50, 0), (60, 80)])
def test_patches_show_what_was_pasted(offset: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 3, 53, 67), dtype=np.uint8)
    overlay = Overlay(opaque(13, 11), offset)
    wanted = pixels.copy()
    for row, column in np.ndindex(13, 11):
        y, x = row + offset[0], column + offset[1]
        if 0 <= y < 53 and 0 <= x < 67:
            share = overlay.pixels[row, column, 3] / 255
            mixed = overlay.pixels[row, column, :3] * share + pixels[1, :, y, x] * (1 - share)
            wanted[1, :, y, x] = np.round(mixed)
    images = PastedImages(ArrayImages(list(pixels)), [[], [overlay]])
    offsets = torch.randint(-9, 70, (2, 60, 2), generator=torch.Generator().manual_seed(0))
    got = images.patches(offsets, (17, 9))
    plain = TensorImages(torch.from_numpy(wanted)).patches(offsets, (17, 9))
    assert torch.equal(got, plain)
    with pytest.raises(ValueError, match="overlays=1 must be one list for each of the 2"):
        PastedImages(ArrayImages(list(pixels)), [[]])


def draw_square(label: str, rng: np.random.Generator, height: int) -> np.ndarray:
    pixels = rng.integers(0, 256, (height, height + 2, 4), dtype=np.uint8)
    pixels[..., 0] = 255 if label == "A" else 0
    return pixels


def make_composites(scenes: Scenes, **options: object) -> Composites:
    given = {"draw": draw_square, "heights": (8, 40), "seed": 7} | options
    return Composites(scenes, [EMPTY, "A", "B"], 30, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [None, (60, 50), (160, 31)])
def test_a_composite_is_a_photograph_with_an_object(
    scenes: Scenes, size: tuple[int, int] | None
) -> None:
    composites = make_composites(scenes, size=size)
    batch = composites.__getitems__(list(range(30)))
    offsets = torch.randint(-20, 230, (30, 9, 2), generator=torch.Generator().manual_seed(1))
    patches = batch.x_high.patches(offsets, (31, 23))
    for index in range(30):
        made = composites.compose(index)
        (top, left), (height, width) = made.corner, size or scenes.high_shape
        pixels = whole(scenes, made.background)[top : top + height, left : left + width].copy()
        for overlay in made.overlays:
            paste(pixels, overlay, (0, 0), pixels.shape[:2])
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        wanted = TensorImages(image[None]).patches(offsets[index : index + 1], (31, 23))
        assert torch.equal(patches[index], wanted[0])
        view = torch.from_numpy(small_view(pixels, 0.3)).permute(2, 0, 1)
        assert torch.equal(batch.x_low[index], view)
        assert batch.target[index] == index % 3
        assert len(made.overlays) == (index % 3 > 0)


def test_rows_of_composites_are_shares(scenes: Scenes) -> None:
    with pytest.raises(ValueError, match=r"rows=\(15, 75\) must be shares"):
        make_composites(scenes, rows=(15, 75))


def test_composites_keep_their_promises(scenes: Scenes) -> None:
    composites = make_composites(scenes, rows=(0.2, 0.6))
    assert composites.targets.tolist() == [0, 1, 2] * 10
    for index in range(30):
        made = composites.compose(index)
        if composites.classes[made.target] == EMPTY:
            assert scenes.scenes[made.background].label == EMPTY
            assert composites.boxes(index) == ()
            continue
        ((top, left, bottom, right),) = composites.boxes(index)
        assert 8 <= bottom - top <= 40
        assert 0 <= left < right <= 230
        assert 0.2 * 160 - 1 <= (top + bottom) / 2 <= 0.6 * 160 + 1
    one, same = make_composites(scenes)[4], make_composites(scenes)[4]
    assert torch.equal(one.x_low, same.x_low)
    assert not torch.equal(make_composites(scenes, seed=8)[4].x_low, one.x_low)
    # Making composites leaves the backgrounds as they were.
    np.testing.assert_array_equal(
        scenes[0].x_low[0].permute(1, 2, 0), small_view(whole(scenes, 0), 0.3)
    )


def test_small_composites_show_the_object_anywhere_in_them(scenes: Scenes) -> None:
    composites = make_composites(scenes, size=(48, 44))
    places = []
    for index in range(30):
        for top, left, bottom, right in composites.boxes(index):
            assert 0 <= top < bottom <= 48
            assert 0 <= left < right <= 44
            places.append((top, left))
    assert np.ptp(places, axis=0).min() > 15
    # Of an object that is larger, as much as there is room for.
    ((top, left, bottom, right),) = make_composites(scenes, size=(20, 9), heights=(30, 30)).boxes(1)
    assert top <= 0
    assert left <= 0
    assert bottom >= 20
    assert right >= 9
    with pytest.raises(ValueError, match=r"size=\(161, 9\) must lie above 0 and within"):
        make_composites(scenes, size=(161, 9))
    with pytest.raises(ValueError, match=r"heights=\(8, 4000\) reach beyond"):
        make_composites(scenes, heights=(8, 4000))


def test_the_empty_class_needs_empty_backgrounds(tmp_path: Path) -> None:
    found = photographs(tmp_path, ["OTHER"])
    scenes = Scenes(found, ["OTHER"], scale=0.3, cache=tmp_path / "cache", progress=False)
    with pytest.raises(ValueError, match="backgrounds have no EMPTY photograph"):
        make_composites(scenes)


def test_joined_sets(scenes: Scenes) -> None:
    composites = make_composites(scenes)
    joined = Joined([scenes, composites])
    assert len(joined) == 34
    assert joined.targets.tolist() == [*scenes.targets.tolist(), *composites.targets.tolist()]
    batch = joined.__getitems__([33, 2, 4])
    assert batch.index.tolist() == [33, 2, 4]
    assert batch.target.tolist() == [2, 0, 0]
    offsets = torch.tensor([[[3, 4]], [[5, 6]], [[-7, 8]]])
    patches = batch.x_high.patches(offsets, (9, 9))
    for place, (part, index) in enumerate(((composites, 29), (scenes, 2), (composites, 0))):
        one = part[index]
        assert torch.equal(batch.x_low[place], one.x_low[0])
        wanted = one.x_high.patches(offsets[place : place + 1], (9, 9))
        assert torch.equal(patches[place], wanted[0])
    for part in (joined, composites):
        assert torch.equal(part[-1].x_low, part[len(part) - 1].x_low)
        assert part[-2].index.tolist() == [len(part) - 2]
        with pytest.raises(IndexError):
            part[len(part)]
    assert len(list(composites)) == 30
    with pytest.raises(ValueError, match="parts must be at least one data set"):
        Joined([])


def test_joined_images_are_checked() -> None:
    with pytest.raises(ValueError, match=r"got \(channels, dimensions\) \[\(1, 2\), \(3, 2\)\]"):
        JoinedImages([TensorImages(torch.zeros(1, c, 4, 4)) for c in (1, 3)])
    joined = JoinedImages([TensorImages(torch.zeros(2, 1, 4, 4))] * 2)
    assert joined.shapes.tolist() == [[4, 4]] * 4
    with pytest.raises(ValueError, match="offsets are for a batch of 3, the images for one of 4"):
        joined.patches(torch.zeros(3, 1, 2, dtype=torch.int64), (2, 2))
