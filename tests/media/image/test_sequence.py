"""Still images and folders of images: pixels, metadata, refusals and messages."""

import struct
import zlib
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vderain.errors import InputError, OutputError, UsageError
from vderain.media.describe import describe
from vderain.media.frame import Frame
from vderain.media.image import natural_key
from vderain.media.image.codec import MAX_PIXELS, read_image
from vderain.media.image.metadata import EXIF, ICC, XMP, exif_orientation, read_metadata
from vderain.media.image.sequence import ImageReader, ImageWriter, is_image_source
from vderain.process import process


def noise(
    height: int = 12, width: int = 17, channels: int = 3, dtype: type = np.uint8, seed: int = 0
) -> NDArray[np.generic]:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape).astype(dtype)


def save(path: Path, pixels: NDArray[np.generic], *metadata: tuple[int, bytes]) -> Path:
    kinds, blocks = [k for k, _ in metadata], [np.frombuffer(b, np.uint8) for _, b in metadata]
    _, data = (
        cv2.imencodeWithMetadata(path.suffix, pixels, kinds, blocks) if metadata else cv2.imencode(path.suffix, pixels)
    )
    path.write_bytes(data.tobytes())
    return path


def load(path: Path) -> NDArray[np.generic]:
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)


def exif(orientation: int, order: str = "<") -> bytes:
    entries = struct.pack(order + "HHIHH", 0x010F, 2, 0, 0, 0) + struct.pack(
        order + "HHIHH", 0x0112, 3, 1, orientation, 0
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 2)
    return head + entries + struct.pack(order + "I", 0)


def icc(space: bytes = b"RGB ") -> bytes:
    return struct.pack(">I", 132).ljust(16, b"\0") + space + b"XYZ ".ljust(16, b"\0") + b"acsp".ljust(96, b"\0")


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def with_inside(path: Path, *blocks: bytes) -> Path:
    """A PNG with more chunks, or a JPEG of 300 samples an inch with more segments."""
    data = path.read_bytes()
    at = 33 if path.suffix == ".png" else 20
    front = data[:at] if path.suffix == ".png" else data[:13] + struct.pack(">B2H", 1, 300, 300) + data[18:20]
    path.write_bytes(front + b"".join(blocks) + data[at:])
    return path


def copy(source: Path, target: Path) -> ImageWriter:
    with ImageReader(source) as reader, ImageWriter(target, like=reader) as writer:
        for frame in reader.frames():
            writer.write(frame)
    return writer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "clip ünï 雨"
    made.mkdir()
    for i in (1, 2, 10):
        save(made / f"frame{i}.png", noise(seed=i))
    (made / "notes.txt").write_text("not a picture")
    (made / "._frame1.png").write_bytes(b"left by a Mac")
    return made


def test_an_image_source_is_a_folder_or_a_file_with_an_image_suffix(folder: Path) -> None:
    assert is_image_source(folder) and is_image_source(folder / "frame1.png")
    assert not is_image_source(folder / "notes.txt") and not is_image_source(folder / "missing.png")
    upper = (folder / "frame1.png").rename(folder.parent / "A.PNG")
    assert is_image_source(upper)


def test_numbers_sort_as_numbers() -> None:
    names = ["b1", "a10", "a9", "a09b", "A2", "1", "02", "x²1"]
    assert sorted(names, key=natural_key) == ["1", "02", "A2", "a9", "a09b", "a10", "b1", "x²1"]


def test_a_folder_is_a_clip(folder: Path) -> None:
    with ImageReader(folder, rate=Fraction(24)) as reader:
        frames = list(reader.frames())
        assert (reader.width_px, reader.height_px, reader.count) == (17, 12, 3)
        assert reader.names == ("frame1.png", "frame2.png", "frame10.png")
    assert [f.pts for f in frames] == [0, 1, 2]
    assert frames[0].time_base == Fraction(1, 24) and frames[0].colour.matrix == "rgb"
    for frame, seed in zip(frames, (1, 2, 10), strict=True):
        assert np.array_equal(np.stack(frame.planes, -1), noise(seed=seed)[..., ::-1])


def test_a_part_of_a_folder_keeps_its_timestamps(folder: Path) -> None:
    with ImageReader(folder, rate=Fraction(10), start_s=0.1, duration_s=0.1) as reader:
        assert reader.names == ("frame2.png",)
        assert [f.pts for f in reader.frames()] == [1]
    with ImageReader(folder, rate=Fraction(10), start_s=0.05) as reader:
        assert reader.count == 2
    with pytest.raises(UsageError, match="holds no image"), ImageReader(folder, start_s=5):
        pass


def test_a_folder_is_copied_exactly_under_the_same_names(folder: Path, tmp_path: Path) -> None:
    save(folder / "frame3.jpg", noise(seed=3))
    target = tmp_path / "out ütput"
    with ImageReader(folder) as reader, ImageWriter(target, like=reader) as writer:
        for frame in reader.frames():
            assert not target.exists()
            writer.write(frame)
        (partial,) = tmp_path.glob(".out ütput.*.partial")
        assert partial.is_dir()
    assert sorted(p.name for p in target.iterdir()) == ["frame1.png", "frame10.png", "frame2.png", "frame3.png"]
    assert all(np.array_equal(load(target / f"frame{i}.png"), noise(seed=i)) for i in (1, 2, 10))
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_keeps_depth_grey_and_alpha(tmp_path: Path, channels: int, dtype: type) -> None:
    pixels = noise(channels=channels, dtype=dtype)
    source = save(tmp_path / "a.png", pixels)
    with ImageReader(source) as reader:
        (frame,) = reader.frames()
    assert len(frame.planes) == (1 if channels == 1 else 3)
    assert frame.colour.depth_bits == (8 if dtype is np.uint8 else 16) and frame.colour.full_range
    copy(source, tmp_path / "b.png")
    copied = load(tmp_path / "b.png")
    assert copied.dtype == dtype and np.array_equal(copied, pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".webp", ".bmp", ".tif"])
def test_the_suffix_of_the_target_selects_the_format(tmp_path: Path, suffix: str) -> None:
    smooth = np.dstack([np.tile(np.arange(64, dtype=np.uint8) * k, (48, 1)) for k in (1, 2, 3)])
    copy(save(tmp_path / "a.png", smooth), tmp_path / f"b{suffix}")
    copied = load(tmp_path / f"b{suffix}")
    assert np.abs(copied.astype(int) - smooth).mean() < (0.1 if suffix in (".bmp", ".tif") else 2)


def test_jpeg_is_written_without_chroma_subsampling(tmp_path: Path) -> None:
    copy(save(tmp_path / "a.png", noise(32, 32)), tmp_path / "b.jpg")
    data = (tmp_path / "b.jpg").read_bytes()
    header = data.index(b"\xff\xc0")
    assert data[header + 11] == 0x11  # luma sampling factors: one by one


def test_sixteen_bits_go_into_eight_where_the_format_has_no_more(tmp_path: Path) -> None:
    pixels = noise(dtype=np.uint16)
    copy(save(tmp_path / "a.png", pixels), tmp_path / "b.bmp")
    assert np.abs(load(tmp_path / "b.bmp") - pixels / 257).max() <= 0.5


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_read_from_exif(orientation: int, order: str) -> None:
    assert exif_orientation(exif(orientation, order)) == orientation


@pytest.mark.parametrize("block", [b"", b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*" + b"\xff" * 30, exif(0), exif(99)])
def test_invalid_exif_means_upright(block: bytes) -> None:
    assert exif_orientation(block) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_image_is_upright_as_a_frame_and_stored_as_before(tmp_path: Path, orientation: int) -> None:
    pixels, block = noise(), exif(orientation)
    source = save(tmp_path / "a.png", pixels, (EXIF, block))
    upright = cv2.imdecode(np.frombuffer(source.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    with ImageReader(source) as reader:
        (frame,) = reader.frames()
        assert (reader.height_px, reader.width_px) == upright.shape[:2]
    assert np.array_equal(np.stack(frame.planes[::-1], -1), upright)
    copy(source, tmp_path / "b.png")
    assert np.array_equal(load(tmp_path / "b.png"), pixels)
    with ImageReader(tmp_path / "b.png") as reader:
        assert reader.image(0).metadata.blocks == ((EXIF, block),)
    copy(source, tmp_path / "c.bmp")  # has no place for the tag
    assert np.array_equal(load(tmp_path / "c.bmp"), upright)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png"])
def test_colour_profile_and_xmp_are_kept(tmp_path: Path, suffix: str) -> None:
    xmp = png_chunk(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + b"<xmp/>")
    source = with_inside(save(tmp_path / "a.png", noise(), (ICC, icc())), xmp)
    copy(source, tmp_path / f"b{suffix}")
    assert copy(tmp_path / f"b{suffix}", tmp_path / f"c{suffix}").dropped == []
    copy(tmp_path / f"c{suffix}", tmp_path / "d.png")
    assert (tmp_path / "d.png").read_bytes().count(xmp) == 1
    with ImageReader(tmp_path / "d.png") as reader:
        assert reader.image(0).metadata.blocks == ((XMP, b"<xmp/>"), (ICC, icc()))


def test_a_profile_of_another_colour_space_is_left_out(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jpg", noise(), (ICC, icc(b"CMYK")))
    copy(source, tmp_path / "b.jpg")
    with ImageReader(tmp_path / "b.jpg") as reader:
        assert reader.image(0).metadata.blocks == ()


def broken(kind: str, path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "garbage": b"no picture at all", "cut": whole[: len(whole) // 2]}[kind])


@pytest.mark.parametrize(("kind", "says"), [("empty", "0 bytes"), ("garbage", "damaged"), ("cut", "damaged")])
def test_a_broken_image_is_named(folder: Path, tmp_path: Path, kind: str, says: str) -> None:
    broken(kind, folder / "frame2.png")
    with pytest.raises(InputError, match=f"frame2.*{says}") as caught:
        copy(folder, tmp_path / "out")
    assert caught.value.cure
    assert not list(tmp_path.glob("*out*"))
    with pytest.raises(InputError, match=says):
        copy(folder / "frame2.png", tmp_path / "out.png")
    assert not list(tmp_path.glob("*out*"))


def test_floating_point_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="float32"):
        copy(save(tmp_path / "a.tif", noise().astype(np.float32)), tmp_path / "b.tif")


def test_images_of_a_folder_may_differ_in_size(folder: Path, tmp_path: Path) -> None:
    save(folder / "frame5.png", noise(8, 8))
    copy(folder, tmp_path / "out")
    assert cv2.imread(str(tmp_path / "out/frame5.png")).shape == (8, 8, 3)


def test_a_folder_without_images_or_with_duplicate_names_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no image"), ImageReader(tmp_path / "none"):
        pass
    save(folder / "frame1.jpg", noise())
    with pytest.raises(InputError, match="2 images named frame1"), ImageReader(folder):
        pass


def test_missing_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"), ImageReader(tmp_path / "missing.png"):
        pass


def test_targets_of_the_wrong_kind_are_refused(folder: Path, tmp_path: Path) -> None:
    picture = folder / "frame1.png"
    for source, target, says in (
        (folder, folder, "exists already"),
        (folder, tmp_path / "new.png", "a single image"),
        (folder, folder / "..", "exists already"),
        (picture, folder, "is a folder"),
        (picture, tmp_path / "new.mp4", "no suffix of an image"),
        (picture, tmp_path / "no" / "such" / "new.png", "does not exist"),
        (folder, tmp_path / "no" / "such", "does not exist"),
    ):
        with pytest.raises(OutputError, match=says) as caught:
            copy(source, target)
        assert caught.value.cure
    assert len(list(folder.iterdir())) == 5


def test_a_target_that_cannot_be_created_is_an_output_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="does not exist"):
        copy(folder, tmp_path / "file" / "out")


def test_a_full_disk_is_an_output_error(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vderain.media.image.sequence.write_new", full)
    monkeypatch.setattr(Path, "write_bytes", full)
    for source, target in ((folder, "out"), (folder / "frame1.png", "out.jpg")):
        with pytest.raises(OutputError, match="disk is full"):
            copy(source, tmp_path / target)
    assert not list(tmp_path.glob("*out*"))


def test_a_failure_keeps_the_old_file(folder: Path, tmp_path: Path) -> None:
    old = save(tmp_path / "old.png", noise(seed=77))

    def fail() -> None:
        with ImageReader(folder / "frame1.png") as reader, ImageWriter(old, like=reader) as writer:
            writer.write(next(reader.frames()))
            raise RuntimeError("the network failed")

    with pytest.raises(RuntimeError):
        fail()
    assert np.array_equal(load(old), noise(seed=77))
    assert not list(tmp_path.glob(".*"))


def test_an_image_can_replace_itself_and_a_stale_partial_is_removed(folder: Path, tmp_path: Path) -> None:
    stale = tmp_path / ".out.01234567.partial"
    stale.mkdir()
    (stale / "frame99.png").write_bytes(b"of a run that was killed")
    (tmp_path / "out").mkdir()
    copy(folder, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 3
    copy(folder / "frame1.png", folder / "frame1.png")
    assert np.array_equal(load(folder / "frame1.png"), noise(seed=1))


def test_writing_no_frame_or_too_many_is_an_error(folder: Path, tmp_path: Path) -> None:
    with (
        ImageReader(folder) as reader,
        pytest.raises(OutputError, match="received no frames"),
        ImageWriter(tmp_path / "out", like=reader),
    ):
        pass
    with ImageReader(folder / "frame1.png") as reader, pytest.raises(ValueError, match="all are written"):
        frame: Frame = next(reader.frames())
        with ImageWriter(tmp_path / "one.png", like=reader) as writer:
            writer.write(frame)
            writer.write(frame)
    assert not (tmp_path / "out").exists() and not (tmp_path / "one.png").exists()


def test_opencv_logs_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken("cut", folder / "frame1.png")
    with pytest.raises(InputError), ImageReader(folder / "frame1.png"):
        pass
    assert capfd.readouterr().err == ""


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", noise())
    longest = tmp_path / ("ü" * 125 + "b.png")
    copy(source, longest)
    assert np.array_equal(load(longest), noise())
    assert len(list(tmp_path.iterdir())) == 2


TEXT, COMMENT = png_chunk(b"tEXt", b"Author\0somebody"), jpeg_segment(0xFE, b"at the bridge")
GAMMA, DENSITY = png_chunk(b"gAMA", struct.pack(">I", 45455)), png_chunk(b"pHYs", struct.pack(">IIB", 11811, 11811, 1))


def test_text_gamma_and_density_stay_with_a_png(tmp_path: Path) -> None:
    source = with_inside(save(tmp_path / "a.png", noise()), GAMMA, DENSITY, TEXT)
    writer = copy(source, tmp_path / "b.png")
    data = (tmp_path / "b.png").read_bytes()
    assert all(data.count(chunk) == 1 for chunk in (TEXT, GAMMA, DENSITY))
    assert np.array_equal(load(tmp_path / "b.png"), noise())
    assert writer.dropped == writer.changed == []


def test_density_and_comments_stay_with_a_jpeg(tmp_path: Path) -> None:
    source = with_inside(save(tmp_path / "a.jpg", noise()), COMMENT, jpeg_segment(0xED, b"Photoshop 3.0\0"))
    writer = copy(source, tmp_path / "b.jpg")
    assert read_metadata((tmp_path / "b.jpg").read_bytes()).names == {"density", "comment", "IPTC"}
    assert (tmp_path / "b.jpg").read_bytes()[13:18] == struct.pack(">B2H", 1, 300, 300)
    assert load(tmp_path / "b.jpg").shape == (12, 17, 3)
    assert writer.dropped == []


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
def test_density_goes_from_format_to_format(tmp_path: Path, suffix: str) -> None:
    copy(with_inside(save(tmp_path / "a.jpg", noise())), tmp_path / f"b{suffix}")
    assert "density" not in copy(tmp_path / f"b{suffix}", tmp_path / "c.png").dropped
    assert read_metadata((tmp_path / "c.png").read_bytes()).density_dpi == pytest.approx((300, 300), abs=0.01)


def test_what_a_format_cannot_hold_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = with_inside(save(tmp_path / "a.png", noise(channels=4, dtype=np.uint16)), DENSITY, TEXT)
    writer = copy(source, tmp_path / "b.jpg")
    assert writer.dropped == ["transparency", "text"]
    assert writer.changed == ["16 bits a sample written as 8"]
    assert [record.getMessage() for record in caplog.records] == [
        "'b.jpg' holds in another form: 16 bits a sample written as 8.", "'b.jpg' cannot hold: transparency, text.",
    ]  # fmt: skip
    assert copy(source, tmp_path / "b.webp").dropped == ["density", "text"]
    assert copy(source, tmp_path / "b.tif").dropped == ["text"]


def test_exif_and_profiles_that_are_lost_are_named(tmp_path: Path) -> None:
    blocks = (EXIF, exif(1)), (ICC, icc(b"CMYK"))
    source = save(tmp_path / "a.jpg", noise(), *blocks)
    assert copy(source, tmp_path / "b.jpg").dropped == ["colour profile"]
    assert copy(source, tmp_path / "b.tif").dropped == ["EXIF", "colour profile"]


def test_losses_of_a_folder_are_named_once(folder: Path, tmp_path: Path) -> None:
    for number in (20, 21):
        with_inside(save(folder / f"frame{number}.jpg", noise()), COMMENT)
    assert copy(folder, tmp_path / "out").dropped == ["comment"]


def tiff(path: Path, pages: int = 1, **options: object) -> Path:
    images = [Image.fromarray(noise(seed=seed)) for seed in range(pages)]
    images[0].save(path, save_all=True, append_images=images[1:], **options)
    return path


def test_tiff_tags_and_colour_model_are_read(tmp_path: Path) -> None:
    tags = {271: "maker", 270: "a bridge"}
    path = tiff(tmp_path / "a.tif", dpi=(72, 36), icc_profile=icc(), tiffinfo=tags)
    metadata = read_metadata(path.read_bytes())
    assert metadata.names == {"EXIF", "description", "colour profile", "density"}
    assert (metadata.density_dpi, metadata.images, metadata.size_px) == ((72, 36), 1, (17, 12))
    assert read_metadata(tiff(tmp_path / "c.tif").read_bytes()).density_dpi is None
    Image.new("LAB", (8, 8)).save(tmp_path / "b.tif")
    assert read_metadata((tmp_path / "b.tif").read_bytes()).colour_model == "CIELAB"


def test_cmyk_is_named(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8)).save(tmp_path / "a.jpg")
    assert copy(tmp_path / "a.jpg", tmp_path / "b.jpg").changed == ["CMYK samples written as RGB"]


def test_files_of_several_images_are_refused(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif", pages=3)
    frames = [Image.fromarray(noise(seed=seed)) for seed in range(4)]
    for name in ("a.png", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    for name, count in (("a.tif", 3), ("a.png", 4), ("a.webp", 4)):
        with pytest.raises(InputError, match=f"holds {count} images") as caught:
            copy(tmp_path / name, tmp_path / f"b{Path(name).suffix}")
        assert caught.value.cure


def test_a_reduced_copy_in_a_tiff_does_not_count(tmp_path: Path) -> None:
    thumbnail = Image.fromarray(noise(4, 4))
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}
    Image.fromarray(noise()).save(tmp_path / "a.tif", save_all=True, append_images=[thumbnail])
    assert read_metadata((tmp_path / "a.tif").read_bytes()).images == 1
    copy(tmp_path / "a.tif", tmp_path / "b.tif")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_damaged_metadata_is_survived(tmp_path: Path, suffix: str) -> None:
    data = save(tmp_path / f"a{suffix}", noise()).read_bytes()
    for cut in (*range(60), len(data) // 2):
        assert read_metadata(data[:cut] + b"\xff" * 40).images >= 1


def test_metadata_that_cannot_be_read_is_named_as_lost(tmp_path: Path) -> None:
    broken_density = png_chunk(b"pHYs", b"short")
    source = with_inside(save(tmp_path / "a.png", noise()), broken_density, TEXT)
    assert copy(source, tmp_path / "b.png").dropped == ["unreadable metadata"]
    assert np.array_equal(load(tmp_path / "b.png"), noise())


@pytest.mark.parametrize("damaged", [False, True])
def test_an_absurd_size_is_refused_by_the_header_alone(tmp_path: Path, damaged: bool) -> None:
    data = save(tmp_path / "a.png", noise()).read_bytes()
    header = struct.pack(">II", 20_000, 20_000) + data[24:29]
    chunk = png_chunk(b"IHDR", header)
    (tmp_path / "a.png").write_bytes(data[:8] + (chunk[:-4] + b"wrng" if damaged else chunk) + data[33:])
    assert MAX_PIXELS < 20_000**2
    with pytest.raises(InputError, match="announces 20000x20000 pixels"):
        read_image(tmp_path / "a.png")


def test_a_chunk_longer_than_its_file_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = save(tmp_path / "a.png", noise()).read_bytes()
    (tmp_path / "a.png").write_bytes(data[:33] + struct.pack(">I", 2**31 - 1) + b"iCCP" + data[33:])
    monkeypatch.setattr(cv2, "imdecode", None)  # it would allocate 2 GB
    with pytest.raises(InputError, match="is damaged"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x0a\0\0", "JPEG XL"),
    ],
)
@pytest.mark.parametrize("suffix", [".heic", ".jpg"])
def test_an_unsupported_format_names_a_converter(tmp_path: Path, head: bytes, name: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(head.ljust(64, b"\0"))
    for refuses in (process, describe):
        with pytest.raises(InputError, match=f"is a {name} image") as caught:
            refuses(path)
        assert "magick a" in caught.value.cure


def test_codecs_write_nothing_to_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with_inside(save(tmp_path / "a.png", noise()), png_chunk(b"gAMA", b"short"))  # libpng warns
    jpeg = save(tmp_path / "b.jpg", noise()).read_bytes()
    (tmp_path / "b.jpg").write_bytes(jpeg[:700] + b"\xff\xd8\xff\xff" + jpeg[704:])  # libjpeg warns
    for name in ("a.png", "b.jpg"):
        read_image(tmp_path / name)
    assert capfd.readouterr().err == ""


def test_unsupported_images_of_a_folder_are_counted(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "a.heic").touch()
    with ImageReader(folder) as reader:
        assert reader.count == 3
    assert "1 images are ignored" in caplog.text
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "a.heic").touch()
    with pytest.raises(InputError, match="does not read") as caught, ImageReader(tmp_path / "phone"):
        pass
    assert "magick mogrify" in caught.value.cure
