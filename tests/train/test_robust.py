"""Training with bad input and full disks: images of every kind, damage, no space left."""

import json
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import Result
from clips import Clip, make, names_in, textured
from safetensors.torch import load_file

from vderain.errors import InputError, OutputError
from vderain.model.checkpoint import load_checkpoint
from vderain.train.config import load_recipe
from vderain.train.data import images as material
from vderain.train.data.scenes import load_scenes
from vderain.train.logger import Event, Progress, Validated, append
from vderain.train.loop import train
from vderain.train.trainer import BEST, GENERATOR, RESUME

Run = Callable[..., Result]
ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "configs" / "smoke.toml"


def cmyk_jpeg(path: Path, size: tuple[int, int]) -> None:
    """Four inks, as picture agencies deliver; OpenCV reads such files and writes none."""
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.dstack([textured(5, size), textured(6, size)[..., :1]]), "CMYK").save(path, quality=95)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as people have it: of eleven files five can be used."""
    folder = tmp_path_factory.mktemp("odd")
    size = (90, 110)
    picture = textured(0, size)
    cv2.imwrite(str(folder / "good.png"), picture)
    cmyk_jpeg(folder / "inks.jpg", size)
    cv2.imwrite(str(folder / "deep.png"), picture.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "alpha.png"), np.dstack([picture, picture[..., :1]]))
    cv2.imwrite(str(folder / "alpha.webp"), np.dstack([picture, picture[..., :1]]))
    cv2.imwrite(str(folder / "tiny.png"), textured(1, (3, 4)))
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("no picture at all")
    whole = (folder / "good.png").read_bytes()
    (folder / "torn.png").write_bytes(whole[: len(whole) // 2])
    (folder / "folder.png").mkdir()
    (folder / "clip.mp4").write_bytes(b"no clip either")
    make(folder / "short.mp4", Clip(frames=3, size=(96, 80)))
    return folder


def warnings_of(caplog: pytest.LogCaptureFixture) -> dict[str, set[str]]:
    """Kinds and names of the files that were named."""
    found = {}
    for record in caplog.records:
        kind, _, names = record.getMessage().partition("): ")
        found[kind.rpartition(" (")[0]] = {Path(name).name for name in names.split(", ")}
    return found


def test_images_of_every_kind_are_counted_named_and_used(odd: Path, caplog: pytest.LogCaptureFixture) -> None:
    scenes = load_scenes(odd, odd, 64)
    assert len(scenes.photos) == 5
    assert not scenes.clips
    assert warnings_of(caplog) == {
        material.UNREADABLE: {"empty.jpg", "text.png", "torn.png", "clip.mp4"},
        material.CMYK: {"inks.jpg"},
        material.DEEP: {"deep.png"},
        material.TRANSPARENT: {"alpha.png", "alpha.webp"},
        "skipped, a side is below 64 pixels": {"tiny.png"},
        "skipped, below 64 pixels a side or 5 frames": {"short.mp4"},
    }
    plain = load_scenes(odd, None, 64).photos
    names = [p.name for p in material.find_files(odd, material.SUFFIXES_PHOTO) if p.name in
             {"good.png", "inks.jpg", "deep.png", "alpha.png", "alpha.webp"}]  # fmt: skip
    by_name = dict(zip(names, plain, strict=True))
    for name in ("deep.png", "alpha.png"):
        assert np.array_equal(by_name[name], by_name["good.png"])


@pytest.mark.parametrize("kind", ["supervised", "cyclegan"])
def test_a_folder_with_bad_files_stops_no_run(vderain: Run, odd: Path, tmp_path: Path, kind: str) -> None:
    flags = ["--set", f"data.photos={odd}", "--set", f"data.clips={odd}", "--set", "optimiser.iterations=2"]
    if kind == "cyclegan":
        for each in (f"data.rain={odd}", "model.window=1", "cyclegan.layers=1", "cyclegan.width=4"):
            flags += ["--set", each]
    result = vderain("train", SMOKE, "--out", tmp_path / "run", *flags)
    assert result.exit_code == 0, result.output
    assert f"{material.UNREADABLE} (" in result.stderr
    assert "torn.png" in result.stderr
    assert f"{material.CMYK} (1)" in result.stderr or kind == "cyclegan"
    assert load_checkpoint(str(tmp_path / "run" / GENERATOR)).facts["iterations"] == 2


def test_many_files_of_a_kind_are_counted_and_some_named(caplog: pytest.LogCaptureFixture) -> None:
    report = material.ScanReport()
    for number in range(20):
        report.add("odd", Path(f"{number}.png"))
    report.log()
    (record,) = caplog.records
    assert record.getMessage() == f"odd (20): {', '.join(f'{n}.png' for n in range(8))} and 12 more"


def test_held_out_items_are_evenly_spaced() -> None:
    kept, held = material.split(list(range(100)), 0.04)
    assert held == [12, 37, 62, 87]
    assert sorted(kept + held) == list(range(100))
    assert material.split([1], 0.5) == ([1], [])
    assert material.split([1, 2], 0.04) == ([1], [2])
    assert material.split([1, 2], 0.0) == ([1, 2], [])


limited = pytest.mark.skipif(sys.platform != "linux", reason="a limit on the size of files stands for the full disk")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), textured(number, (90, 110)))
    return folder


def file_size(limit_bytes: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, most))


@limited
def test_a_full_disk_costs_one_save(pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = load_recipe(SMOKE, (f"data.photos='{pictures}'", "run.save_every=2", "optimiser.iterations=8"))
    out = tmp_path / "run"
    states = []

    def watch(event: Event) -> None:
        if isinstance(event, Progress):
            if (out / RESUME).exists():
                states.append((out / RESUME).read_bytes())
            file_size({3: 20_000, 6: -1}.get(event.iteration, resource.getrlimit(resource.RLIMIT_FSIZE)[0]))

    try:
        train(recipe, out, on_event=watch)
    finally:
        file_size(-1)
    failed = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
    assert any("iteration 4:" in line and line.endswith("Training continues.") for line in failed), failed
    assert states[0] == states[2] == states[3], "what was saved before is whole"
    assert load_checkpoint(str(out / GENERATOR)).facts["iterations"] == 8
    assert not any(name.endswith(".partial") for name in names_in(out))
    assert load_file(out / RESUME)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [entry["iteration"] for entry in log] == [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 8], "small lines had room"


@limited
def test_append_writes_all_or_nothing(tmp_path: Path) -> None:
    append(tmp_path / "log", b"12345\n")
    try:
        file_size(10)
        with pytest.raises(OSError):
            append(tmp_path / "log", b"1234567\n")
    finally:
        file_size(-1)
    append(tmp_path / "log", b"6\n")
    assert (tmp_path / "log").read_bytes() == b"12345\n6\n"


@limited
def test_a_disk_full_at_the_end_is_an_error_and_the_last_state_is_whole(
    pictures: Path, tmp_path: Path
) -> None:  # fmt: skip
    recipe = load_recipe(SMOKE, (f"data.photos='{pictures}'", "optimiser.iterations=5"))
    out = tmp_path / "run"
    try:
        with pytest.raises(OutputError, match="cannot be written") as caught:
            train(recipe, out, on_event=lambda event: file_size(20_000) if event.iteration == 4 else None)
    finally:
        file_size(-1)
    assert caught.value.exit_code == 4
    assert load_checkpoint(str(out / GENERATOR)).facts["iterations"] == 3
    told: list[Event] = []
    train(recipe, out, resume=True, on_event=told.append)
    assert [event.iteration for event in told if isinstance(event, Progress)] == [4, 5]


@limited
def test_an_unwritable_log_is_reported_once(pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "log.jsonl").mkdir()
    train(load_recipe(SMOKE, (f"data.photos='{pictures}'",)), out)
    assert [record.getMessage().count("the log cannot be written") for record in caplog.records] == [1]
    assert names_in(out) >= {BEST, GENERATOR, RESUME}


def test_deleted_footage_costs_one_validation(pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paired = tmp_path / "paired"
    paired.mkdir()
    cv2.imwrite(str(paired / "a.png"), textured(4, (40, 60)))
    sets = f'validation.sets=[{{name="own", rain="{paired}", clear="{paired}"}}]'
    told: list[Event] = []

    def watch(event: Event) -> None:
        told.append(event)
        if isinstance(event, Validated) and paired.exists():
            shutil.rmtree(paired)

    train(load_recipe(SMOKE, (f"data.photos='{pictures}'", sets)), tmp_path / "run", on_event=watch)
    assert [event.iteration for event in told if isinstance(event, Validated)] == [3]
    assert any("iteration 6:" in r.getMessage() and "Training continues" in r.getMessage() for r in caplog.records)
    assert names_in(tmp_path / "run") >= {BEST, GENERATOR, RESUME}


def test_deleted_pictures_end_a_run_and_its_state_is_saved(pictures: Path, tmp_path: Path) -> None:
    more = ("model.window=1", "cyclegan.layers=1", "cyclegan.width=4", "optimiser.iterations=50", "run.save_every=40")
    recipe = load_recipe(SMOKE, (f"data.photos='{pictures}'", f"data.rain='{pictures}'", *more))

    def watch(event: Event) -> None:
        if isinstance(event, Progress) and event.iteration == 2:
            for path in pictures.iterdir():
                path.unlink()

    with pytest.raises(InputError, match="no longer be read") as caught:
        train(recipe, tmp_path / "run", on_event=watch)
    assert "\n" not in str(caught.value)
    assert load_checkpoint(str(tmp_path / "run" / GENERATOR)).facts["iterations"] == 2


def test_mismatched_footage_is_reported_at_the_start(pictures: Path, tmp_path: Path) -> None:
    for name, count in (("rain", 2), ("clear", 3)):
        (tmp_path / name).mkdir()
        for number in range(count):
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), textured(number, (40, 60)))
    sets = f'validation.sets=[{{name="own", rain="{tmp_path / "rain"}", clear="{tmp_path / "clear"}"}}]'
    with pytest.raises(InputError, match="ends after 2 frames"):
        train(load_recipe(SMOKE, (f"data.photos='{pictures}'", sets)), tmp_path / "run")
