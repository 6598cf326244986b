"""Runs vderain on evaluation sets and prints what docs/benchmarks.md shows.

The measures are written out here, away from the program, so that it does not judge itself by its own code.
"""

import argparse
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, islice, pairwise, repeat
from pathlib import Path
from typing import Any, get_args

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vderain.media.clip import open_source
from vderain.media.encode import EncodeOptions
from vderain.model.checkpoint import DEFAULT_MODEL
from vderain.options import Engine
from vderain.pipeline import Pipeline, load_models
from vderain.process import Options, Progress, Result, process
from vderain.rain.refraction import refract_through
from vderain.rain.streaks import Light, StreakLayer, rain_onto, streak_opacity
from vderain.rain.weather import STYLES, Weather
from vderain.rain.windshield import Glass, Windshield
from vderain.restore.rain_intervals import is_rainy, rain_intervals
from vderain.train.data.lettering import with_lettering

SAMPLES = Path(__file__).parent.parent / "samples"
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
LUMA = np.array([24.966, 128.553, 65.481]) / 255  # B, G, R to the Y of Matlab's rgb2ycbcr
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # Wang et al., IEEE TIP 2004
RAIN_SEED = 5
SHOWER = (  # angle, length, width, streaks on 10 000 pixels, opacity
    StreakLayer(-13.1, 18.8, 2.7, 1.3, 0.63),
    StreakLayer(-5.6, 32.5, 0.7, 5.3, 0.48),
    StreakLayer(2.1, 25.7, 1.5, 1.2, 0.59),
    StreakLayer(-11.3, 27.6, 0.5, 8.3, 0.62),
    StreakLayer(-6.6, 102.6, 4.0, 0.37, 0.1),
)
LOSSLESS = EncodeOptions(codec="ffv1")
SHOWN = ("temporal", "strength")  # on stderr, while it goes on
SECTIONS = ("rain", "clear", "drops", "lettering", "exact", "weather", "size", "resources")
BEHIND = 37  # frames behind drops
NEVER_S = 1e9  # between two passes of the wiper


def _resting(radius_h: float, share: float) -> Glass:
    """Drops that cover a share of a glass without a wiper."""
    return Glass(share / (12 * math.pi * radius_h**2), radius_h, spread=0.3, rest_s=12, wipe_every_s=NEVER_S)


SOFT, OPAQUE, SHARP, SMALL = _resting(0.05, 0.37), _resting(0.021, 0.065), _resting(0.033, 0.105), _resting(0.012, 0.25)
GLASSES = {
    "soft patches": replace(SOFT, defocus_h=0.03, flat=0.9, uneven_h=0.03, gain=1.2, glow=0.15),
    "opaque": replace(OPAQUE, defocus_h=0.008, glow=0.3, street=0.3),
    "opaque and sharp": replace(SHARP, defocus_h=0.0015, glow=0.2, street=0.5),
    "many small": replace(SMALL, spread=0.4, defocus_h=0.004, glow=0.2, street=0.2, flat=0.3, uneven_h=0.003),
}
SIGNS, SIGNS_SEED, SIGNS_PX, SIGNS_MARGIN_PX = 30, 4, 90, 8
PANNED, PAN_PX, SIZE_PX = 8, 3, (360, 640)  # frames of a clip of signs, its motion per frame, and its size

Picture = NDArray[np.uint8]  # (H, W, 3) BGR
Luma = NDArray[np.float64]  # (H, W), 16..235


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder that holds eval/; without it, only our own sample is used")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="released model or .safetensors file")
    parser.add_argument("--engine", choices=get_args(Engine), default="torch", help="what runs the network")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="one section; repeatable")
    parser.add_argument("--limit", type=int, help="frames or pictures of each set, for a quick look")
    parser.add_argument("--work", type=Path, default=Path("out/benchmarks"), help="folder for what is made on the way")
    given = parser.parse_args()
    shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True)
    bench = Bench(given.work, given.model, given.engine, given.data / "eval" if given.data else None, given.limit)
    real = sorted((given.data / "real").glob("*.mp4")) if given.data else []
    chosen = given.only or SECTIONS
    if "resources" in chosen:  # first: memory is measured in a process that has done nothing else
        bench.resources()
    if "rain" in chosen:
        bench.rain()
    if "clear" in chosen:
        bench.clear()
    if "drops" in chosen:
        bench.drops()
    if "lettering" in chosen:
        bench.lettering()
    if "exact" in chosen:
        bench.exact()
    if "weather" in chosen:
        bench.weather()
    if "size" in chosen:
        bench.size(real)


@dataclass(frozen=True, slots=True)
class Score:
    """Means over frames; ``worst8`` is a maximum, ``warp`` is None for pictures that are no clip."""

    psnr: float
    ssim: float
    worst8: float
    warp: float | None


@dataclass(frozen=True, slots=True)
class Bench:
    """Where things are, and which weights are judged."""

    work: Path
    model: str
    engine: Engine
    data: Path | None
    limit: int | None

    def rain(self) -> None:
        """Rain that should go, with the truth known."""
        print("\n| set | mode | frames | PSNR in | out | SSIM in | out | worst8 out | E_warp in/clear | out/clear |")
        print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")
        clips = [("own sample", SAMPLES / "driving_rain.mp4", SAMPLES / "driving_dry.mp4")]
        if self.data:
            clips.insert(0, ("NTURain a1", self.data / "ntu_a1/rain", self.data / "ntu_a1/clear"))
        for name, rainy, clear in clips:
            for mode in ("strong", "light", "only", "off"):
                self._row(name, mode, rainy, self._clip(rainy, temporal=mode), clear, moving=True)
        if self.data:
            for step in (1, 4):
                rainy, clear = self._rained_on(self.data / "clear_clips/street.mp4", step)
                name = f"street.mp4, rain by us, every {step}th frame" if step > 1 else "street.mp4, rain by us"
                self._row(name, "strong", rainy, self._clip(rainy, temporal="strong"), clear, moving=True)
            stills = (("Rain100L", "rain100l", "rain100l"), ("Rain100H", "rain100h", "rain100l"))
            for name, rainy_in, clear_in in (*stills, ("driving, rendered weather", "driving", "driving")):
                rainy, clear = self.data / rainy_in / "rain", self.data / clear_in / "clear"
                self._row(name, "image", rainy, self._stills(rainy), clear, moving=False)

    def clear(self) -> None:
        """Clear pictures, which should stay as they are."""
        print("\n| clear in | mode | frames | PSNR | SSIM | worst8 |")
        print("|---|---|--:|--:|--:|--:|")
        modes: tuple[str, ...] = ("strong", "light", "only")
        clips = [("own sample, dry", SAMPLES / "driving_dry.mp4", modes)]
        if self.data:
            street = self.data / "clear_clips/street.mp4"
            clips = [
                ("NTURain a1, clear", self.data / "ntu_a1/clear", modes),
                ("street.mp4", street, modes[:1]),
                ("street.mp4, every 4th frame", self._every(street, 4), modes),
                ("street.mp4, every 8th frame", self._every(street, 8), modes),
                *clips,
            ]
        for name, source, tried in clips:
            for mode in tried:
                self._harm(name, mode, source, self._clip(source, temporal=mode))
        if self.data:
            source = self.data / "driving/clear"
            self._harm("driving, clear", "image", source, self._stills(source))

    def drops(self) -> None:
        """Drops of ours that stay on the windshield of a moving car: colour PSNR behind them, and beside them."""
        print("\n| clip | drops | frames | covered | behind drops in | out | beside them in | out |")
        print("|---|---|--:|--:|--:|--:|--:|--:|")
        clips = [("own sample", SAMPLES / "driving_dry.mp4", 20, 103)]
        if self.data:
            street = self.data / "clear_clips/street.mp4"
            clips += [
                (f"street.mp4 from frame {first}", street, first, seed) for first, seed in ((300, 101), (560, 102))
            ]
        for name, clip, first, seed in clips:
            for kind, glass in GLASSES.items():
                folder = self.work / f"drops-{name.replace(' ', '-')}-{kind}"
                behind, beside = _behind_drops(islice(frames(clip), first, first + BEHIND), glass, seed, folder)
                out = self._clip(folder / "rain", temporal="strong")
                parts = [self._colour_psnr(picture, folder / "clear", where) for where in (behind, beside)
                         for picture in (folder / "rain", out)]  # fmt: skip
                cells = " | ".join(f"{part:.2f}" for part in parts)
                print(f"| {name} | {kind} | {BEHIND} | {behind.mean():.0%} | {cells} |", flush=True)

    def _colour_psnr(self, one: Path, other: Path, where: NDArray[np.bool_]) -> float:
        """Over the middle third of two clips, in part of the frame."""
        third = slice(BEHIND // 3, BEHIND - BEHIND // 3)
        pairs = islice(zip(frames(one), frames(other), strict=True), third.start, third.stop)
        errors = [((a.astype(np.float64) - b)[where] ** 2).mean() for a, b in pairs]
        return float(10 * np.log10(255**2 / max(np.mean(errors), 1e-9)))

    def lettering(self) -> None:
        """Signs behind rain: edges of the truth that are kept, and new ones where it is smooth."""
        print("\n| signs on | behind | as | frames | edges kept in | out | new edges in | out | score in | out |")
        print("|---|---|---|--:|--:|--:|--:|--:|--:|--:|")
        dry = next(frames(SAMPLES / "driving_dry.mp4"))
        pictures = {"own sample": cv2.resize(dry, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)}
        if self.data:
            street = next(frames(self.data / "driving/clear"))
            pictures["driving"] = cv2.resize(street, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        for name, picture in pictures.items():
            for rain in ("streaks", "windshield", "nothing"):
                folder = self.work / f"signs-{name.replace(' ', '-')}-{rain}"
                covers = _panned_signs(np.asarray(picture, np.uint8), rain, folder)
                self._legible(f"{name} | {rain} | clip", folder, self._clip(folder / "rain", temporal="strong"), covers)
                self._legible(f"{name} | {rain} | image", folder, self._stills(folder / "rain", 2), covers)

    def _legible(self, label: str, folder: Path, out: Path, covers: list[NDArray[np.bool_]]) -> None:
        count = sum(1 for _ in frames(out))
        triples = islice(
            zip(frames(folder / "rain"), frames(out), frames(folder / "clear"), covers, strict=False), count
        )
        rows = [[edges(luma(x), luma(truth), where) for x in (rainy, got)] for rainy, got, truth, where in triples]
        kept, new, both = np.mean(rows, 0).T
        cells = f"{kept[0]:.1%} | {kept[1]:.1%} | {new[0]:.2%} | {new[1]:.2%} | {both[0]:.3f} | {both[1]:.3f}"
        print(f"| {label} | {count} | {cells} |", flush=True)

    def exact(self) -> None:
        """Strength 0 to a lossless codec: every code value of every plane as it was."""
        source, target = SAMPLES / "driving_rain.mp4", self.work / "exact.mkv"
        self._process(source, target, strength=0.0, encode=LOSSLESS)
        same = all(np.array_equal(a, b) for a, b in zip(_planes(source), _planes(target), strict=True))
        print(f"\n`--strength 0 --codec ffv1`: all planes {'bit-identical' if same else 'DIFFER'}")

    def weather(self) -> None:
        """What `--auto` takes for rain and for dry weather, beside what it is."""
        print("\n| clip | it is | frames | judged otherwise | lowest and highest presence |")
        print("|---|---|--:|--:|--:|")
        clips = [("own sample", SAMPLES / "driving_rain.mp4", True), ("own sample", SAMPLES / "driving_dry.mp4", False)]
        if self.data:
            street = self.data / "clear_clips/street.mp4"
            clips += [("NTURain a1", self.data / f"ntu_a1/{kind}", kind == "rain") for kind in ("rain", "clear")]
            clips += [("street.mp4", street, False)]
            clips += [(f"street.mp4, every {n}th frame", self._every(street, n), False) for n in (4, 8)]
            clips += [("street.mp4, rain by us, every 4th frame", self._rained_on(street, 4)[0], True)]
            clips += [(f"real: {path.name}", path, True) for path in sorted((self.data.parent / "real").iterdir())
                      if path.is_dir() or path.suffix == ".mp4"]  # fmt: skip
        options = Options(model=self.model, engine=self.engine)
        pipeline = Pipeline(options, load_models(options))
        for name, source, rains in clips:
            with open_source(source) as reader:
                seen = list(islice(reader.frames(), self.limit))
            samples = pipeline.sample_rain(seen)
            found = rain_intervals(samples)
            wrong = sum(is_rainy(found, number) != rains for number in range(len(seen)))
            lowest, highest = min(s.rain_score for s in samples), max(s.rain_score for s in samples)
            kind = "rain" if rains else "dry"
            share = f"{wrong / len(seen):.1%}"
            print(f"| {name} | {kind} | {len(seen)} | {share} | {lowest:.2f} to {highest:.2f} |", flush=True)

    def size(self, real: list[Path]) -> None:
        """How large the output becomes, and what the limit on its bit rate costs, against a lossless result."""
        print("\n| clip | source, kbit/s | derained | at constant quality | PSNR | with the limit | PSNR |")
        print("|---|--:|---|--:|--:|--:|--:|")
        sample = SAMPLES / "driving_rain.mp4"
        for source, strength in [(sample, 0.0), (sample, 1.0), *((clip, 0.0) for clip in real)]:
            duration_s = self.limit / _rate(source) if self.limit else None
            before = _kilobits(source, duration_s or math.inf)
            whole, cells = self.work / f"{source.stem}-whole.mp4", []
            for encode in (EncodeOptions(lossless=True), EncodeOptions(crf=17), EncodeOptions()):
                target = whole if encode.lossless else self.work / f"{source.stem}-lossy.mp4"
                self._process(source, target, strength=strength, duration_s=duration_s, encode=encode)
                if target != whole:
                    pairs = zip(frames(target), frames(whole), strict=True)
                    near = np.mean([psnr(luma(one), luma(other)) for one, other in pairs])
                    cells.append(f"x{_kilobits(target) / before:.2f} | {near:.2f}")
            how = "yes" if strength else "no"
            print(f"| {source.name} | {before:.0f} | {how} | {' | '.join(cells)} |", flush=True)

    def resources(self) -> None:
        """Memory and speed at 1280x720, by our own sample enlarged and repeated."""
        count = self.limit or 600
        source = self.work / "720p.mp4"
        _enlarge(SAMPLES / "driving_rain.mp4", source, (1280, 720), count)
        memory_mb: dict[int, float] = {}

        def watch(progress: Progress) -> None:
            memory_mb[progress.frames] = _resident_mb()

        whole = self._process(source, self.work / "720p.derained.mp4", watch)
        plain = self._process(source, self.work / "720p.plain.mp4", strength=0.0)
        early = min(100, count // 2)
        fps, plain_fps = whole.frames / whole.seconds, plain.frames / plain.seconds
        print(f"\n{whole.frames} frames of 1280x720, {whole.device}, {len(os.sched_getaffinity(0))} cores:\n")
        print("| | |\n|---|--:|")
        print(f"| frames/s | {fps:.2f} |")
        print(f"| frames/s at `--strength 0` (decoding and encoding alone) | {plain_fps:.2f} |")
        print(f"| time, as a multiple of that | {plain_fps / fps:.1f} |")
        busy_s = sum(whole.stages_s.values())
        for stage, seconds in sorted(whole.stages_s.items(), key=lambda item: -item[1]):
            print(f"| processor time: {stage} | {seconds / busy_s:.0%} |")
        print(f"| resident memory at frame {early} | {memory_mb[early]:.0f} MB |")
        print(f"| resident memory at frame {count} | {memory_mb[count]:.0f} MB |")
        print(f"| highest | {max(memory_mb.values()):.0f} MB |")

    def _process(
        self, source: Path, target: Path, report: Callable[[Progress], None] = lambda progress: None, **options: Any
    ) -> Result:
        mode = " ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in options.items() if k in SHOWN)
        print(f"... {source.parent.name}/{source.name} {mode}", file=sys.stderr)
        return process(source, target, Options(model=self.model, engine=self.engine, overwrite=True, **options), report)

    def _clip(self, source: Path, **options: Any) -> Path:
        """A clip, processed to a lossless result."""
        target = self.work / f"{source.parent.name}-{source.stem}-{options['temporal']}"
        rate = Fraction(30)
        if source.is_dir():
            duration_s = float(self.limit / rate) if self.limit else None
            self._process(source, target, rate=rate, duration_s=duration_s, **options)
            return target
        video = target.with_suffix(".mkv")
        duration_s = self.limit / _rate(source) if self.limit else None
        self._process(source, video, duration_s=duration_s, encode=LOSSLESS, **options)
        return video

    def _stills(self, source: Path, limit: int | None = None) -> Path:
        """Pictures that are no clip, each by itself."""
        folder = self.work / f"{source.parent.name}-{source.name}"
        folder.mkdir()
        for path in islice(_pictures_of(source), limit or self.limit):
            self._process(path, folder / f"{path.stem}.png")
        return folder

    def _every(self, source: Path, step: int) -> Path:
        """One frame in `step` of a video, as a folder of PNG."""
        folder = self.work / f"{source.stem}-every-{step}"
        folder.mkdir()
        for number, picture in enumerate(islice(frames(source), 0, None, step)):
            (folder / f"{number:05}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        return folder

    def _rained_on(self, source: Path, step: int) -> tuple[Path, Path]:
        """Forty frames of a clear clip, one in `step`, with a shower of ours and without, as folders of PNG."""
        rng = torch.Generator().manual_seed(RAIN_SEED)
        light = Light(ambient=0.4, sky=0.9, occlusion=0.8, haze=0)
        folders = self.work / f"rainy-{step}", self.work / f"clear-{step}"
        for folder in folders:
            folder.mkdir()
        for number, clear in enumerate(islice(frames(source), 300, 300 + 40 * step, step)):
            height_px, width_px = clear.shape[:2]
            opacity = streak_opacity(SHOWER, height_px, width_px, rng)
            picture = torch.from_numpy(clear.astype(np.float32) / 255).permute(2, 0, 1)[None]
            rainy = rain_onto(picture, opacity, light)[0].permute(1, 2, 0).numpy()
            for folder, shown in zip(folders, ((rainy * 255).round().astype(np.uint8), clear), strict=True):
                (folder / f"{number:05}.png").write_bytes(cv2.imencode(".png", shown)[1].tobytes())
        return folders

    def _row(self, name: str, mode: str, rainy: Path, out: Path, clear: Path, moving: bool) -> None:
        count = sum(1 for _ in frames(out))
        before, after = score(rainy, clear, moving, count), score(out, clear, moving, count)
        truth = warp_error(clear, clear, count) if moving else 1.0
        warps = [f"{s.warp / truth:.2f}" if s.warp is not None else "" for s in (before, after)]
        print(
            f"| {name} | {mode} | {count} | {before.psnr:.2f} | {after.psnr:.2f} | {before.ssim:.4f} | {after.ssim:.4f}"
            f" | {after.worst8:.1f} | {warps[0]} | {warps[1]} |",
            flush=True,
        )

    def _harm(self, name: str, mode: str, source: Path, out: Path) -> None:
        count = sum(1 for _ in frames(out))
        kept = score(out, source, False, count)
        print(f"| {name} | {mode} | {count} | {kept.psnr:.2f} | {kept.ssim:.4f} | {kept.worst8:.1f} |", flush=True)


def score(out: Path, clear: Path, moving: bool, count: int) -> Score:
    """Compare the first `count` frames of two folders or clips, paired by order."""
    rows = []
    for restored, truth in islice(zip(frames(out), frames(clear), strict=False), count):
        one, other = luma(restored), luma(truth)
        rows.append((psnr(one, other), ssim(one, other), worst_block(one, other)))
    if len(rows) != count:
        raise SystemExit(f"{out} and {clear} have {len(rows)} frames in common, not {count}")
    values = np.array(rows)
    warp = warp_error(out, clear, count) if moving else None
    return Score(float(values[:, 0].mean()), float(values[:, 1].mean()), float(values[:, 2].max()), warp)


def luma(bgr: Picture) -> Luma:
    return np.asarray(bgr @ LUMA + 16, np.float64)


def psnr(one: Luma, other: Luma) -> float:
    """In dB, of a peak of 255; 99 where nothing differs."""
    error = float(np.mean((one - other) ** 2))
    return 10 * float(np.log10(255**2 / error)) if error else 99.0


def ssim(one: Luma, other: Luma) -> float:
    """Structural similarity, 11x11 Gaussian window of sigma 1.5, the border where it does not fit left out."""

    def blur(x: Luma) -> Luma:
        return np.asarray(cv2.GaussianBlur(x, (11, 11), 1.5)[5:-5, 5:-5], np.float64)

    mean1, mean2 = blur(one), blur(other)
    var1, var2 = blur(one * one) - mean1**2, blur(other * other) - mean2**2
    covariance = blur(one * other) - mean1 * mean2
    likeness = (2 * mean1 * mean2 + SSIM_C1) * (2 * covariance + SSIM_C2)
    return float(np.mean(likeness / ((mean1**2 + mean2**2 + SSIM_C1) * (var1 + var2 + SSIM_C2))))


def worst_block(one: Luma, other: Luma) -> float:
    """Largest mean absolute difference over any 8x8 block, in levels: where an erased lane dash or a ghost shows."""
    height, width = one.shape[0] // 8, one.shape[1] // 8
    off = np.abs(one - other)[: 8 * height, : 8 * width]
    return float(off.reshape(height, 8, width, 8).mean((1, 3)).max())


def edges(restored: Luma, truth: Luma, where: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Share of true edges kept, share of smooth pixels with new ones, and their Dice score: docs/evaluate.md."""

    def gradient(x: Luma) -> Luma:
        smoothed = cv2.GaussianBlur(x, (0, 0), 1)
        return np.stack([cv2.Scharr(smoothed, cv2.CV_64F, dx, 1 - dx, scale=1 / 32) for dx in (1, 0)])

    found, true = gradient(restored), gradient(truth)
    strength = np.hypot(*true)
    edge, smooth = where & (strength >= 8), where & (cv2.dilate(strength, np.ones((5, 5))) < 4)
    shifts = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    along = np.max([(np.roll(found, shift, (1, 2)) * true).sum(0) for shift in shifts], 0)
    kept, new = edge & (along >= strength**2 / 2), smooth & (np.hypot(*found) >= 8)
    score_ = 2 * kept.sum() / max(1, edge.sum() + kept.sum() + new.sum())
    return float(kept.sum() / max(1, edge.sum())), float(new.sum() / max(1, smooth.sum())), float(score_)


def warp_error(clip: Path, clear: Path, count: int) -> float:
    """Mean squared difference x 1e-3, in 0..1, of each frame and the next one laid onto it by the clear clip's flow."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    none: Any = None
    errors = []
    pairs = zip(pairwise(islice(frames(clip), count)), pairwise(islice(frames(clear), count)), strict=True)
    for (now, after), (clear_now, clear_after) in pairs:
        grey, grey_after = (cv2.cvtColor(x, cv2.COLOR_BGR2GRAY) for x in (clear_now, clear_after))
        there, back = dis.calc(grey, grey_after, none), dis.calc(grey_after, grey, none)
        x, y = np.meshgrid(np.arange(grey.shape[1], dtype=np.float32), np.arange(grey.shape[0], dtype=np.float32))
        to_x, to_y = x + there[..., 0], y + there[..., 1]
        returned = cv2.remap(back, to_x, to_y, cv2.INTER_LINEAR)
        gap = ((there + returned) ** 2).sum(2)
        seen = gap < 0.01 * ((there**2).sum(2) + (returned**2).sum(2)) + 0.5
        laid = cv2.remap(after, to_x, to_y, cv2.INTER_LINEAR).astype(np.float64)
        errors.append((((laid - now) / 255) ** 2)[seen].mean())
    return float(np.mean(errors) * 1e3)


def _panned_signs(picture: Picture, rain: str, folder: Path) -> list[NDArray[np.bool_]]:
    """A pan over a picture with signs, behind rain and without, as folders of PNG; returns where the signs are."""
    signs, cover = with_lettering(picture, np.random.default_rng(SIGNS_SEED), SIGNS, SIGNS_PX)
    around = cv2.dilate(cover, np.ones((2 * SIGNS_MARGIN_PX + 1,) * 2, np.uint8)) > 0
    rng = torch.Generator().manual_seed(RAIN_SEED)
    weather = Weather(STYLES["windshield"], rng, haze=False)
    light = Light(ambient=0.4, sky=0.9, occlusion=0.8, haze=0)
    covers = []
    for kind in ("rain", "clear"):
        (folder / kind).mkdir(parents=True)
    for number in range(PANNED):
        view = np.s_[60 : 60 + SIZE_PX[0], PAN_PX * number : PAN_PX * number + SIZE_PX[1]]
        clear = signs[view]
        rgb = torch.from_numpy(clear[..., ::-1].astype(np.float32) / 255).permute(2, 0, 1)
        if rain == "streaks":
            rgb = rain_onto(rgb[None], streak_opacity(SHOWER, *SIZE_PX, rng), light)[0]
        elif rain == "windshield":
            rgb, _ = weather.render(rgb, 3 + number / 30)
        rainy = (rgb.permute(1, 2, 0).numpy()[..., ::-1] * 255).round().astype(np.uint8)
        for kind, shown in (("rain", rainy), ("clear", clear)):
            (folder / kind / f"{number:05}.png").write_bytes(cv2.imencode(".png", shown)[1].tobytes())
        covers.append(around[view])
    return covers


def _behind_drops(
    clear: Iterator[Picture], glass: Glass, seed: int, folder: Path
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """A clip behind drops and without, as folders of PNG; returns what is behind drops, and what is beside them."""
    pictures = np.stack([cv2.resize(picture, SIZE_PX[::-1]) for picture in clear])
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.from_numpy(np.ascontiguousarray(pictures[..., ::-1])).permute(0, 3, 1, 2).float() / 255
    drops = Windshield(glass, SIZE_PX[1] / SIZE_PX[0], generator).drops(0.0)
    seen, cover = refract_through(rgb, drops, 0.0, glass, sky=0.8)
    rainy = (seen.permute(0, 2, 3, 1).numpy()[..., ::-1] * 255).round().astype(np.uint8)
    for kind, shown in (("rain", rainy), ("clear", pictures)):
        (folder / kind).mkdir(parents=True)
        for number, picture in enumerate(shown):
            (folder / kind / f"{number:05}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    return cover.numpy() > 0.08, cover.numpy() <= 0.01


def frames(path: Path) -> Iterator[Picture]:
    """The pictures of a folder or of a video, in order."""
    if path.is_dir():
        for file in _pictures_of(path):
            yield np.asarray(cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR), np.uint8)
        return
    with av.open(str(path)) as container:
        for picture in container.decode(video=0):
            yield np.asarray(picture.to_ndarray(format="bgr24"), np.uint8)


def _pictures_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)


def _planes(path: Path) -> Iterator[Picture]:
    """The code values of a video as decoded, all planes in one array."""
    with av.open(str(path)) as container:
        for picture in container.decode(video=0):
            yield np.asarray(picture.to_ndarray(), np.uint8)


def _rate(path: Path) -> float:
    with av.open(str(path)) as container:
        return float(container.streams.video[0].average_rate or 30)


def _kilobits(path: Path, duration_s: float = math.inf) -> float:
    """Kilobits a second of the pictures of a video, or of its beginning."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [
            (float(p.pts * p.time_base), p.size) for p in container.demux(stream) if p.size and p.pts is not None
        ]
    part = [(time_s, size) for time_s, size in packets if time_s < packets[0][0] + duration_s]
    return sum(size for _, size in part) * 8 / 1000 / (len(part) / _rate(path))


def _enlarge(source: Path, target: Path, size_px: tuple[int, int], count: int) -> None:
    """The first frames of a clip over and over, enlarged, as a camera would have stored them."""
    endless = chain.from_iterable(frames(path) for path in repeat(source))
    with av.open(str(target), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30, options={"crf": "20", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *size_px, "yuv420p"
        for picture in islice(endless, count):
            large: Any = cv2.resize(picture, size_px, interpolation=cv2.INTER_CUBIC)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="bgr24")))
        container.mux(stream.encode(None))


def _resident_mb() -> float:
    """Of this process; Linux only."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    started_s = time.monotonic()
    main()
    print(f"{time.monotonic() - started_s:.0f} s", file=sys.stderr)
