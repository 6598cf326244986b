"""What cameras hide from FFmpeg goes along byte for byte, or is named; GPS positions are read from it."""

import json
import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import av
import pytest
from clips import decoded_pts, identical, names_in, packets, planes_of_file
from dashcam import Dashcam, box, content, dashcam, listed_records, record, top

from vderain.errors import OutputError
from vderain.media.decode.probe import probe
from vderain.media.describe import describe
from vderain.media.encode.encoder import EncodeOptions
from vderain.media.gps import fix_of_record, fixes_of_packet, read_fixes
from vderain.media.mp4 import vendor_boxes as telemetry
from vderain.media.mp4.boxes import OFFSET32_MAX, grow_moov
from vderain.media.mp4.vendor_boxes import VendorBox, find_vendor_boxes
from vderain.process import Options, process

Make = Callable[..., Path]
RECORDS = tuple(record(second) for second in range(10))
GPS = "GPS track of the camera's maker (10 records)"
COPY = Options(strength=0, encode=EncodeOptions(preset="ultrafast"))
ODD = box(b"vndr", b"\xa9made by nobody\0\1\2")


@pytest.fixture
def plain(clip: Make) -> Path:
    """Ten seconds with sound, without fast start."""
    return clip("plain.mp4", frames=50, rate=Fraction(5), audio="aac", b_frames=2, metadata={"title": "Rain"})


def vendor_boxes(path: Path) -> list[VendorBox]:
    with path.open("rb") as file:
        return find_vendor_boxes(file)


def same_streams(first: Path, second: Path) -> bool:
    return packets(first, "audio") == packets(second, "audio") and decoded_pts(first) == decoded_pts(second)


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("where", ["mdat", "beside"])
def test_listed_gps_records_go_along(tmp_path: Path, plain: Path, where: str, suffix: str) -> None:
    source = dashcam(plain, tmp_path / "in.mp4", Dashcam(RECORDS, where))
    assert listed_records(source) == list(RECORDS)
    result = process(source, tmp_path / f"out{suffix}", COPY)
    assert listed_records(result.target) == list(RECORDS)
    assert GPS in result.kept and result.dropped == ()
    assert same_streams(result.target, source)
    kinds = [kind for kind, _, _ in top(result.target.read_bytes())]
    assert kinds.index(b"moov") < kinds.index(b"mdat"), "fast start"
    assert kinds.count(b"free") >= 10, "each record is a box of the file"
    with av.open(str(result.target)) as container:
        assert container.metadata["title"] == "Rain"
    twice = process(result.target, tmp_path / f"twice{suffix}", COPY)
    assert listed_records(twice.target) == list(RECORDS)


def test_what_is_not_moved_does_not_change_a_picture(tmp_path: Path, plain: Path) -> None:
    extra = Dashcam(RECORDS, in_moov=ODD, in_udta=ODD, beside=ODD, behind=b"?" * 9)
    source = dashcam(plain, tmp_path / "in.mp4", extra)
    results = [process(path, tmp_path / f"{path.stem}.out.mp4", COPY) for path in (plain, source)]
    assert identical(*(planes_of_file(result.target) for result in results))


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("where", ["mdat", "beside"])
def test_records_without_a_list_go_along(tmp_path: Path, plain: Path, where: str, suffix: str) -> None:
    source = dashcam(plain, tmp_path / "in.mp4", Dashcam(RECORDS, where, listed=False))
    result = process(source, tmp_path / f"out{suffix}", COPY)
    data = result.target.read_bytes()
    assert [data[begin:end] for kind, begin, end in top(data) if kind == b"free" and end - begin > 8] == list(RECORDS)
    assert GPS in result.kept and result.dropped == ()
    assert same_streams(result.target, source)


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_boxes_of_the_maker_go_along(tmp_path: Path, plain: Path, suffix: str) -> None:
    uuid = box(b"uuid", bytes(range(16)) + b"70mai")
    skip = box(b"skip", b"LIGOGPSINFO\0" + bytes(200) + b"#")
    trailer = b"\xff\xff\xff\xf0 no box at all" * 3
    extra = Dashcam(in_moov=uuid, in_udta=ODD + box(b"AMBA", b"\1" * 40), beside=skip + ODD, behind=trailer)
    source = dashcam(plain, tmp_path / "in.mp4", extra)
    result = process(source, tmp_path / f"out{suffix}", COPY)
    data = result.target.read_bytes()
    assert uuid in box(b"moov", content(data, b"moov") or b"")
    assert (ODD + box(b"AMBA", b"\1" * 40)) in (content(data, b"moov", b"udta") or b"")
    assert data.endswith(skip + ODD + trailer)
    assert len(result.kept) == 1 + 6 and result.dropped == ()
    assert same_streams(result.target, source)


def test_a_file_without_udta_gets_one(tmp_path: Path, plain: Path) -> None:
    grow_moov(plain, b"", ODD, 0, 0)
    before = decoded_pts(plain)
    bare = plain.with_name("bare.mp4")
    data = plain.read_bytes()
    (begin, end), *_ = ((b, e) for kind, b, e in top(data) if kind == b"moov")
    inside = b"".join(data[begin + 8 : end][b:e] for kind, b, e in top(data[begin + 8 : end]) if kind != b"udta")
    bare.write_bytes(data[:begin] + box(b"moov", inside))
    grow_moov(bare, ODD, ODD, 5, 0)
    assert content(bare.read_bytes(), b"moov", b"udta") == ODD
    assert content(bare.read_bytes(), b"moov", b"vndr") == ODD[8:]
    assert decoded_pts(bare) == before


def test_places_beyond_32_bits_get_64(tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = dashcam(plain, tmp_path / "in.mp4", Dashcam(RECORDS))
    for module in ("boxes", "vendor_boxes"):
        monkeypatch.setattr(f"vderain.media.mp4.{module}.OFFSET32_MAX", 1000)
    result = process(source, tmp_path / "out.mp4", COPY)
    data = result.target.read_bytes()
    assert b"stco" not in data and data.count(b"co64") == 2
    assert same_streams(result.target, source)
    assert listed_records(result.target) == list(RECORDS)
    kinds = [kind for kind, begin, end in top(data) if end - begin > 8]
    assert kinds == [b"ftyp", b"moov", *[b"free"] * 10, b"mdat"], "the list's places have 32 bits at most"


def test_a_sparse_file_beyond_4_gib_is_moved_right(tmp_path: Path, plain: Path) -> None:
    """The places of chunks behind 4 GiB, without the monkeys: mdat is moved there by a hole in the file."""
    data, hole = plain.read_bytes(), 5 << 30
    parts = {kind: data[begin:end] for kind, begin, end in top(data)}
    moov, far = parts[b"moov"], tmp_path / "far.mp4"
    with far.open("wb") as file:
        file.write(parts[b"ftyp"] + struct.pack(">I4sQ", 1, b"free", hole))
        file.seek(len(parts[b"ftyp"]) + hole)
        file.write(data[len(parts[b"ftyp"]) : -len(moov)] + moov)
    assert far.stat().st_blocks * 512 < 1 << 20
    wide = rewritten(moov, hole)
    with far.open("r+b") as file:
        file.seek(-len(moov), 2)
        file.write(wide)
    before = decoded_pts(far)
    grow_moov(far, ODD, b"", 0, 0)
    assert decoded_pts(far) == before == decoded_pts(plain)


def rewritten(moov: bytes, shift: int) -> bytes:
    """An index with 64-bit places, moved; all its boxes rebuilt by hand."""
    out = b""
    for kind, begin, end in top(moov):
        body = moov[begin + 8 : end]
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
            body = rewritten(body, shift)
        elif kind == b"stco":
            count = struct.unpack_from(">I", body, 4)[0]
            places = struct.unpack_from(f">{count}I", body, 8)
            kind, body = b"co64", body[:8] + struct.pack(f">{count}Q", *(place + shift for place in places))
        out += box(kind, body)
    return out


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_what_a_container_cannot_hold_is_named(tmp_path: Path, plain: Path, suffix: str, vderain: Any) -> None:
    source = dashcam(plain, tmp_path / "in.mp4", Dashcam(RECORDS, in_udta=ODD))
    names = [GPS, f"box moov/udta/vndr ({len(ODD)} bytes)"]
    run = vderain("process", source, "-o", tmp_path / f"out{suffix}", "--strength", 0, "--json")
    assert run.exit_code == 0
    assert set(names) <= set(json.loads(run.stdout.splitlines()[-1])["dropped"])
    assert all(name in run.stderr for name in names)
    told = vderain("info", source, "--container", suffix[1:]).stdout
    assert all(f"{name}: NOT KEPT" in told for name in names)
    assert all(f"{name}: copied" in vderain("info", source).stdout for name in names)


def test_what_belongs_to_one_track_is_named(tmp_path: Path, plain: Path) -> None:
    data = plain.read_bytes()
    track = data.index(b"trak") - 4
    size = struct.unpack_from(">I", data, track)[0]
    moov = data.index(b"moov") - 4
    grown = bytearray(data[: track + size] + ODD + data[track + size :])
    struct.pack_into(">I", grown, track, size + len(ODD))
    struct.pack_into(">I", grown, moov, struct.unpack_from(">I", grown, moov)[0] + len(ODD))
    source = tmp_path / "in.mp4"
    source.write_bytes(grown)
    result = process(source, tmp_path / "out.mp4", COPY)
    assert result.dropped == (f"box moov/trak/vndr ({len(ODD)} bytes)",)
    assert not describe(source).hidden[0].kept


def test_padding_and_common_boxes_are_nothing(tmp_path: Path, plain: Path, clip: Make) -> None:
    padded = Dashcam(
        beside=box(b"free", bytes(1000)) + box(b"free", b"IsoMedia File Produced with GPAC 2.2") + box(b"skip"),
        behind=bytes(4000),
    )
    fast = clip("fast.mov", chapters=True, audio="aac", muxer_options={"movflags": "+faststart"})
    fragments = clip("fragments.mp4", muxer_options={"movflags": "frag_keyframe+empty_moov"})
    for path in (plain, fast, fragments, clip("a.mkv"), clip("a.avi"), dashcam(plain, tmp_path / "in.mp4", padded)):
        assert vendor_boxes(path) == [], path
        assert describe(path).hidden == () and describe(path).gps_fixes == 0


def test_a_cut_off_box_is_not_carried_over(tmp_path: Path, plain: Path, clip: Make) -> None:
    fast = clip("fast.mp4", frames=50, muxer_options={"movflags": "+faststart"})
    fast.write_bytes(fast.read_bytes()[:-3000])
    assert vendor_boxes(fast) == []


@pytest.mark.parametrize("content", [b"", b"\0\0\0", box(b"free") + b"\0\0\0\4free", b"\0\0\0\0free", b"\xff" * 40])
def test_sizes_that_make_no_sense_end_the_search(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert vendor_boxes(path) == []
    path.write_bytes(content + box(b"moov", box(b"gps ", bytes(16)) + b"\0\0\0\3udta"))
    assert len(vendor_boxes(path)) <= 1


def test_a_list_that_lies_does_no_harm(tmp_path: Path, plain: Path) -> None:
    """Places outside the file, sizes beyond it, a count beyond the list, and places of something else."""
    places = [(2**32 - 1, 1024), (40, 2**32 - 1), (0, 0), (24, 100)]
    lies = b"".join(struct.pack(">II", *place) for place in places)
    index = box(b"gps ", struct.pack(">II", 0x101, 99999) + lies)
    source = dashcam(plain, tmp_path / "in.mp4", Dashcam(in_moov=index))
    result = process(source, tmp_path / "out.mp4", COPY)
    assert listed_records(result.target)[-1] == source.read_bytes()[24:124]
    assert result.dropped == ()
    assert same_streams(result.target, source)


def test_gps_records_that_are_listed_many_times_are_copied_once(tmp_path: Path, plain: Path) -> None:
    source = dashcam(plain, tmp_path / "one.mp4", Dashcam(RECORDS[:1]))
    begin = source.read_bytes().index(RECORDS[0])
    place, overlapping = (begin, len(RECORDS[0])), (begin + 1, len(RECORDS[0]) - 1)
    entries = b"".join(struct.pack(">II", *each) for each in [place] * 1000 + [overlapping])
    index = box(b"gps ", struct.pack(">II", 0x101, 1001) + entries)
    repeated = dashcam(plain, tmp_path / "in.mp4", Dashcam(RECORDS[:1], listed=False, in_moov=index))
    result = process(repeated, tmp_path / "out.mp4", COPY)
    assert listed_records(result.target) == [RECORDS[0]] * 1000 + [b""]
    assert result.target.read_bytes().count(RECORDS[0]) == 1
    assert result.dropped == ()


def test_twenty_thousand_boxes_of_the_maker_are_copied_in_seconds(tmp_path: Path, plain: Path) -> None:
    source = dashcam(plain, tmp_path / "in.mp4", Dashcam(in_moov=ODD * 20_000))
    begin_s = time.monotonic()
    result = process(source, tmp_path / "out.mp4", COPY)
    assert time.monotonic() - begin_s < 15
    assert len(result.kept) == 1 + 20_000 and result.dropped == ()


def test_a_cut_takes_its_records_along(tmp_path: Path, plain: Path) -> None:
    source = dashcam(plain, tmp_path / "in.mp4", Dashcam(RECORDS))
    part = Options(strength=0, start_s=2.0, duration_s=3.0, gpx=True, encode=EncodeOptions(preset="ultrafast"))
    result = process(source, tmp_path / "out.mp4", part)
    assert listed_records(result.target) == list(RECORDS[2:5])
    assert result.gpx is not None
    assert [time[17:19] for time in times_in(result.gpx)] == ["02", "03", "04"]


def times_in(path: Path) -> list[str]:
    return [str(element.text) for element in ElementTree.parse(path).iter() if element.tag.endswith("}time")]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_gpx(tmp_path: Path, plain: Path, suffix: str, vderain: Any) -> None:
    lost = record(4, status=b"VNE\0")
    source = dashcam(plain, tmp_path / "in.mp4", Dashcam((*RECORDS[:4], lost, *RECORDS[5:])))
    run = vderain("process", source, "-o", tmp_path / f"out{suffix}", "--strength", 0, "--gpx")
    assert run.exit_code == 0, run.stderr
    gpx = tmp_path / "out.gpx"
    assert str(gpx) in run.stdout
    assert describe(source).gps_fixes == 9
    space = {"": "http://www.topografix.com/GPX/1/1", "x": "http://www.garmin.com/xmlschemas/TrackPointExtension/v2"}
    points = ElementTree.parse(gpx).findall(".//trkpt", space)
    assert len(points) == 9
    first = points[0]
    assert float(first.attrib["lat"]) == pytest.approx(-(33 + 52.5 / 60), abs=1e-6)
    assert float(first.attrib["lon"]) == pytest.approx(-151.2, abs=1e-6)
    assert first.findtext("time", None, space) == "2025-11-22T14:07:00Z"
    assert float(first.findtext(".//x:speed", "", space)) == pytest.approx(36 * 0.514444, abs=1e-3)
    assert float(first.findtext(".//x:course", "", space)) == 271.5


def test_a_gpx_file_is_not_replaced_unasked_nor_left_half(tmp_path: Path, plain: Path) -> None:
    source = dashcam(plain, tmp_path / "in.mp4", Dashcam(RECORDS))
    (tmp_path / "out.gpx").write_text("precious")
    options = Options(strength=0, gpx=True)
    with pytest.raises(OutputError, match="exists"):
        process(source, tmp_path / "out.mp4", options)
    (tmp_path / "out.gpx").unlink()

    def full(_: Any) -> None:
        raise OutputError("the disk is full.")

    with pytest.raises(OutputError, match="full"):
        process(source, tmp_path / "out.mp4", options, full)
    assert names_in(tmp_path) == {"plain.mp4", "in.mp4"}


def test_without_a_track_there_is_no_gpx(tmp_path: Path, plain: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = process(plain, tmp_path / "out.mp4", Options(strength=0, gpx=True))
    assert result.gpx is None
    assert "no GPS track" in caplog.text
    assert names_in(tmp_path) == {"plain.mp4", "out.mp4"}


def test_records_are_read() -> None:
    for at in (16, 48):
        fix = fix_of_record(record(7, at))
        assert fix is not None
        assert fix.time == datetime(2025, 11, 22, 14, 7, 7, tzinfo=UTC)
        assert fix.latitude_deg == pytest.approx(-(33 + 52.57 / 60), abs=1e-5)
    north = fix_of_record(record(7, 16, b"ANE\0", 2025))
    assert north is not None and north.latitude_deg > 0 and north.longitude_deg > 0
    doubles = bytearray(box(b"free", b"GPS " + bytes(200)))
    struct.pack_into("<3I", doubles, 16, 13, 22, 30)
    for at, value in ((32, 4721.35197), (48, 830.80859), (64, 22.519), (72, 199.88)):
        struct.pack_into("<d", doubles, at, value)
    struct.pack_into("<3I", doubles, 80, 22, 12, 14)
    doubles[28:29], doubles[40:41], doubles[56:57] = b"A", b"N", b"E"
    fix = fix_of_record(bytes(doubles))
    assert fix is not None and fix.time == datetime(2022, 12, 14, 13, 22, 30, tzinfo=UTC)
    assert (fix.latitude_deg, fix.longitude_deg) == pytest.approx((47 + 21.35197 / 60, 8 + 30.80859 / 60))
    sentence = b"$GPRMC,080951.000,A,5207.9097,N,00505.5175,E,55.11,125.58,190918,,,A*59"
    fix = fix_of_record(box(b"free", b"GPS " + bytes(68) + sentence))
    assert fix is not None and fix.time == datetime(2018, 9, 19, 8, 9, 51, tzinfo=UTC)
    assert fix.course_deg == 125.58


@pytest.mark.parametrize(
    "block",
    [b"", b"free", b"freeGPS ", box(b"free", b"GPS " + b"\xff" * 300), record(99), record(1, status=b"VSW\0"),
     record(1, year=9999999), box(b"free", b"GPS " + b"$GPRMC,999999,A,9999.9,N,99999.9,E,,,999999" + bytes(99))],
)  # fmt: skip
def test_records_without_a_place_on_earth_are_none(block: bytes) -> None:
    assert fix_of_record(block) is None


def klv(key: bytes, kind: bytes, size: int, data: bytes) -> bytes:
    return key + kind + struct.pack(">BH", size, len(data) // size) + data + bytes(-len(data) % 4)


def test_gopro_packets_are_read() -> None:
    scales = struct.pack(">5i", 10**7, 10**7, 1000, 1000, 100)
    place = struct.pack(">5i", -338750000, 1512000000, 12500, 9500, 950)
    stream = klv(b"GPSF", b"L", 4, struct.pack(">I", 3)) + klv(b"GPSU", b"U", 16, b"251122140709.500")
    stream += klv(b"SCAL", b"l", 4, scales) + klv(b"GPS5", b"l", 20, place * 18)
    (fix,) = fixes_of_packet(klv(b"DEVC", b"\0", 1, klv(b"STRM", b"\0", 1, stream)))
    assert fix.time == datetime(2025, 11, 22, 14, 7, 9, tzinfo=UTC)
    assert (fix.latitude_deg, fix.longitude_deg, fix.elevation_m, fix.speed_mps) == (-33.875, 151.2, 12.5, 9.5)
    other = klv(b"STRM", b"\0", 1, stream.replace(b"GPS5", b"ACCL"))
    assert list(fixes_of_packet(klv(b"DEVC", b"\0", 1, other))) == []


def test_camm_packets_are_read() -> None:
    (plain,) = fixes_of_packet(struct.pack("<HH3d", 0, 5, 47.5, 8.5, 400.0))
    assert (plain.time, plain.latitude_deg, plain.longitude_deg, plain.elevation_m) == (None, 47.5, 8.5, 400)
    data = struct.pack("<HHdi2d7f", 0, 6, 1447855647.0, 3, 47.5, 8.5, 400, 1, 1, 3, 4, 0, 1)
    (full,) = fixes_of_packet(data)
    assert full.time == datetime(2025, 11, 22, 14, 7, 9, tzinfo=UTC)
    assert full.speed_mps == 5 and full.course_deg == pytest.approx(36.87, abs=0.01)
    assert list(fixes_of_packet(b"anything else")) == []


def test_a_data_stream_is_read_in_its_part(tmp_path: Path, clip: Make) -> None:
    plain, path = clip("video.mp4", frames=30), tmp_path / "go.mp4"
    with av.open(str(plain)) as source, av.open(str(path), "w") as output:
        video = output.add_stream_from_template(source.streams.video[0], opaque=True)
        data: Any = output.add_data_stream("bin_data")
        data.time_base = Fraction(1, 1000)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                output.mux(packet)
        for number in range(4):
            extra = av.Packet(struct.pack("<HH3d", 0, 5, 40 + number, 8, 0))
            extra.pts = extra.dts = number * 250
            extra.duration, extra.time_base, extra.is_keyframe, extra.stream = 250, Fraction(1, 1000), True, data
            output.mux(extra)
    assert [fix.latitude_deg for fix in read_fixes(probe(path))] == [40, 41, 42, 43]
    assert [fix.latitude_deg for fix in read_fixes(probe(path), 0.2, 0.6)] == [41, 42]


def test_what_does_not_read_back_is_named(tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault: the records are written elsewhere than the list says."""
    source = dashcam(plain, tmp_path / "in.mp4", Dashcam(RECORDS))
    fill = telemetry._fill
    monkeypatch.setattr(telemetry, "_fill", lambda output, table: fill(output, table[:-5] + b"\1" + table[-4:]))
    result = process(source, tmp_path / "out.mp4", COPY)
    assert result.dropped == (GPS,) and GPS not in result.kept


def test_the_limit_is_that_of_32_bits() -> None:
    assert OFFSET32_MAX == 0xFFFFFFFF
