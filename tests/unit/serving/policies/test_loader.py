"""The steps of loading, and what stays unchanged when one fails, on an engine that records."""

import asyncio
import shutil
from collections.abc import Container
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from feedback.control.policies import append_policy_event
from feedback.log.sqlite_log import SqliteLog
from protos.checkpoints.folder_registry import FolderRegistry
from protos.plaudit.v1.policy_pb2 import Published
from serving.engine.worker import PolicyWorker
from serving.errors import CheckpointIncompatible, PolicyLost, SwapFailed
from serving.policies.loader import Loader
from serving.policies.policy_table import ChoiceAssignment, PolicyTable
from serving.policies.staging import StagedCheckpoint, stage
from serving.policies.swapper import Swapper
from tests.support.models import tiny_adapter, tiny_chat_model


class FakeWorker(PolicyWorker):
    """A worker of which each of the next `failures` calls fails."""

    def __init__(self) -> None:
        self.failures = 0
        self.weights = ""
        self.adapters: list[int] = []

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("out of memory")

    def reload_weights(self, weights_path: str) -> None:
        self._fail()
        self.weights = Path(weights_path).name

    @property
    def model_runner(self) -> Any:
        return SimpleNamespace(get_model=lambda: torch.nn.Linear(1, 1))

    def add_lora(self, request: Any) -> None:
        self._fail()
        self.adapters.append(request.lora_int_id)

    def list_loras(self) -> list[int]:
        return self.adapters


class Engine:
    """Records the calls that it gets; fails those in `failing`."""

    def __init__(self, workers: int = 1) -> None:
        self.calls: list[str] = []
        self.failing: list[str] = []
        self.label = "1"
        self.workers = [FakeWorker() for _ in range(workers)]

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call in self.failing:
            self.failing.remove(call)
            raise RuntimeError(f"{call} failed")

    async def pause_generation(self, **_: Any) -> None:
        self._note("pause")

    async def resume_generation(self) -> None:
        self._note("resume")

    async def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> list[str]:
        if method == "reload_policy":
            self._note(f"reload {Path(kwargs['weights_path']).name}")
        if method == "load_adapter":
            self._note(f"add {Path(kwargs['path']).name}")
        return [getattr(worker, method)(**kwargs) for worker in self.workers]

    async def update_weight_version(self, label: str) -> None:
        self.label = label

    async def get_weight_version(self) -> str:
        return self.label

    async def remove_lora(self, number: int) -> None:
        self._note(f"remove {number}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> FolderRegistry:
    """Full weights 1 and 4; adapters 2 and 3 of the first, 5 of the second, 6 of rank 16."""
    root = tmp_path_factory.mktemp("made")
    registry = FolderRegistry(root / "registry")
    for version in (1, 4):
        folder = tiny_chat_model(root / f"m{version}", version)
        registry.publish(folder, version=version, parent=0, base="tiny")
    for version, base, rank in ((2, 1, 8), (3, 1, 8), (5, 4, 8), (6, 1, 16)):
        folder = tiny_adapter(registry.path(base), root / f"m{version}", version, rank)
        registry.publish(folder, version=version, parent=1, base="tiny", adapter_base=base)
    return registry


@pytest.fixture
def loader(made: FolderRegistry) -> Loader:
    return Loader(Engine(), made, PolicyTable(1), lora_rank=8, timeout=5)


async def test_adapters_are_loaded_beside_each_other_under_new_names(loader: Loader) -> None:
    assert await loader.swap(2) == 0
    second = loader.policies.live
    assert await loader.swap(3) == 0
    third = loader.policies.live
    assert (second.version, third.version) == (2, 3)
    assert second.adapter is not None
    assert third.adapter is not None
    assert second.adapter.lora_name != third.adapter.lora_name
    assert await loader.swap(2) == 0
    assert loader.policies.live is second, "it is loaded still"
    assert loader.engine.calls == ["add v000002", "add v000003"]
    await loader.drop_adapters({1})
    assert await loader.swap(3) == 0
    assert loader.policies.live.adapter is not None
    assert loader.policies.live.adapter.lora_name != third.adapter.lora_name, "a name is used once"
    assert loader.engine.calls[2:] == ["remove 1", "remove 2", "add v000003"]


async def test_an_adapter_is_kept_while_a_request_uses_it(loader: Loader) -> None:
    await loader.swap(2)
    with loader.policies.running([ChoiceAssignment(loader.policies.live, (0,))]):
        await loader.swap(1)
        await loader.drop_adapters({1})
        assert "remove 1" not in loader.engine.calls
    await loader.drop_adapters({1})
    assert loader.engine.calls[-1] == "remove 1"


async def test_going_back_to_the_base_of_an_adapter_touches_nothing(loader: Loader) -> None:
    await loader.swap(2)
    assert await loader.swap(1) == 0
    assert (loader.policies.live.version, loader.policies.live.adapter) == (1, None)
    assert loader.engine.calls == ["add v000002"]


async def test_an_adapter_of_another_base_waits_for_adapters_and_swaps_the_base(
    loader: Loader,
) -> None:
    await loader.swap(2)
    with loader.policies.running([ChoiceAssignment(loader.policies.live, (0,))]):
        swapping = asyncio.create_task(loader.swap(5))
        await asyncio.sleep(0.3)
        assert loader.engine.calls == ["add v000002"], "an old request is under way"
        newcomer = asyncio.create_task(loader.policies.wait_until_open())
        await asyncio.sleep(0)
        assert not newcomer.done()
    assert await swapping > 0
    await asyncio.wait_for(newcomer, 1)
    assert (loader.policies.base, loader.policies.live.version) == (4, 5)
    steps = ["pause", "reload v000004", "add v000005", "resume"]
    assert loader.engine.calls == ["add v000002", *steps]


@pytest.mark.parametrize("step", ["pause", "reload v000004", "add v000005", "resume"])
async def test_a_failure_in_the_middle_puts_base_and_adapter_back(
    loader: Loader, step: str
) -> None:
    await loader.swap(2)
    loader.engine.failing = [step]
    with pytest.raises(SwapFailed):
        await loader.swap(5)
    assert (loader.policies.base, loader.policies.live.version, loader.engine.label) == (1, 2, "1")
    assert loader.engine.calls[-4:] == ["pause", "reload v000001", "add v000002", "resume"]
    await asyncio.wait_for(loader.policies.wait_until_open(), 1)
    assert not loader.policy_lost


async def test_a_policy_that_cannot_be_put_back_is_lost(loader: Loader) -> None:
    loader.engine.failing = ["reload v000004", "reload v000001"]
    with pytest.raises(PolicyLost):
        await loader.swap(4)
    assert loader.policy_lost


async def test_requests_that_keep_an_adapter_too_long_keep_the_base(made: FolderRegistry) -> None:
    loader = Loader(Engine(), made, PolicyTable(1), lora_rank=8, timeout=0.3)
    await loader.swap(2)
    with loader.policies.running([ChoiceAssignment(loader.policies.live, (0,))]):
        with pytest.raises(SwapFailed, match="still in use"):
            await loader.swap(4)
        assert loader.policies.live.version == 2
        await asyncio.wait_for(loader.policies.wait_until_open(), 1)


async def test_an_adapter_that_does_not_load_changes_nothing(loader: Loader) -> None:
    loader.engine.failing = ["add v000002"]
    with pytest.raises(SwapFailed):
        await loader.swap(2)
    assert loader.policies.live.version == 1
    assert loader.engine.calls == ["add v000002"]


async def test_a_challenger_stands_beside_the_live_version(loader: Loader) -> None:
    await loader.load_challenger(2)
    assert loader.policies.challenger is not None
    assert (loader.policies.challenger.version, loader.policies.live.version) == (2, 1)
    with pytest.raises(CheckpointIncompatible, match="needs the weights of version 4"):
        await loader.load_challenger(5)


@pytest.fixture
def split_loader(made: FolderRegistry) -> Loader:
    """Load into an engine whose model is split over three workers."""
    return Loader(Engine(3), made, PolicyTable(1), lora_rank=8, timeout=5, workers=3)


async def test_every_worker_of_a_split_model_swaps(split_loader: Loader) -> None:
    await split_loader.swap(5)
    workers = split_loader.engine.workers
    assert [worker.weights for worker in workers] == ["v000004"] * 3
    assert [worker.report_policy() for worker in workers] == ["4"] * 3
    assert [worker.adapters for worker in workers] == [[1]] * 3


async def test_a_worker_that_fails_in_the_middle_puts_the_old_version_back(
    split_loader: Loader,
) -> None:
    workers = split_loader.engine.workers
    workers[1].failures = 1
    with pytest.raises(SwapFailed, match="worker 1: RuntimeError: out of memory"):
        await split_loader.swap(4)
    assert [worker.weights for worker in workers] == ["v000001"] * 3
    assert (split_loader.policies.base, split_loader.engine.label) == (1, "1")
    assert split_loader.engine.calls[-1] == "resume"


async def test_a_worker_that_cannot_go_back_loses_the_policy(split_loader: Loader) -> None:
    split_loader.engine.workers[2].failures = 2
    with pytest.raises(PolicyLost, match="worker 2"):
        await split_loader.swap(4)
    assert split_loader.policy_lost
    assert "resume" not in split_loader.engine.calls, "no token from two policies"


async def test_an_adapter_that_one_worker_lacks_does_not_go_live(split_loader: Loader) -> None:
    split_loader.engine.workers[0].failures = 1
    with pytest.raises(SwapFailed, match="worker 0: RuntimeError"):
        await split_loader.swap(2)
    assert split_loader.policies.live.version == 1
    await split_loader.swap(2)
    assert split_loader.policies.live.version == 2


async def test_a_worker_that_does_not_reply_fails_the_swap(made: FolderRegistry) -> None:
    loader = Loader(Engine(1), made, PolicyTable(1), lora_rank=8, timeout=5, workers=2)
    with pytest.raises(PolicyLost, match="1 of 2 workers replied"):
        await loader.swap(4)


def test_staging_says_what_is_under_an_adapter(made: FolderRegistry) -> None:
    loaded = made.path(1)
    assert stage(made, 2, loaded, 8) == StagedCheckpoint(2, 1, loaded, made.path(2))
    assert stage(made, 5, loaded, 8) == StagedCheckpoint(5, 4, made.path(4), made.path(5))


def test_adapters_that_this_replica_cannot_take_are_refused(made: FolderRegistry) -> None:
    with pytest.raises(CheckpointIncompatible, match="PLAUDIT_SERVING_LORA_RANK=8"):
        stage(made, 2, made.path(1), 0)
    with pytest.raises(CheckpointIncompatible, match="rank 16, but this replica accepts at most 8"):
        stage(made, 6, made.path(1), 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "not a LoRA adapter"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
def test_other_kinds_of_adapters_are_refused(
    made: FolderRegistry, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    import json

    registry = FolderRegistry(tmp_path / "registry")
    registry.publish(made.path(1), version=1, parent=0, base="tiny")
    folder = tmp_path / "adapter"
    shutil.copytree(made.path(2), folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    registry.publish(folder, version=2, parent=1, base="tiny", adapter_base=1)
    with pytest.raises(CheckpointIncompatible, match=message):
        stage(registry, 2, registry.path(1), 8)


def test_an_adapter_of_another_shape_is_refused(made: FolderRegistry, tmp_path: Path) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    registry.publish(made.path(1), version=1, parent=0, base="tiny")
    wide = tiny_chat_model(tmp_path / "wide", hidden_size=96)
    folder = tiny_adapter(wide, tmp_path / "adapter", 2)
    registry.publish(folder, version=2, parent=1, base="tiny", adapter_base=1)
    with pytest.raises(CheckpointIncompatible, match="do not match"):
        stage(registry, 2, registry.path(1), 8)


async def test_copies_of_what_is_served_no_more_are_dropped(
    made: FolderRegistry, loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[tuple[int, Container[int]]] = []
    monkeypatch.setattr(made, "evict_cached", lambda *given: dropped.append(given), raising=False)
    log = SqliteLog(tmp_path / "log.db")
    for version in (1, 2, 3, 4, 5):
        append_policy_event(log, Published(version=version))
    swapper = Swapper(loader, log, "a", on_live=lambda _: None)
    following = asyncio.create_task(swapper.follow(0.01))
    while not dropped:
        await asyncio.sleep(0.01)
    following.cancel()
    log.close()
    assert swapper.version == 5
    assert dropped == [(5, {1, 5, 4})], "5 adapts 4, which is also what a roll-back goes to"
