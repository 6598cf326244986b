"""Weights to start from: state dicts of this network, and those of other projects, which are refused with a reason."""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from torch import Tensor, nn

from vderain.errors import CheckpointError
from vderain.model.checkpoint import load_checkpoint
from vderain.model.unet import UNet, UNetConfig
from vderain.train.checkpoints import import_state_dict, load_start
from vderain.train.trainer import GENERATOR

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.toml"
CONFIG = UNetConfig(widths=(8, 16))


def saved(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def foreign_unet(levels: int, width: int = 4) -> dict[str, Tensor]:
    """A U-Net of pytorch-CycleGAN-and-pix2pix: nested blocks of 4x4 convolutions, instance norm, tanh."""

    def block(outer: int, inner: int, inside: nn.Module | None, place: str, given: int) -> nn.Sequential:
        down = nn.Conv2d(given, inner, 4, 2, 1, bias=True)
        up = nn.ConvTranspose2d(inner if inside is None else 2 * inner, outer, 4, 2, 1)
        if place == "outermost":
            layers = [down, inside, nn.ReLU(), up, nn.Tanh()]
        elif inside is None:
            layers = [nn.LeakyReLU(0.2), down, nn.ReLU(), up, nn.InstanceNorm2d(outer)]
        else:
            layers = [nn.LeakyReLU(0.2), down, nn.InstanceNorm2d(inner), inside, nn.ReLU(), up]
        module = nn.Module()
        module.model = nn.Sequential(*layers)
        return module

    network = block(width, width, None, "innermost", width)
    for _ in range(levels - 2):
        network = block(width, width, network, "", width)
    whole = nn.Module()
    whole.model = block(3, width, network, "outermost", 3)
    return whole.state_dict()


def foreign_resnet(blocks: int) -> dict[str, Tensor]:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_block = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(4, 4, 3), nn.InstanceNorm2d(4))

    whole = nn.Module()
    whole.model = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(3, 4, 7), *(Block() for _ in range(blocks)))
    return whole.state_dict()


def discriminator() -> dict[str, Tensor]:
    whole = nn.Module()
    whole.model = nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(), nn.Conv2d(4, 1, 4, 1, 1))
    return whole.state_dict()


@pytest.mark.parametrize(
    ("name", "state", "says"),
    [
        ("latest_net_G_A.pth", foreign_resnet(9), r"ResNet generator \(resnet_9blocks\).*no skip connections"),
        ("latest_net_G.pth", foreign_unet(7), r"U-Net generator \(unet_128\).*tanh"),
        ("latest_net_G.pth", foreign_unet(8), r"\(unet_256\).*normalisation over the whole picture"),
        ("latest_net_D.pth", discriminator(), "discriminator"),
        ("other.pth", {"weight": torch.zeros(2)}, "not those of the recipe"),
        ("other.pt", [torch.zeros(2)], "not a state dict"),
        ("other.pt", {"epoch": 3}, "not a state dict"),
    ],
)
def test_weights_of_other_networks_are_refused_with_a_reason(
    tmp_path: Path, name: str, state: object, says: str
) -> None:
    with pytest.raises(CheckpointError, match=says) as caught:
        import_state_dict(saved(tmp_path / name, state), CONFIG)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrap", [dict, lambda state: {"state_dict": state}, lambda state: OrderedDict(state)])
def test_a_state_dict_of_this_network_is_used(tmp_path: Path, wrap: Callable[[dict], object]) -> None:
    network = UNet(CONFIG)
    path = saved(tmp_path / "mine.pth", wrap({f"module.{k}": v for k, v in network.state_dict().items()}))
    loaded = load_start((str(path),), CONFIG)
    assert all(torch.equal(loaded[name], value) for name, value in network.state_dict().items())


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("import pathlib; pathlib.Path('harm').touch()",))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "harmful.pth"
    if zipped:
        torch.save({"model": Harmful()}, path)
    else:
        path.write_bytes(pickle.dumps({"model": Harmful()}))
    with pytest.raises(CheckpointError) as caught:
        import_state_dict(path, CONFIG)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        import_state_dict(tmp_path / "bad.pth", CONFIG)
    assert "\n" not in str(caught.value)


def test_training_starts_from_a_state_dict_or_says_why_not(
    vderain: Callable[..., Result], pictures: Path, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    mine = saved(tmp_path / "mine.pth", UNet(CONFIG).state_dict())
    theirs = saved(tmp_path / "latest_net_G.pth", foreign_unet(7))
    flags = ("--set", f"data.photos={pictures}", "--set", "optimiser.iterations=1", "--set", "optimiser.rate=1e-12")
    done = vderain("train", SMOKE, "--out", tmp_path / "run", *flags, "--set", f"model.start={mine}")
    assert done.exit_code == 0, done.stderr
    weights = load_checkpoint(str(tmp_path / "run" / GENERATOR)).generator.state_dict()
    assert torch.allclose(weights["stem.weight"], torch.load(mine)["stem.weight"], atol=1e-3)
    refused = vderain("train", SMOKE, "--out", tmp_path / "no", *flags, "--set", f"model.start={theirs}")
    assert refused.exit_code == 6
    assert len(refused.stderr.splitlines()) == 1
    assert "unet_128" in refused.stderr
