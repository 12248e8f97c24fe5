"""Readers of image files: the pixels of the dense image, and no more of the file than needed."""

import math
import multiprocessing
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import zarr
from image_files import FORMATS, SHAPE, TILE, Made, ome_zarr, picture, tiff
from image_folder import save
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

import ats
from ats.images import FileImages, ImageError, Reader, pad_small_views, read_small_view
from ats.images.decoded import DecodedFiles
from ats.images.handles import HANDLES, Handles
from ats.images.ome_zarr import ZarrReader

# Inside, across each border and corner, and outside on every side.
OFFSETS = [
    (3, 5),
    (-9, 7),
    (8, -11),
    (290, 20),
    (100, 440),
    (-5, -5),
    (300, 450),
    (-60, 0),
    (0, 460),
]
SIZE = (37, 29)


@pytest.fixture
def decoded(tmp_path: Path) -> DecodedFiles:
    return DecodedFiles(tmp_path / "decoded")


@pytest.fixture(params=FORMATS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    return FORMATS[request.param](tmp_path)


def dense(pixels: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


def test_patches_are_those_of_the_dense_image(made: Made, decoded: DecodedFiles) -> None:
    reader = ats.open_image(made.path, decoded=decoded)
    assert reader.layout.shapes == tuple(level.shape[:2] for level in made.levels)
    assert reader.channels == made.levels[0].shape[2]
    offsets = torch.tensor([OFFSETS])
    for number, level in enumerate(made.levels):
        images = FileImages([reader], level=number)
        assert images.shapes.tolist() == [list(level.shape[:2])]
        expected = ats.extract_patches(dense(level), offsets, SIZE)
        assert torch.equal(images.patches(offsets, SIZE), expected)
        assert torch.equal(
            torch.from_numpy(reader.read((0, 0), level.shape[:2], number)), dense(level)[0]
        )


def test_a_reader_travels_and_serves_threads(made: Made, decoded: DecodedFiles) -> None:
    reader: Reader = pickle.loads(pickle.dumps(ats.open_image(made.path, decoded=decoded)))
    whole = dense(made.levels[0])[0].numpy()

    def same(corner: tuple[int, int]) -> bool:
        rows, columns = slice(corner[0], corner[0] + 40), slice(corner[1], corner[1] + 30)
        return np.array_equal(reader.read(corner, (40, 30)), whole[:, rows, columns])

    corners = [(row, column) for row in range(0, 270, 13) for column in range(0, 420, 37)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(same, corners))


class Corners(torch.utils.data.Dataset[Tensor]):
    """A patch of a reader for each item."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        images = FileImages([self.reader])
        return images.patches(torch.tensor([[[30 * index, 40 * index]]]), (20, 20))[0, 0]


# On a machine with one core torch warns of two workers.
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("kind", ["tiled", "zarr", "png"])
def test_forked_workers_read_for_themselves(
    kind: str, tmp_path: Path, decoded: DecodedFiles
) -> None:
    made = FORMATS[kind](tmp_path)
    dataset = Corners(ats.open_image(made.path, decoded=decoded))
    # The parent has the file open, and its threads started, before it forks.
    first = dataset[0]
    loader = DataLoader(dataset, num_workers=2, batch_size=None, multiprocessing_context="fork")
    got = list(loader)
    assert torch.equal(got[0], first)
    for index, patch in enumerate(got):
        expected = ats.extract_patches(
            dense(made.levels[0]), torch.tensor([[[30 * index, 40 * index]]]), (20, 20)
        )
        assert torch.equal(patch, expected[0, 0])


def touched(offsets: list[tuple[int, int]], size: tuple[int, int]) -> int:
    """Tiles that patches touch, each patch counted by itself."""
    total = 0
    for corner in offsets:
        spans = []
        for start, extent, limit, tile in zip(corner, size, SHAPE, TILE, strict=True):
            first, last = max(start, 0), min(start + extent, limit)
            spans.append((last - 1) // tile - first // tile + 1 if first < last else 0)
        total += math.prod(spans)
    return total


@pytest.mark.parametrize(("kind", "planes"), [("tiled", 1), ("planes", 3), ("ome", 5)])
def test_a_tiff_is_asked_for_the_touched_tiles_alone(
    kind: str, planes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ats.open_image(FORMATS[kind](tmp_path).path)
    assert reader.shape == SHAPE
    requests: list[int] = []
    pread = os.pread

    def counted(descriptor: int, length: int, offset: int) -> bytes:
        requests.append(length)
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    FileImages([reader]).patches(torch.tensor([OFFSETS]), SIZE)
    assert 0 < len(requests) <= planes * touched(OFFSETS, SIZE)


class CountingStore(zarr.storage.WrapperStore[Any]):
    """Notes which keys are read."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.keys: list[str] = []

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        self.keys.append(key)
        return await self._store.get(key, *args, **options)


def test_zarr_is_asked_for_the_touched_chunks_alone(tmp_path: Path) -> None:
    path = FORMATS["zarr"](tmp_path).path
    store = CountingStore(zarr.storage.LocalStore(path, read_only=True))
    reader = ZarrReader(path, store=store)
    assert reader.shape == SHAPE
    store.keys.clear()
    FileImages([reader]).patches(torch.tensor([OFFSETS]), SIZE)
    chunks = [key for key in store.keys if key.startswith("c/")]
    assert 0 < len(chunks) <= touched(OFFSETS, SIZE)


def test_an_array_is_mapped_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    # 4 GiB, of which the disk holds nothing.
    np.lib.format.open_memmap(path, "w+", np.uint8, (1 << 16, 1 << 16))
    before = psutil.Process().memory_info().rss
    reader = ats.open_image(path)
    assert reader.read((1 << 15, 77), (64, 64)).shape == (1, 64, 64)
    assert psutil.Process().memory_info().rss - before < 1 << 26


def test_few_files_stay_open(tmp_path: Path) -> None:
    opened: list[str] = []
    closed: list[str] = []

    class File:
        def __init__(self, name: str) -> None:
            self.name = name
            opened.append(name)

        def close(self) -> None:
            closed.append(self.name)

    handles = Handles(2)
    with handles.lend("a", lambda: File("a")):
        for name in "bcd":
            with handles.lend(name, lambda name=name: File(name)):
                pass
        # What is in use stays open, whatever its age.
        assert "a" not in closed
        assert len(handles) == 2
    with handles.lend("a", lambda: File("a")):
        pass
    assert opened == ["a", "b", "c", "d"]
    assert closed == ["b", "c"]


def test_many_readers_hold_few_descriptors(tmp_path: Path) -> None:
    readers = []
    for number in range(HANDLES.limit + 20):
        made = tiff(tmp_path, [picture((5, 7))], f"{number}.tif", photometric="rgb")
        readers.append(ats.open_image(made.path))
    before = psutil.Process().num_fds()
    for reader in readers:
        reader.read((0, 0), (5, 7))
    # A descriptor for the tags and one for the pixels of each.
    assert psutil.Process().num_fds() - before <= 2 * HANDLES.limit + 8
    assert len(HANDLES) <= HANDLES.limit


@pytest.mark.parametrize("suffix", ["tif", "npy", "png"])
def test_another_file_at_the_same_path_is_another_image(
    suffix: str, tmp_path: Path, decoded: DecodedFiles
) -> None:
    path = tmp_path / f"image.{suffix}"
    pixels = [np.full((40, 50 + number, 3), number, np.uint8) for number in range(2)]
    save(path, pixels[0])
    former = ats.open_image(path, decoded=decoded)
    assert former.read((0, 0), (2, 2)).max() == 0
    save(tmp_path / f"new.{suffix}", pixels[1])
    (tmp_path / f"new.{suffix}").replace(path)
    latter = ats.open_image(path, decoded=decoded)
    assert latter.shape == (40, 51)
    assert latter.read((0, 0), (2, 2)).min() == 1
    # What is open stays what it was; what is not cannot be had any more.
    assert former.read((0, 0), (2, 2)).max() == 0
    former.close()
    with pytest.raises(ImageError, match="has changed while it was in use; open it again"):
        former.read((0, 0), (2, 2))


def test_levels_and_microns_are_those_of_the_file(tmp_path: Path) -> None:
    assert ats.open_image(ome_zarr(tmp_path).path).layout.mpp == (0.25, 0.5)
    assert ats.open_image(FORMATS["ome"](tmp_path).path).layout.mpp == (0.25, 0.5)
    assert ats.open_image(FORMATS["tiled"](tmp_path).path).layout.mpp is None


@pytest.mark.parametrize("extents", [(31, 45), (7, 11), (1, 1), SHAPE])
def test_a_small_view_is_the_mean_of_areas(extents: tuple[int, int], tmp_path: Path) -> None:
    made = FORMATS["npy"](tmp_path)
    view = read_small_view(ats.open_image(made.path), extents)
    expected = np.zeros((3, *extents))
    for row in range(extents[0]):
        for column in range(extents[1]):
            spans = [
                slice(number * whole // own, -(-(number + 1) * whole // own))
                for number, own, whole in zip((row, column), extents, SHAPE, strict=True)
            ]
            expected[:, row, column] = made.levels[0][spans[0], spans[1]].mean((0, 1))
    assert np.array_equal(view, expected.round().astype(np.uint8))


def test_a_small_view_comes_from_the_coarsest_level_that_is_fine_enough(tmp_path: Path) -> None:
    made = FORMATS["tiled"](tmp_path)
    reader = ats.open_image(made.path)
    coarse = made.levels[1].shape[:2]
    assert np.array_equal(read_small_view(reader, coarse), dense(made.levels[1])[0].numpy())
    finer = (coarse[0] + 1, coarse[1])
    assert read_small_view(reader, finer).shape == (3, *finer)


def test_small_views_do_not_depend_on_the_parts_they_are_made_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ats.open_image(FORMATS["npy"](tmp_path).path)
    whole = read_small_view(reader, (31, 45))
    monkeypatch.setattr("ats.images.small._PART", 1000)
    assert np.array_equal(read_small_view(reader, (31, 45)), whole)


def test_patches_of_different_images_in_one_batch(tmp_path: Path, decoded: DecodedFiles) -> None:
    """Sizes, channels and types differ."""
    grey = tmp_path / "grey.png"
    Image.fromarray(picture((40, 50), 1)[..., 0]).save(grey)
    deep = tmp_path / "deep.png"
    Image.fromarray(picture((60, 70), 1)[..., 0].astype(np.uint16) * 257).save(deep)
    opaque = np.full((30, 20, 1), 255, np.uint8)
    alpha = tmp_path / "alpha.png"
    Image.fromarray(np.concatenate([picture((30, 20)), opaque], 2)).save(alpha)
    readers = [ats.open_image(path, decoded=decoded) for path in (alpha, grey, deep)]
    images = FileImages(readers, channels=3)
    assert images.shapes.tolist() == [[30, 20], [40, 50], [60, 70]]
    patches = images.patches(torch.zeros(3, 1, 2, dtype=torch.int64), (20, 20))
    assert patches.dtype == torch.float32
    expected = [picture((30, 20)), picture((40, 50), 1), picture((60, 70), 1)]
    for patch, pixels in zip(patches[:, 0], expected, strict=True):
        wanted = torch.from_numpy(pixels[:20, :20]).permute(2, 0, 1).expand(3, -1, -1) / 255
        assert torch.allclose(patch, wanted)


def test_colours_become_rgb_and_pictures_upright(tmp_path: Path, decoded: DecodedFiles) -> None:
    cmyk = tmp_path / "cmyk.jpg"
    Image.new("CMYK", (40, 30), (0, 255, 255, 0)).save(cmyk)
    red = ats.open_image(cmyk, decoded=decoded).read((0, 0), (30, 40))
    assert red.shape == (3, 30, 40)
    assert red[0].min() > 180 > 90 > red[1:].max()
    turned = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture((20, 30))).save(turned, exif=exif)
    upright = ats.open_image(turned, decoded=decoded).read((0, 0), (30, 20))
    assert np.array_equal(upright, np.rot90(picture((20, 30)), -1).transpose(2, 0, 1))


def test_decoded_images_stay_within_their_bound(tmp_path: Path) -> None:
    decoded = DecodedFiles(tmp_path / "decoded", max_bytes=3 * 20 * 30 * 3)
    for number in range(6):
        path = tmp_path / f"{number}.png"
        Image.fromarray(picture((20, 30))).save(path)
        pixels = ats.open_image(path, decoded=decoded).read((0, 0), (20, 30))
        assert np.array_equal(pixels, picture((20, 30)).transpose(2, 0, 1))
        kept = list((tmp_path / "decoded").iterdir())
        assert sum(file.stat().st_size for file in kept) <= decoded.max_bytes + 128
    large = tmp_path / "large.png"
    Image.fromarray(picture((90, 30))).save(large)
    with pytest.raises(ImageError, match=r"8100 bytes decoded.*tiled TIFF"):
        ats.open_image(large, decoded=decoded).read((0, 0), (1, 1))


def broken(name: str, content: Callable[[Path], None]) -> tuple[str, Callable[[Path], None]]:
    return name, content


def truncated_jpeg(path: Path) -> None:
    Image.fromarray(picture()).save(path)
    path.write_bytes(path.read_bytes()[:20_000])


def truncated_tiff(path: Path) -> None:
    made = FORMATS["tiled"](path.parent)
    path.write_bytes(made.path.read_bytes()[:100_000])


def text(path: Path) -> None:
    path.write_text("no image")


def volume(path: Path) -> None:
    import tifffile

    tifffile.imwrite(path, np.zeros((5, 32, 32), np.uint8), metadata={"axes": "ZYX"})


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("missing.tif", None, "missing"),
        ("missing.png", None, "missing"),
        ("missing.npy", None, "missing"),
        ("a.jpg", truncated_jpeg, "cannot be read"),
        ("a.tif", truncated_tiff, "cannot be read"),
        ("a.png", text, "cannot be read"),
        ("b.tif", text, "cannot be read"),
        ("a.npy", text, "cannot be read"),
        ("a.svs", text, "no slide"),
        ("a.zarr", None, "cannot be read|missing"),
        ("z.tif", volume, "axes ZYX"),
    ],
)
def test_bad_files_say_what_is_wrong(
    name: str,
    make: Callable[[Path], None] | None,
    message: str,
    tmp_path: Path,
    decoded: DecodedFiles,
) -> None:
    path = tmp_path / name
    if make is not None:
        make(path)
    with pytest.raises(ImageError, match=message) as caught:
        read_small_view(ats.open_image(path, decoded=decoded), (1, 1))
    assert name in str(caught.value)
    assert list((tmp_path / "decoded").iterdir()) == []


def test_bad_arguments_say_what_is_wrong(tmp_path: Path) -> None:
    reader = ats.open_image(FORMATS["tiled"](tmp_path).path)
    with pytest.raises(ValueError, match=r"level=2.*0 to 1"):
        reader.read((0, 0), (5, 5), 2)
    with pytest.raises(ValueError, match="2 numbers"):
        reader.read((0,), (5,))
    with pytest.raises(ValueError, match=r"level=3 .*0 to 1"):
        FileImages([reader], level=3)
    with pytest.raises(ValueError, match="at least one"):
        FileImages([])
    with pytest.raises(ImageError, match=r"3 channels where 5"):
        FileImages([reader], channels=5).patches(torch.zeros(1, 1, 2, dtype=torch.int64), (3, 3))
    with pytest.raises(ValueError, match="must lie within"):
        read_small_view(reader, (312, 3))
    with pytest.raises(ImageError, match=r"ends in none of .*\.tif"):
        ats.open_image("image.xyz")
    np.save(tmp_path / "v.npy", np.zeros((9, 8, 7, 6)))
    with pytest.raises(ImageError, match="name its axes"):
        ats.open_image(tmp_path / "v.npy").shape  # noqa: B018
    with pytest.raises(ImageError, match="does not fit"):
        ats.open_image(tmp_path / "v.npy", axes="YX").shape  # noqa: B018


def test_volumes_are_images_too(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (7, 11, 13, 2), dtype=np.uint8)
    np.save(tmp_path / "v.npy", pixels)
    images = FileImages([ats.open_image(tmp_path / "v.npy", axes="ZYXC")])
    offsets = torch.tensor([[[-1, 3, 9], [2, 2, 2]]])
    tensor = torch.from_numpy(pixels).permute(3, 0, 1, 2)[None]
    expected = ats.extract_patches(tensor, offsets, (3, 4, 5))
    assert torch.equal(images.patches(offsets, (3, 4, 5)), expected)


def test_a_reader_of_ones_own(tmp_path: Path) -> None:
    class Nothing:
        def close(self) -> None:
            pass

    class Constant(Reader):
        def _open(self) -> Any:
            return Nothing()

        def _describe(self, handle: Any) -> Any:
            return ats.images.Layout(((50, 60),), 1, np.dtype(np.uint8))

        def _read(self, handle: Any, first: Any, extents: Any, level: int) -> NDArray[Any]:
            return np.full((1, *extents), 7, np.uint8)

    ats.images.register_reader(".Seven", Constant)
    assert ats.open_image("A.SEVEN").read((-1, 0), (2, 1)).tolist() == [[[0], [7]]]
    with pytest.raises(ValueError, match="dot"):
        ats.images.register_reader("nd2", Constant)


def test_small_views_are_padded_without_distortion() -> None:
    views = [picture((4, 7)).transpose(2, 0, 1), picture((6, 3)).transpose(2, 0, 1)]
    padded, content = pad_small_views(views)
    assert padded.shape == (2, 3, 6, 7)
    assert content.tolist() == [[4, 7], [6, 3]]
    for view, row, (height, width) in zip(views, padded, content.tolist(), strict=True):
        assert torch.equal(row[:, :height, :width], torch.from_numpy(view.copy()))
        last = row[:, height - 1, width - 1]
        assert torch.equal(row[:, -1, -1], last)


def test_spawned_processes_can_read(tmp_path: Path) -> None:
    made = FORMATS["tiled"](tmp_path)
    reader = ats.open_image(made.path)
    assert reader.shape == SHAPE
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pixels = pool.apply(reader.read, ((0, 0), (5, 5)))
    assert np.array_equal(pixels, made.levels[0][:5, :5].transpose(2, 0, 1))


def test_small_views_are_kept_until_the_file_changes(tmp_path: Path, decoded: DecodedFiles) -> None:
    path = tmp_path / "a.npy"
    np.save(path, picture())
    calls = []

    def make() -> NDArray[Any]:
        calls.append(1)
        return read_small_view(ats.open_image(path), (9, 13))

    first = decoded.small_view(path, (9, 13), make)
    assert np.array_equal(decoded.small_view(path, (9, 13), make), first)
    assert len(calls) == 1
    np.save(path, picture((311, 500)))
    ats.open_image(path).close()
    assert not np.array_equal(decoded.small_view(path, (9, 13), make), first)
    assert len(calls) == 2
