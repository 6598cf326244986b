"""A batch on a Ray cluster of two nodes on this machine, one of which is lost on the way."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clips import Clip, decoded_pts, make

from vderain.batch.events import Ended, Event
from vderain.batch.ledger import Ledger
from vderain.batch.plan import Selection, make_plan
from vderain.batch.run import RetryPolicy, Run
from vderain.batch.workers.task import Progressed
from vderain.errors import UsageError
from vderain.options import Options

pytestmark = [pytest.mark.long, pytest.mark.timeout(280)]
ray = pytest.importorskip("ray", reason="the extra vderain[ray] is not installed")


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head that has room for the driver alone, and two nodes with room for one task each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


def test_a_node_is_lost_and_no_file_is(cluster: Any, tmp_path: Path, tiny: Path) -> None:
    from vderain.batch.workers.ray import RayWorkers

    whole, nodes = cluster
    card, out = tmp_path / "card", tmp_path / "out"
    card.mkdir()
    out.mkdir()
    for number in range(5):
        make(card / f"{number}.mp4", Clip(frames=120, size=(160, 96)))
    (card / "broken.mp4").write_text("no video")
    options = Options(str(tiny), precision="fp32", device="cpu")
    moved: dict[str, int] = {}
    ended: list[str] = []
    lost: list[float] = []

    def emit(event: Event) -> None:
        if isinstance(event, Progressed):
            moved[event.target] = event.progress.frames
        if isinstance(event, Ended):
            ended.append(event.record.target)
        busy = [target for target in moved if target not in ended]
        if not lost and len(busy) == 2:
            whole.remove_node(nodes[0], allow_graceful=False)
            lost.append(time.monotonic())

    with Ledger(out) as ledger:
        policy = RetryPolicy(segment_frames=20)
        run = Run(ledger=ledger, options=options, policy=policy, emit=emit, stop=threading.Event())
        run.add(make_plan(Selection((str(card),)), out).items)
        workers = RayWorkers(f"ray://{whole.address}", device="cpu")
        run.work(workers)
        summary = run.close(workers)
        run.write_report("On Ray", {})
        records = ledger.records()
    assert lost, "both nodes were at work"
    assert sorted(record.target for record in summary.done) == [f"{number}.mp4" for number in range(5)]
    assert [record.target for record in summary.failed] == ["broken.mp4"]
    assert summary.failed[0].failure is not None
    assert "not a video" in summary.failed[0].failure.error
    assert {record.state for record in records.values()} == {"done", "failed"}
    assert sorted(ended) == sorted(records), "each file ended once"
    assert all(len(decoded_pts(out / f"{number}.mp4")) == 120 for number in range(5))
    assert (out / "report.html").exists()


def test_no_cluster_is_a_clear_line() -> None:
    from vderain.batch.workers.ray import RayWorkers

    with pytest.raises(UsageError, match="no Ray cluster"):
        RayWorkers("ray://127.0.0.1:1")
