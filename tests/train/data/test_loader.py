"""The loader: order of examples, workers, errors."""

import multiprocessing
import os
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import Dataset

from vderain.errors import InputError, VderainError
from vderain.train.data import loader as loader
from vderain.train.data.loader import ExampleLoader
from vderain.train.distributed import SINGLE_PROCESS, ProcessGroup


class Numbers(Dataset[torch.Tensor]):
    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(index)


def taken(stream: ExampleLoader, count: int) -> list[int]:
    return [int(next(stream)) for _ in range(count)]


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(loader, "cores", lambda: 4)
    yield


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_growing_changes_no_example(four_cores: None) -> None:
    stream = ExampleLoader(Numbers(), 7, None, SINGLE_PROCESS)
    assert stream.workers == 1
    numbers = taken(stream, 5)
    assert stream.grow()
    numbers += taken(stream, 5)
    assert stream.grow()
    numbers += taken(stream, 5)
    assert numbers == list(range(7, 22))
    assert not stream.grow(), "a core is left for training"
    assert stream.workers == 3


def test_a_fixed_number_of_workers_does_not_grow(four_cores: None) -> None:
    for workers in (0, 1):
        stream = ExampleLoader(Numbers(), 0, workers, SINGLE_PROCESS)
        assert not stream.grow()
        assert taken(stream, 3) == [0, 1, 2]


@pytest.mark.parametrize("start", [0, 5, 6])
def test_processes_of_a_run_share_the_examples(start: int) -> None:
    streams = [ExampleLoader(Numbers(), start, 0, ProcessGroup(rank, 3)) for rank in range(3)]
    shares = [taken(stream, 4) for stream in streams]
    assert sorted(number for share in shares for number in share) == list(range(start, start + 12))
    assert all(number % 3 == rank for rank, share in enumerate(shares) for number in share)


def test_closing_stops_the_workers() -> None:
    others = set(multiprocessing.active_children())
    stream = ExampleLoader(Numbers(), 0, 2, SINGLE_PROCESS)
    assert taken(stream, 3) == [0, 1, 2]
    assert len(set(multiprocessing.active_children()) - others) == 2
    stream.close()
    assert not set(multiprocessing.active_children()) - others


class Broken(Dataset[torch.Tensor]):
    def __getitem__(self, index: int) -> torch.Tensor:
        raise InputError("it is gone.", "Bring it back.")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_worker_is_one_line(workers: int) -> None:
    with pytest.raises(InputError) as caught:
        next(ExampleLoader(Broken(), 0, workers, SINGLE_PROCESS))
    assert str(caught.value) == "it is gone. Bring it back."


class Deadly(Dataset[torch.Tensor]):
    def __getitem__(self, index: int) -> torch.Tensor:
        os._exit(9)


def test_a_killed_worker_is_reported_in_one_line() -> None:
    with pytest.raises(VderainError, match=r"^a process that prepares training pictures was killed\. .*--resume"):
        next(ExampleLoader(Deadly(), 0, 1, SINGLE_PROCESS))
