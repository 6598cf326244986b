"""Rain rendered onto clear clips: physics of the rain, and files in which nothing else changes."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import Result
from clips import VFR_PTS, as_frame, decoded_pts, identical, names_in, packets, planes_of_file
from torch import Tensor

from vderain.media.encode.encoder import EncodeOptions
from vderain.media.frame import Colour, Frame
from vderain.options import RenderOptions
from vderain.rain.refraction import refract_through, thickness_px
from vderain.rain.render import grey, render
from vderain.rain.weather import FAR_M, STYLES, Weather, add_depth_haze, streak_layers
from vderain.rain.windshield import Drops, Glass, Windshield

Make = Callable[..., Path]
Run = Callable[..., Result]
LOSSLESS = EncodeOptions(codec="ffv1")
UPRIGHT = (0, 65536, 0, -65536, 0, 0, 0, 0, 1073741824)  # -90 degrees
STREAKS = ["drizzle", "shower", "downpour"]
CPU = torch.device("cpu")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def street(height: int = 96, width: int = 160) -> Tensor:
    """A bright sky over a dark road."""
    return torch.linspace(0.9, 0.1, height).view(1, -1, 1).expand(3, height, width).clone()


def rained(style: str, frames: int = 3, haze: bool = True, seed: int = 0) -> tuple[Tensor, Tensor]:
    weather = Weather(STYLES[style], seeded(seed), haze)
    pairs = [weather.render(street(), number / 30) for number in range(frames)]
    return torch.stack([rainy for rainy, _ in pairs]), torch.stack([opacity for _, opacity in pairs])


def alike(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


def identities(drops: Drops) -> set[tuple[float, float]]:
    return set(zip(drops.born_s.tolist(), drops.x_h.tolist(), strict=True))


def wet_windshield(seed: int = 0, **glass: Any) -> Windshield:
    return Windshield(Glass(**glass), 16 / 9, seeded(seed))


@pytest.mark.parametrize("haze", [True, False])
def test_heavier_rain_is_brighter(haze: bool) -> None:
    added = [float((rained(style, haze=haze)[0] - street()).mean()) for style in STREAKS]
    assert 0 < added[0] < added[1] < added[2]


def test_streaks_move_between_frames_and_drops_stay() -> None:
    streaks = rained("shower", 2)[1]
    assert float(streaks.std()) > 0
    assert alike(streaks[0], streaks[1]) < 0.2
    glass = wet_windshield()
    first, second = (thickness_px(glass.drops(t), t, 96, 170, CPU) for t in (0.1, 0.1 + 1 / 30))
    assert alike(first, second) > 0.9


def test_drops_stay_for_seconds_and_grow() -> None:
    glass = wet_windshield(wipe_every_s=1000.0, running=0.0)
    before = glass.drops(0.0)
    resting = before[(before.dry_s > 4) & (before.gone_s > 3) & (before.run_s > 3)]
    after = glass.drops(2.0)
    assert len(resting) > 0.5 * len(before)
    assert identities(resting) <= identities(after)
    assert bool((resting.at(2.0)[2] > resting.at(0.0)[2]).all())


def test_a_pass_of_the_wiper_clears_its_arc_and_nothing_else() -> None:
    glass = wet_windshield()
    begins_s = glass._wiped_s
    before = glass.drops(begins_s)
    after = identities(glass.drops(begins_s + glass.glass.wipe_s))
    swept = torch.isfinite(glass.next_wipe_s(before.x_h, before.y_h, before.born_s)) & torch.isinf(before.run_s)
    stays = torch.isinf(before.gone_s) & (before.dry_s > begins_s + 2)
    assert int(swept.sum()) > 50
    assert not after & identities(before[swept])
    assert int(stays.sum()) > 5
    assert identities(before[stays]) <= after


def test_a_running_drop_goes_down_and_leaves_a_trail() -> None:
    glass = wet_windshield(running=1.0, landing=4.0, wipe_every_s=1000.0)
    drops = glass.drops(3.0)
    running = drops[drops.run_s < 2.5]
    assert len(running) > 0
    heights = torch.stack([running.at(t)[1] for t in (2.5, 2.75, 3.0)])
    assert bool((heights.diff(dim=0) > 0).all())
    x_h, y_h, _ = running[:1].at(2.75)
    aside_h = torch.hypot(drops.x_h - x_h, drops.y_h - y_h)[torch.isfinite(drops.thin_s)]
    assert float(aside_h.min()) < float(running.radius_h[0])


def test_the_glass_does_not_depend_on_the_frame_rate() -> None:
    often, once = wet_windshield(3), wet_windshield(3)
    for number in range(90):
        often.drops(number / 30)
    first, second = often.drops(3.0), once.drops(3.0)
    assert len(first) > 50
    assert all(torch.equal(a, b) for a, b in zip(first.at(3.0), second.at(3.0), strict=True))


def test_a_drop_inverts_the_view_and_changes_nothing_else() -> None:
    drops = wet_windshield().drops(0.0)[:1]
    for name, value in {"x_h": 0.8, "y_h": 0.5, "radius_h": 0.15, "lobe": 0, "elongation": 1, "born_s": 0}.items():
        getattr(drops, name)[0] = value
    drops.run_s[0] = math.inf
    clear = street(120, 200)
    rainy, cover = refract_through(clear[None], drops, 0.0, Glass())
    assert float(cover[60, 96]) == pytest.approx(1, abs=1e-4)
    rainy = rainy[0]
    assert float(rainy[0, 54, 96]) < float(rainy[0, 66, 96])  # the road above, the sky below
    assert torch.equal(rainy[:, cover == 0], clear[:, cover == 0])
    assert 0 < int((cover > 0).sum()) < 0.15 * cover.numel()


def test_haze_follows_koschmieder_and_grows_with_distance() -> None:
    passed = (add_depth_haze(torch.ones(3, 100, 1), 20.0, sky=0.0))[0, :, 0]
    assert float(passed[0]) == pytest.approx(math.exp(-0.312 * 20**0.67 * FAR_M / 1000), rel=1e-4)
    assert bool((passed.diff() >= 0).all())
    assert float(passed[-1]) > 0.98


def test_number_of_drops_follows_marshall_and_palmer() -> None:
    light, heavy = streak_layers(2, 0, 600), streak_layers(50, 0, 600)
    assert all(a.density < b.density for a, b in zip(light, heavy, strict=True))
    near = light[0]  # drops of 1 mm or more
    slope = 4.1 * 2**-0.21
    assert near.density * 600**2 / 1e4 == pytest.approx(8000 / slope * math.exp(-slope) * (0.9**3 - 0.35**3) / 3)
    assert [layer.length_px for layer in heavy] == sorted((layer.length_px for layer in heavy), reverse=True)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (45, 7)])
@pytest.mark.parametrize("style", STYLES)
def test_values_stay_in_range_at_any_size(style: str, size: tuple[int, int]) -> None:
    weather = Weather(STYLES[style], seeded(1))
    for number in range(2):
        rainy, opacity = weather.render(torch.rand(3, *size), number / 30)
        assert rainy.shape == (3, *size)
        assert opacity.shape == size
        for picture in (rainy, opacity):
            assert 0 <= float(picture.min()) <= float(picture.max()) <= 1 + 1e-6


@pytest.mark.parametrize("style", STYLES)
def test_a_seed_repeats_the_file_bit_for_bit(clip: Make, tmp_path: Path, style: str) -> None:
    source = clip("in.mkv", frames=3)

    def once(seed: int, name: str, noise: float = 0.0) -> list[tuple[Any, ...]]:
        return planes_of_file(
            render(source, tmp_path / name, None, RenderOptions(style, seed, noise=noise, encode=LOSSLESS)).target
        )

    first = once(1, "a.mkv", 2.0)
    assert identical(first, once(1, "b.mkv", 2.0))
    assert not identical(first, once(2, "c.mkv", 2.0))
    assert not identical(first, once(1, "d.mkv"))


@pytest.mark.parametrize("pixel_format", ["yuv420p", "gray"])
@pytest.mark.parametrize("style", ["downpour", "windshield"])
def test_the_mask_is_black_only_where_nothing_changed(
    clip: Make, tmp_path: Path, style: str, pixel_format: str
) -> None:  # fmt: skip
    source = clip("in.mkv", frames=3, size=(192, 160), pixel_format=pixel_format, codec="ffv1")
    target, mask = tmp_path / "rain.mkv", tmp_path / "mask.mkv"
    render(source, target, mask, RenderOptions(style, haze=False, encode=LOSSLESS))
    black = 16
    for before, after, grey_planes in zip(*map(planes_of_file, (source, target, mask)), strict=True):
        change = np.abs(before[0].astype(int) - after[0])
        opaque = grey_planes[0].astype(int) - black
        assert opaque.min() == 0
        assert opaque.max() > 20
        assert not change[opaque == 0].any()
        assert (change[opaque > 20] > 0).mean() > 0.8
        assert all((plane == 128).all() for plane in grey_planes[1:])


def test_haze_changes_the_frame_but_not_the_mask(clip: Make, tmp_path: Path) -> None:
    source = clip("in.mkv", frames=2)
    made = {
        haze: render(source, tmp_path / f"{haze}.mkv", tmp_path / f"{haze}-mask.mkv", RenderOptions(haze=haze))
        for haze in (True, False)
    }
    assert not identical(planes_of_file(made[True].target), planes_of_file(made[False].target))
    masks = [planes_of_file(each.mask) for each in made.values() if each.mask]
    assert identical(*masks)


def test_a_mask_has_the_code_values_of_its_clip() -> None:
    colour = Colour("bt709", full_range=False, depth_bits=10, chroma_w=2, chroma_h=2)
    planes = tuple(np.zeros(shape, np.uint16) for shape in ((4, 4), (2, 2), (2, 2)))
    whole = grey(Frame(planes, colour, 0, 1, as_frame(np.zeros((1, 1, 3), np.uint8)).time_base), np.ones((4, 4)))
    assert [int(plane[0, 0]) for plane in whole.planes] == [940, 512, 512]


def test_timestamps_and_audio_are_kept(clip: Make, tmp_path: Path) -> None:
    source = clip("in.mp4", pts=VFR_PTS, audio="aac")
    result = render(source, tmp_path / "rain.mp4", tmp_path / "mask.mp4", RenderOptions("windshield"))
    assert result.mask is not None
    assert result.frames == len(VFR_PTS)
    assert decoded_pts(result.target) == decoded_pts(result.mask) == decoded_pts(source)
    assert packets(result.target, "audio") == packets(source, "audio") != []
    assert not identical(planes_of_file(result.target), planes_of_file(source))


def test_rain_falls_downwards_in_rotated_video(clip: Make, tmp_path: Path) -> None:
    def along(axis: int, planes: tuple[Any, ...]) -> float:
        rain = np.moveaxis(planes[0].astype(float), axis, 0)
        return float(np.corrcoef(rain[:-6].ravel(), rain[6:].ravel())[0, 1])

    shape: dict[str, Any] = {"frames": 1, "size": (160, 128)}
    for name, matrix, down in (("a.mp4", None, 0), ("b.mp4", UPRIGHT, 1)):
        mask = tmp_path / f"mask-{name}"
        render(clip(name, display_matrix=matrix, **shape), tmp_path / f"rain-{name}", mask, RenderOptions("downpour"))
        planes = planes_of_file(mask)[0]
        assert along(down, planes) > along(1 - down, planes) + 0.1


def test_images_and_folders_of_images(tmp_path: Path) -> None:
    folder = tmp_path / "clear"
    folder.mkdir()
    for number in (2, 10):
        cv2.imwrite(str(folder / f"f{number}.png"), (255 * street().permute(1, 2, 0)).byte().numpy())
    render(folder, tmp_path / "rain", tmp_path / "mask", RenderOptions("downpour"))
    assert names_in(tmp_path / "rain") == names_in(tmp_path / "mask") == {"f2.png", "f10.png"}
    render(folder / "f2.png", tmp_path / "one.png", None, RenderOptions("downpour"))
    one, first = (cv2.imread(str(tmp_path / name)) for name in ("one.png", "rain/f2.png"))
    assert np.array_equal(np.asarray(one), np.asarray(first))
    assert np.asarray(one).std(axis=1).max() > 0  # a row was of one grey


def test_command_reports_what_it_did(vderain: Run, clip: Make, tmp_path: Path) -> None:
    source, target = clip("in.mp4", frames=2), tmp_path / "rain.mp4"
    done = vderain("render", source, "-o", target, "--style", "drizzle", "--seed", 7, "--json", "--crf", 30)
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout.splitlines()[-1])
    assert (facts["event"], facts["style"], facts["seed"], facts["frames"]) == ("done", "drizzle", 7, 2)
    before = target.read_bytes()
    assert vderain("render", source, "-o", target, "--crf", 10, "--overwrite", "-q").output == ""
    assert target.read_bytes() != before


WRONG: dict[str, tuple[list[str], int, str]] = {
    "style": (["{in}", "-o", "{out}", "--style", "hail"], 2, "'hail' is not one of"),
    "seed": (["{in}", "-o", "{out}", "--seed", "-1"], 2, "invalid value for '--seed'"),
    "noise": (["{in}", "-o", "{out}", "--noise", "100"], 2, "invalid value for '--noise'"),
    "crf": (["{in}", "-o", "{out}", "--crf", "70"], 2, "invalid value for '--crf'"),
    "device": (["{in}", "-o", "{out}", "--device", "abacus"], 5, "there is no device 'abacus'."),
    "missing": (["{in}.gone", "-o", "{out}"], 3, "there is no file"),
    "exists": (["{in}", "-o", "{there}"], 4, "exists already."),
    "mask exists": (["{in}", "-o", "{out}", "--mask", "{there}"], 4, "exists already."),
    "itself": (["{in}", "-o", "{in}", "--overwrite"], 2, "is the input itself."),
    "mask itself": (["{in}", "-o", "{out}", "--mask", "{in}", "--overwrite"], 2, "is the input itself."),
    "twice": (["{in}", "-o", "{out}", "--mask", "{out}"], 2, "is to be both output and mask."),
    "no video": (["{there}", "-o", "{out}"], 3, "is not a video file"),
    "suffix": (["{in}", "-o", "{out}.txt"], 2, "does not end in a video suffix"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_are_one_line(vderain: Run, clip: Make, tmp_path: Path, name: str) -> None:
    names = {"in": clip("in.mp4", frames=1), "out": tmp_path / "out.mp4", "there": tmp_path / "there.mp4"}
    names["there"].write_bytes(b"mine")
    arguments, code, message = WRONG[name]
    done = vderain("render", *(argument.format(**names) for argument in arguments))
    assert done.exit_code == code, done.output
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert names_in(tmp_path) == {"in.mp4", "there.mp4"}
    assert names["there"].read_bytes() == b"mine"
