"""The rows of the fidelity matrix: how each clip is made, and what each container cannot hold of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition
from clips import VFR_PTS, Clip, make, picture

from fidelity import sources
from fidelity.sources import (
    assemble,
    attachment,
    chapter,
    cover,
    film,
    filtered,
    interlaced,
    klv,
    mov_text,
    sound,
    telemetry,
    text,
    with_clean_aperture,
)

SUFFIXES = (".mp4", ".mkv", ".mov")
Make = Callable[[Path], Path]
Named = dict[str, dict[str, str]]

FULL, LIMITED = 2, 1
ONE, ZERO, UNIT = 65536, 0, 1073741824
MATRICES = {  # as they are stored in files
    "90 degrees clockwise": (ZERO, ONE, 0, -ONE, ZERO, 0, 0, 0, UNIT),
    "180 degrees": (-ONE, ZERO, 0, ZERO, -ONE, 0, 0, 0, UNIT),
    "90 degrees counter-clockwise": (ZERO, -ONE, 0, ONE, ZERO, 0, 0, 0, UNIT),
    "mirrored left to right": (-ONE, ZERO, 0, ZERO, ONE, 0, 0, 0, UNIT),
    "mirrored top to bottom": (ONE, ZERO, 0, ZERO, -ONE, 0, 0, 0, UNIT),
    "turned and mirrored": (ZERO, ONE, 0, ONE, ZERO, 0, 0, 0, UNIT),
}


@dataclass(frozen=True)
class Row:
    """A kind of clip.

    Attributes:
        name: description, as printed in docs/fidelity.md.
        make: writes the clip into a folder and returns its path.
        options: further options of `process`.
        sees: turns the source's snapshot into the expected one, where the source itself is at fault.
        pixels: False where samples have to change, as in deinterlacing.
        main: index of the main video in source and output, where it is not the first.
    """

    name: str
    make: Make
    options: dict[str, Any] = field(default_factory=dict)
    sees: Callable[[Any], Any] | None = None
    pixels: bool = True
    main: int | None = None


def png() -> bytes:
    encoder: Any = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 32, 32, "rgb24", Fraction(1, 25)
    return bytes(encoder.encode(picture(1, "rgb24", (32, 32)))[0])


def plain(name: str = "in.mp4", **properties: Any) -> Make:
    return lambda folder: make(folder / name, Clip(**properties))


def put(name: str, *parts: sources.Part, clip: Clip | None = None, **more: Any) -> Make:
    return lambda folder: assemble(folder / name, clip or Clip(), parts, **more)


def stamped(rate: Fraction, frames: int, scale: int, **more: Any) -> dict[str, Any]:
    return {"frames": frames, "time_base": Fraction(1, scale), "rate": rate, **more}


def ffv1(pixel_format: str, **more: Any) -> Make:
    level = {"level": "3"}
    return plain("in.mkv", codec="ffv1", pixel_format=pixel_format, frames=4, encoder_options=level, **more)


def tagged(primaries: int, transfer: int, matrix: int, range_: int, **more: Any) -> Make:
    return plain(tags=(primaries, transfer, matrix, range_), frames=4, **more)


NTSC, FILM, FAST = Fraction(30000, 1001), Fraction(24000, 1001), Fraction(120000, 1001)
TIME = [
    Row("constant rate", plain(frames=12)),
    Row("variable rate", plain(pts=VFR_PTS)),
    Row("a pause of ten seconds", plain(pts=[0, 3000, 6000, 906000, 909000, 912000])),
    Row("24000/1001 frames a second", plain(**stamped(FILM, 24, 24000, b_frames=2))),
    Row("30000/1001 frames a second", plain(**stamped(NTSC, 12, 30000))),
    Row("120000/1001 frames a second", plain(**stamped(FAST, 24, 120000))),
    Row("a clock of 1/600 s", plain(**stamped(Fraction(25), 12, 600))),
    Row("a clock of 1/10,000,000 s", plain(**stamped(Fraction(25), 12, 10_000_000))),
    Row(
        "two hours at 24000/1001",
        plain(time_base=Fraction(1, 24000), pts=[1001 * n * 14400 for n in range(12)], rate=FILM),
    ),
    Row("a beginning at two hours", plain(pts=[7200 * 90000 + 3003 * n for n in range(12)])),
    Row("B-frames", plain(frames=20, b_frames=3)),
    Row("a B-pyramid", plain(frames=24, b_frames=7, gop=24, encoder_options={"b-pyramid": "normal"})),
    Row("variable rate with B-frames", plain(pts=VFR_PTS, b_frames=2)),
    Row(
        "video begins late",
        plain(pts=[12345 + 3003 * n for n in range(12)], audio="aac", audio_start_s=-Fraction(12345, 90000)),
    ),
    Row("sound begins late", plain(audio="aac", audio_start_s=Fraction(1, 3))),
    Row("both begin late", plain(pts=[12345 + 3003 * n for n in range(12)], audio="aac", audio_start_s=Fraction(1, 3))),
]


def before_zero(folder: Path) -> Path:
    """Pictures and sound that begin before zero."""
    pts = [-80 + 40 * n for n in range(10)]
    return make(folder / "in.mkv", Clip(pts=pts, time_base=Fraction(1, 1000), rate=Fraction(25), audio="libopus"))


def from_zero(seen: Any) -> Any:
    """All streams moved so that the first picture is at zero."""
    return seen.cut(None, None, seen.times[0])


def from_two_pictures_earlier(seen: Any) -> Any:
    """The same; Matroska forgot the instants of the two pictures before zero, but not those of the sound."""
    moved = seen.cut(None, None, -Fraction(80, 1000))
    return replace(moved, times=tuple(Fraction(40 * n, 1000) for n in range(10)))


def hidden_by_edit_list(folder: Path) -> Path:
    """An edit list that hides the first three pictures, as editors and phones cut without encoding anew."""
    clip = Clip(pts=[-9000 + 3000 * n for n in range(12)], gop=12, audio="aac", audio_start_s=Fraction(1, 10))
    return make(folder / "in.mp4", clip)


def without_stamps(folder: Path) -> Path:
    """H.264 in AVI: packets have no presentation times."""
    return make(folder / "in.avi", Clip(frames=12, time_base=Fraction(1, 25), rate=Fraction(25), b_frames=2))


def raw_stream(folder: Path) -> Path:
    """A bare H.264 stream: no times at all."""
    path = make(folder / "in.mp4", Clip(frames=12, rate=Fraction(25)))
    return filtered(path, folder / "in.h264", "h264_mp4toannexb")


def restamped(folder: Path, change: Callable[[int], int]) -> Path:
    """A transport stream of pictures 40 ms apart, some of which carry other times than they should."""
    path, target = make(folder / "plain.mp4", Clip(frames=12, gop=1)), folder / "in.ts"
    with av.open(str(path)) as source, av.open(str(target), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0], opaque=True)
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            packet.pts, packet.dts = 1000 + change(number), 900 + 40 * number
            packet.time_base, packet.stream = Fraction(1, 1000), stream
            output.mux(packet)
    return target


def spread(*times_ms: int) -> Callable[[Any], Any]:
    return lambda seen: replace(seen, times=tuple(Fraction(t, 1000) for t in times_ms))


EVERY_40_MS = spread(*range(1000, 1480, 40))


def transport(folder: Path, begin_s: Fraction, name: str = "in.ts", frames: int = 12) -> Path:
    """A recording in a transport stream, sound and pictures of the same length."""
    clip = Clip(pts=[round(begin_s * 90000) + 3600 * n for n in range(frames)], rate=Fraction(25))
    return assemble(folder / name, clip, [sound("mp2", start_s=begin_s, seconds=frames / 25)])


def discontinuous(folder: Path) -> Path:
    """Two recordings one after the other in one transport stream: the clock jumps."""
    first = transport(folder, Fraction(100), "first.ts")
    second = transport(folder, Fraction(3), "second.ts")
    path = folder / "in.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    return path


def joined(seen: Any) -> Any:
    """The second recording goes on where the first one ended, pictures and sound alike."""
    jump = seen.times[12] - seen.times[11] - Fraction(1, 25)

    def late(time_s: Fraction) -> bool:
        return time_s > 1000

    streams = tuple(
        replace(s, packets=tuple((t - jump if late(t) else t, d, b) for t, d, b in s.packets)) for s in seen.streams
    )
    return replace(seen, times=tuple(t - jump if late(t) else t for t in seen.times), streams=streams)


def resized(folder: Path) -> Path:
    """A transport stream whose pictures change their size on the way."""
    first = make(folder / "first.ts", Clip(frames=6, rate=Fraction(25)))
    pts = [(6 * 3600) + 3600 * n for n in range(6)]
    second = make(folder / "second.ts", Clip(pts=pts, rate=Fraction(25), size=(96, 80)))
    path = folder / "in.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    return path


def camera_motion(folder: Path) -> Path:
    """Telemetry of a kind that FFmpeg has no name for."""
    path = assemble(folder / "plain.mp4", Clip(), [telemetry(), sound("aac")])
    target = folder / "in.mp4"
    target.write_bytes(path.read_bytes().replace(b"gpmd", b"camm"))
    return target


def cropped(folder: Path, crop: str) -> Path:
    path = make(folder / "plain.mp4", Clip(frames=6))
    return filtered(path, folder / "in.mp4", f"h264_metadata={crop}")


def part(folder: Path) -> Path:
    """A second of everything, of which a part is asked for."""
    clip = Clip(frames=25, rate=Fraction(25), b_frames=2, gop=5)
    chapters = [chapter(0, 300, "Rain"), chapter(300, 1000, "Sun")]
    return assemble(folder / "in.mp4", clip, [sound("aac", seconds=1), mov_text(), telemetry()], chapters=chapters)


def cut_out(seen: Any, begin: Fraction | int = Fraction(1, 5)) -> Any:
    """Half a second of it, from a picture on, all streams at the same instants."""
    return seen.cut(Fraction(begin) or None, begin + Fraction(1, 2), Fraction(begin))


TIME += [
    Row("pictures and sound begin before zero", before_zero, sees=from_two_pictures_earlier),
    Row("an edit list that hides pictures", hidden_by_edit_list),
    Row("an AVI file, which has no presentation times", without_stamps, sees=spread(*range(0, 480, 40))),
    Row("a raw stream without any times", raw_stream, sees=spread(*range(0, 480, 40))),
    Row(
        "a part: pictures, sound, subtitles, data and chapters",
        part,
        options={"start_s": 0.2, "duration_s": 0.5},
        sees=cut_out,
    ),
    Row("a part from the beginning", part, options={"duration_s": 0.5}, sees=lambda seen: cut_out(seen, 0)),
    Row("two pictures at one instant", lambda f: restamped(f, lambda n: 40 * (n - (n == 5))), sees=EVERY_40_MS),
    Row("a picture that is late", lambda f: restamped(f, lambda n: 40 * n - 80 * (n == 5)), sees=EVERY_40_MS),
    Row("a transport stream", lambda f: transport(f, Fraction(100))),
    Row("a transport stream whose clock jumps", discontinuous, sees=joined),
    Row(
        "a part of it behind the jump",
        discontinuous,
        options={"start_s": 0.6, "duration_s": 0.2},
        sees=lambda seen: joined(seen).cut(Fraction(503, 5), Fraction(504, 5), Fraction(503, 5)),
    ),
    Row(
        "a transport stream whose clock overflows",
        lambda f: transport(f, Fraction(2**33, 90000) - Fraction(1, 5)),
        sees=from_zero,
    ),
]
COLOUR = [
    Row("BT.601, 525 lines", tagged(6, 6, 6, LIMITED)),
    Row("BT.601, 625 lines", tagged(5, 6, 5, LIMITED)),
    Row("BT.709", tagged(1, 1, 1, LIMITED)),
    Row("BT.2020", tagged(9, 14, 9, LIMITED, pixel_format="yuv420p10le")),
    Row("SMPTE 240M", tagged(7, 7, 7, LIMITED)),
    Row("FCC", tagged(4, 4, 4, LIMITED)),
    Row("Display P3", tagged(12, 13, 1, LIMITED)),
    Row("untagged, small", plain(frames=4)),
    Row("untagged, large", plain(frames=3, size=(1280, 64))),
    Row("full range", tagged(1, 1, 1, FULL)),
    Row("full range of MJPEG", plain("in.mov", codec="mjpeg", pixel_format="yuvj420p", frames=4)),
    Row("4:2:2", plain(pixel_format="yuv422p", frames=4)),
    Row("4:4:4", plain(pixel_format="yuv444p", frames=4)),
    Row("grey", plain(pixel_format="gray", frames=4)),
    Row("4:2:0 of 10 bits", plain(pixel_format="yuv420p10le", frames=4)),
    Row("4:2:2 of 10 bits", plain(pixel_format="yuv422p10le", frames=4)),
    Row("4:4:4 of 10 bits", plain(pixel_format="yuv444p10le", frames=4)),
    Row("4:2:0 of 12 bits", ffv1("yuv420p12le")),
    Row("4:2:2 of 12 bits", ffv1("yuv422p12le")),
    Row("4:4:4 of 12 bits", ffv1("yuv444p12le")),
    Row("grey of 10 bits", ffv1("gray10le")),
    Row("grey of 12 bits", ffv1("gray12le")),
    Row("RGB", ffv1("bgr0")),
    Row("RGB of 10 bits", ffv1("gbrp10le")),
    *(
        Row(f"chroma at {place}", plain(frames=4, encoder_options={"chroma_sample_location": place}))
        for place in ("left", "center", "topleft")
    ),
    Row("HLG", tagged(9, 18, 9, LIMITED, pixel_format="yuv420p10le")),
    Row("HDR10 in the stream (HEVC)", lambda f: hdr10(f)),
    Row("HDR10 in the stream (H.264)", lambda f: hdr10_h264(f)),
]


def hdr10(folder: Path) -> Path:
    """PQ with the light of its mastering display, which HEVC tells in its stream."""
    params = (
        "log-level=none:repeat-headers=1:hdr10=1:max-cll=1000,400:"
        "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    )
    clip = Clip(
        frames=4, size=(64, 64), codec="libx265", pixel_format="yuv420p10le", tags=(9, 16, 9, LIMITED),
        encoder_options={"preset": "ultrafast", "x265-params": params},
    )  # fmt: skip
    return make(folder / "in.mkv", clip)


def hdr10_h264(folder: Path) -> Path:
    params = "mastering-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):cll=1000,400"
    clip = Clip(frames=4, pixel_format="yuv420p10le", tags=(9, 16, 9, LIMITED), encoder_options={"x264-params": params})
    return make(folder / "in.mp4", clip)


PICTURE = [
    *(Row(name, plain(display_matrix=matrix, frames=4)) for name, matrix in MATRICES.items()),
    Row("pixels of 4:3", plain(sample_aspect_ratio=Fraction(4, 3), frames=4)),
    Row("pixels of 10:11", plain(sample_aspect_ratio=Fraction(10, 11), frames=4)),
    Row("odd sizes", ffv1("yuv420p", size=(61, 47))),
    Row("odd sizes, 4:2:2", ffv1("yuv422p", size=(61, 47))),
    Row("odd sizes, 4:4:4", ffv1("yuv444p", size=(61, 47))),
    Row("one pixel", ffv1("yuv444p", size=(1, 1))),
    Row("two pixels by two", plain(frames=4, size=(2, 2))),
    Row("7680 columns", plain(frames=2, size=(7680, 32))),
    Row("4320 rows", plain(frames=2, size=(32, 4320))),
    Row(
        "a cropping rectangle of the container",
        lambda f: with_clean_aperture(make(f / "plain.mp4", Clip(frames=4)), f / "in.mp4"),
        sees=lambda seen: replace(seen, size=(48, 40)),
        pixels=False,
    ),
    Row("a cropping rectangle", lambda f: cropped(f, "crop_left=2:crop_right=6:crop_top=4:crop_bottom=4")),
    Row("interlaced, top field first", lambda f: interlaced(f / "in.mkv", "mpeg2video", qmin="2"), pixels=False),
    Row("interlaced, bottom field first", lambda f: interlaced(f / "in.mkv", "ffv1", top_first=False), pixels=False),
    Row("interlaced H.264", lambda f: interlaced(f / "in.mkv", "libx264", **{"x264-params": "tff=1"}), pixels=False),
    Row("flagged as interlaced, but progressive", lambda f: interlaced(f / "in.mkv", "ffv1", frames=32, whole=32)),
    Row("pictures that change their size", resized, pixels=False),
    Row("a cover picture", put("in.mp4", cover())),
    Row("a cover picture in Matroska", put("in.mkv", attachment("cover.png", "image/png", png()))),
    Row("two videos", put("in.mp4", film(Clip(frames=12, size=(32, 32))))),
    Row(
        "three videos",
        put(
            "in.mkv",
            film(Clip(frames=12, size=(32, 32))),
            film(Clip(frames=6, codec="mpeg4", time_base=Fraction(1, 30))),
        ),
    ),
    Row("the video is the last stream", put("in.mp4", sound("aac"), mov_text(), video_last=True), main=2),
]
SOUND = [
    *(
        Row(f"sound: {name}", put("in.mkv", sound(codec, **more)))
        for name, codec, more in (
            ("PCM of 16 bits", "pcm_s16le", {}),
            ("PCM of 24 bits", "pcm_s24le", {}),
            ("PCM of 32-bit floats", "pcm_f32le", {}),
            ("PCM of 8 bits", "pcm_u8", {}),
            ("AAC", "aac", {}),
            ("Opus", "libopus", {}),
            ("MP3", "libmp3lame", {}),
            ("AC-3", "ac3", {}),
            ("E-AC-3", "eac3", {}),
            ("FLAC", "flac", {}),
            ("ALAC", "alac", {}),
            ("Vorbis", "vorbis", {"layout": "stereo"}),
            ("5.1 channels", "aac", {"layout": "5.1"}),
            ("44.1 kHz", "aac", {"rate": 44100}),
        )
    ),
    Row("sound: PCM of a camera (big-endian)", put("in.mov", sound("pcm_s16be"))),
    Row("sound: A-law of a camera", put("in.mov", sound("pcm_alaw", rate=8000))),
    Row("sound: AMR of a telephone", put("in.mov", sound("libopencore_amrnb", rate=8000))),
    Row("sound: AAC with its lead-in hidden", put("in.mp4", sound("aac", start_s=-Fraction(1024, 48000)))),
    Row(
        "several languages",
        put("in.mkv", sound("aac", language="eng"), sound("libopus", language="deu", title="Kommentar")),
    ),
]
STREAMS = [
    Row("subtitles of MP4", put("in.mp4", mov_text(language="fra"))),
    Row("subtitles: SubRip", put("in.mkv", text(".srt", language="eng"))),
    Row("subtitles: WebVTT", put("in.mkv", text(".vtt"))),
    Row("subtitles: ASS with a font", put("in.mkv", text(".ass", language="jpn", title="Zeichen"), attachment())),
    Row("attachments", put("in.mkv", attachment(), attachment("notes.txt", "text/plain", b"rain"))),
    Row("chapters", put("in.mp4", chapters=[chapter(0, 200, "Rain"), chapter(200, 400, "Sun")])),
    Row("chapters with a gap", put("in.mkv", chapters=[chapter(0, 100, "Rain"), chapter(200, 300, "Sun")])),
    Row("chapters in Matroska", put("in.mkv", chapters=[chapter(0, 200, "Rain"), chapter(200, 400, "Sun")])),
    Row(
        "dispositions",
        put(
            "in.mkv",
            sound("aac", disposition=Disposition.default),
            sound("aac", disposition=Disposition.comment),
            text(".srt", disposition=Disposition.forced),
            text(".srt", disposition=Disposition.hearing_impaired),
        ),
    ),
    Row(
        "tags of the file",
        put("in.mp4", metadata={"title": "Regen über Köln", "artist": "A", "comment": "B", "date": "2024"}),
    ),
    Row(
        "tags of the file in Matroska",
        put("in.mkv", metadata={"title": "Regen über Köln", "artist": "A", "camera_id": "7"}),
    ),
    Row(
        "tags of the streams",
        put("in.mkv", sound("aac", title="Straße"), video_metadata={"title": "Vorn", "language": "deu"}),
    ),
    Row("the time of recording", put("in.mp4", metadata={"creation_time": "2024-02-29T12:34:56.000000Z"})),
    Row("the time of recording in Matroska", put("in.mkv", metadata={"creation_time": "2024-02-29T12:34:56.000000Z"})),
    Row(
        "the place of recording",
        put(
            "in.mov",
            metadata={"com.apple.quicktime.location.ISO6709": "+50.9-006.9/", "com.apple.quicktime.make": "X"},
            options={"movflags": "use_metadata_tags"},
        ),
    ),
    Row("a timecode track", plain("in.mov", metadata={"timecode": "01:02:03:04"})),
    Row("telemetry: gpmd", put("in.mp4", telemetry(), sound("aac"))),
    Row("telemetry: camm", camera_motion),
    Row("telemetry: KLV", put("in.ts", klv())),
    Row(
        "everything at once",
        put(
            "in.mkv",
            sound("aac", language="eng"),
            sound("libopus", language="deu"),
            text(".srt", language="eng"),
            cover(),
            attachment(),
            metadata={"title": "Rain"},
            chapters=[chapter(0, 200, "Rain"), chapter(200, 400, "Sun")],
        ),
    ),
]
GROUPS = {"Time": TIME, "Colour": COLOUR, "Picture": PICTURE, "Sound": SOUND, "Other streams and tags": STREAMS}
ROWS = [row for rows in GROUPS.values() for row in rows]

# Rows that run on every change: one or two for each way in which files differ; the others run with `-m long`.
CORE = frozenset(
    {
        "variable rate with B-frames", "two hours at 24000/1001", "video begins late",
        "pictures and sound begin before zero", "an edit list that hides pictures", "a raw stream without any times",
        "a part: pictures, sound, subtitles, data and chapters", "a transport stream whose clock jumps",
        "BT.2020", "full range of MJPEG", "4:4:4 of 12 bits", "RGB", "HDR10 in the stream (HEVC)",
        "turned and mirrored", "pixels of 4:3", "odd sizes", "interlaced, top field first", "three videos",
        "sound: FLAC", "several languages",
        "dispositions", "a timecode track", "telemetry: gpmd", "everything at once",
    }
)  # fmt: skip

# What a container cannot hold: by row and suffix, the columns that differ, and the words in which the report says so.
_ODD = {"pixels": "written as yuv444p", "depth": "written as yuv444p"}
_NO_FLAC = {"streams": "written as alac without loss"}
_AS_AAC = {"streams": "written as aac"}
_AS_PCM = {"streams": "written as pcm_s16le without loss"}
_NO_SUBRIP = {"streams": "(subrip"}
_NO_WEBVTT = {"streams": "(webvtt"}
_NO_MOV_TEXT = {"streams": "(mov_text"}
_NO_HDR = {"colour": "HDR metadata"}
_NO_COVER = {"streams": "cover picture #1"}
_NO_FILES = {"streams": "attachment #1 (rain.ttf)"}
_NO_KLV = {"streams": "data #1 (klv)"}
NAMED: dict[str, Named] = {
    "a part: pictures, sound, subtitles, data and chapters": {".mkv": {"streams": "data #3 (bin_data)"}},
    "a part from the beginning": {".mkv": {"streams": "data #3 (bin_data)"}},
    "pictures and sound begin before zero": {".mov": _AS_AAC},
    "odd sizes": {".mov": _ODD},
    "odd sizes, 4:2:2": {".mov": _ODD},
    "a cover picture": {".mov": _NO_COVER},
    "a cover picture in Matroska": {".mov": _NO_COVER},
    "the video is the last stream": {".mkv": _NO_MOV_TEXT},
    "sound: PCM of 8 bits": {".mp4": _AS_PCM},
    "sound: Opus": {".mov": _AS_AAC},
    "sound: FLAC": {".mov": _NO_FLAC},
    "sound: Vorbis": {".mov": _AS_AAC},
    "sound: A-law of a camera": {".mp4": _AS_PCM, ".mkv": _AS_PCM},
    "sound: AMR of a telephone": {".mp4": _AS_AAC, ".mkv": _AS_AAC},
    "several languages": {".mov": _AS_AAC},
    "subtitles of MP4": {".mkv": _NO_MOV_TEXT},
    "subtitles: SubRip": {".mp4": _NO_SUBRIP, ".mov": _NO_SUBRIP},
    "subtitles: WebVTT": {".mp4": _NO_WEBVTT, ".mov": _NO_WEBVTT},
    "subtitles: ASS with a font": {
        ".mp4": {"streams": "attachment #2 (rain.ttf)"},
        ".mov": {"streams": "attachment #2 (rain.ttf)"},
    },
    "attachments": {".mp4": _NO_FILES, ".mov": _NO_FILES},
    "chapters with a gap": {
        ".mp4": {"chapters": "ends of chapters"},
        ".mov": {"chapters": "ends of chapters"},
    },
    "dispositions": {".mp4": _NO_SUBRIP, ".mov": _NO_SUBRIP | {"metadata": "mark comment of audio #2 (aac)"}},
    "a timecode track": {".mkv": {"streams": "data #1 (tmcd, eng) written as a tag"}},
    "telemetry: gpmd": {".mkv": {"streams": "data #1 (bin_data)"}},
    "telemetry: camm": {".mkv": {"streams": "data #1 (camm)"}},
    "telemetry: KLV": {".mp4": _NO_KLV, ".mkv": _NO_KLV, ".mov": _NO_KLV},
    "everything at once": {
        ".mp4": {"streams": "attachment #5 (rain.ttf)"},
        ".mov": {"streams": "audio #2 (opus, deu) written as aac"},
    },
}
# The same where it is the lossless encoder that leaves it to the container to say it, which H.264 does not.
NAMED_WITHOUT_LOSS: dict[str, Named] = {
    "HDR10 in the stream (HEVC)": {".mp4": _NO_HDR, ".mkv": _NO_HDR},
    "HDR10 in the stream (H.264)": {".mp4": _NO_HDR, ".mkv": _NO_HDR},
    "full range of MJPEG": {".mp4": {"colour": "colour tags (matrix, range, chroma location)"}},
    "chroma at center": {".mp4": {"colour": "colour tags (chroma location)"}},
    "chroma at topleft": {".mp4": {"colour": "colour tags (chroma location)"}},
    "pixels of 4:3": {".mkv": {"aspect": "pixel aspect ratio 4/3"}},
    "pixels of 10:11": {".mkv": {"aspect": "pixel aspect ratio 10/11"}},
}
