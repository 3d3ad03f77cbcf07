"""Plans, compared with hand-computed numbers, and the shapes of models."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.errors import DeployError
from deploy.local.up import children
from deploy.settings import UpSettings
from deploy.sizing.machine import default_shape, plan_here, recorded_lengths, shape_of
from deploy.sizing.models import default_model
from deploy.sizing.plan import GIB, PROGRAM_BYTES, Machine, Plan, plan
from deploy.sizing.tuning import Tuning
from feedback.ledger.rows import RecordedLengths
from feedback.ledger.store import Ledger
from feedback.log.sqlite_log import SqliteLog
from learner.models.hardware import model_shape
from learner.models.parameters import count_parameters
from learner.settings import LearnerSettings, PPOSettings, tune_for
from learner.sizing import ModelShape
from tests.support.architectures import (
    ARCHITECTURES,
    save_tiny,
    tiny_model,
    tiny_tokenizer,
)
from tests.support.feedback_samples import completion, put

# 1000 parameters, 2 layers of width 10, a vocabulary of 50, linear layers of 100 dimensions in all.
LLAMA = "LlamaForCausalLM"
SMALL = ModelShape(
    LLAMA, parameters=1000, layers=2, hidden=10, vocabulary=50, linear_dimensions=100
)
PPO = PPOSettings(
    iterations=2,
    rollouts=10,
    epochs=2,
    minibatches=1,
    max_tokens=16,
    max_prompt_tokens=84,
    text_rows=3,
    text_row=8,
    micro_tokens=100,
)
SETTINGS = LearnerSettings(ppo=PPO)
CPU = Machine(cores=2, memory=8 * GIB, gpus=())


def planned(shape: ModelShape = SMALL, machine: Machine = CPU, **changes: object) -> Plan:
    options = {
        "tune": "full",
        "dtype": "float32",
        "settings": SETTINGS,
        "cache": GIB // 2,
        **changes,
    }
    return plan(shape, machine, **options)  # type: ignore[arg-type]


def test_bytes_of_training_all_weights_on_a_cpu() -> None:
    found = planned()
    assert found.serving == 2 * 4 * 1000  # two copies during a swap
    assert found.weights == 4 * 4 * 1000  # reference, policy, critic, reward model
    assert found.gradients == 2 * 4 * 1000
    assert found.optimizer == 2 * 2 * 4 * 1000
    # 100 tokens: two models' 68 bytes x 10 units x 2 layers, and 3 float32 rows of 50 logits.
    assert found.activations == 100 * (2 * 68 * 20 + 3 * 4 * 50)
    assert found.learner == 16_000 + 8_000 + 16_000 + 332_000
    assert found.gpu_share is None
    assert found.serving_environment == {"PLAUDIT_SERVING_ENFORCE_EAGER": "1"}
    assert found.learner_environment == {}
    assert found.problem is None


def test_bytes_of_training_adapters() -> None:
    found = planned(tune="lora", dtype="bfloat16")
    assert found.trained == 16 * 100
    assert found.serving == 2 * 2 * 1000
    assert found.weights == 4 * (2 * 1000 + 4 * 1600)
    assert found.gradients == 2 * 4 * 1600
    assert found.optimizer == 2 * 2 * 4 * 1600


def test_seconds_of_a_cycle() -> None:
    answers = 2 * 10 * (32 + 16 / 2)  # 800 tokens
    text = 2 * 2 * 1 * 3 * 8  # 96 tokens
    operations = 2 * 10**9 * ((2 + 8 + 24) * answers + 6 * text)
    found = planned(replace(SMALL, parameters=10**9))
    assert found.seconds == pytest.approx(operations / (2 * 1e11 * 0.6))
    assert found.lines()[-1] == "Estimated time of a learning cycle: 8 min."
    measured = planned(measured_rate=100.0)
    assert measured.seconds == pytest.approx((34 * answers + 6 * text) / 100)
    assert "(measured in the last cycle)" in measured.sizing[1]


def test_too_little_memory_is_reported_with_advice() -> None:
    tight = Machine(cores=2, memory=PROGRAM_BYTES, gpus=())
    problem = planned(machine=tight).problem
    assert problem is not None
    # 3 GiB of programs and .5 GiB of cache, of 3 GiB
    assert "needs about 3.5 GiB, but this machine has 3.0 GiB" in problem
    assert "use a smaller model" in problem


# Half a billion parameters: 1 GiB of weights in bfloat16.
BIG = ModelShape(
    LLAMA, parameters=GIB // 2, layers=24, hidden=1024, vocabulary=32000, linear_dimensions=100_000
)


def gpus(*sizes: int) -> Machine:
    return Machine(cores=16, memory=128 * GIB, gpus=tuple(s * GIB for s in sizes))


def test_two_gpus_run_one_process_each() -> None:
    found = planned(BIG, gpus(24, 40), dtype="bfloat16")
    assert found.serving == GIB
    assert found.cache == int(24 * GIB * 0.9) - GIB
    assert found.serving_environment == {
        "CUDA_VISIBLE_DEVICES": "0",
        "PLAUDIT_SERVING_GPU_MEMORY_SHARE": "0.9",
    }
    assert found.learner_environment == {"CUDA_VISIBLE_DEVICES": "1"}
    assert found.seconds is None
    assert found.problem is None


def test_the_learner_uses_all_gpus_but_the_first_and_must_fit_the_smallest() -> None:
    found = planned(BIG, gpus(24, 40, 80, 40), dtype="bfloat16")
    assert found.learner_environment == {"CUDA_VISIBLE_DEVICES": "1,2,3"}
    assert found.place == "serving on GPU 0, learning on GPU 1,2,3"
    assert found.problem is None
    problem = planned(BIG, gpus(24, 40, 16), dtype="bfloat16").problem
    assert problem is not None
    assert "GPU 2, used for learning, has 16.0 GiB" in problem


def test_on_one_gpu_vllm_s_share_leaves_room_for_the_learner() -> None:
    found = planned(BIG, gpus(40), dtype="bfloat16")
    # 40 bytes for each of half a billion parameters, and .35 GiB of activations.
    assert found.learner == 20 * GIB + found.activations
    assert found.activations == 100 * (2 * 68 * 1024 * 24 + 12 * 32000)
    assert found.gpu_share == 0.39  # .9 - 20.35 / 40, rounded down
    assert found.cache == int(0.39 * 40 * GIB) - GIB
    assert found.learner_environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert not found.sleep_mode
    assert found.problem is None


def test_one_gpu_too_small_for_both_would_need_sleep_mode() -> None:
    found = planned(BIG, gpus(24), dtype="bfloat16")
    assert found.sleep_mode
    assert found.problem is not None
    assert "sleep mode" in found.problem


def test_one_gpu_too_small_for_either_is_a_problem() -> None:
    found = planned(BIG, gpus(16), dtype="bfloat16")
    assert found.problem is not None
    assert "GPU 0 has 16.0 GiB" in found.problem


def test_a_model_that_vllm_splits_takes_the_first_gpus() -> None:
    found = planned(BIG, gpus(24, 16, 40), dtype="bfloat16", workers=2)
    assert found.place == "serving on GPU 0,1, learning on GPU 2"
    assert found.serving_environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert found.learner_environment == {"CUDA_VISIBLE_DEVICES": "2"}
    assert found.cache == 2 * (int(16 * GIB * 0.9) - GIB // 2), "the smaller one bounds both"
    shared = planned(BIG, gpus(40, 40), dtype="bfloat16", workers=2)
    assert shared.place == "serving and learning share GPU 0,1"
    assert shared.serving_environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert shared.learner_environment["CUDA_VISIBLE_DEVICES"] == "1"
    problem = planned(BIG, gpus(40, 40), dtype="bfloat16", workers=4).problem
    assert problem is not None
    assert "over 4 GPUs, but there are only 2; lower --tensor-parallel-size" in problem


def test_processes_start_with_the_environment_of_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAUDIT_SERVING_GPU_MEMORY_SHARE", "0.3")  # set by hand
    found = planned(BIG, gpus(24, 40), dtype="bfloat16")
    serving, learner = children(UpSettings(home=tmp_path), "bfloat16", found, Tuning("lora", 16))
    assert serving.environment["PLAUDIT_SERVING_LOCAL_ROLE"] == "operator"
    settings = UpSettings(home=tmp_path, local_role="user")
    closed, _ = children(settings, "bfloat16", found, Tuning("lora", 16))
    assert closed.environment["PLAUDIT_SERVING_LOCAL_ROLE"] == "user"
    assert serving.environment["PLAUDIT_SERVING_LORA_RANK"] == "16"
    assert serving.environment["PLAUDIT_SERVING_COSTS"].startswith("What it costs here: ")
    assert serving.environment["PLAUDIT_SERVING_GPU_MEMORY_SHARE"] == "0.3"
    assert serving.environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert learner.environment["CUDA_VISIBLE_DEVICES"] == "1"


def test_a_plan_is_described_in_lines() -> None:
    lines = planned(default_shape(), settings=LearnerSettings()).lines()
    assert lines[0] == "Model: 4.3 million parameters; training all of them."
    assert lines[1] == "Placement: serving and learning share 2 cores and 8.0 GiB."
    assert lines[2] == (
        "Lengths: prompts of up to 256 tokens (the default until 20 answers are recorded), answers "
        "of up to 112 (the default until 20 answers are recorded)."
    )
    assert lines[3].startswith("A cycle: 14 iterations of 96 answers, within 30 minutes at ")
    assert lines[4].startswith("Estimated memory: serving 33 MiB weights + 0.5 GiB cache; learning")
    assert len(lines) == 6


def test_the_plan_tells_what_share_of_the_homes_traffic_fits(tmp_path: Path) -> None:
    assert recorded_lengths(tmp_path) == RecordedLengths()
    assert not (tmp_path / "ledger.db").exists()
    log, ledger = SqliteLog(tmp_path / "log.db"), Ledger(tmp_path / "ledger.db")
    for number in range(20):
        record = completion(f"c{number}", question=f"question {number}")
        record.prompt_token_ids.extend([1] * (20 * number + 1))
        for choice in record.choices:
            choice.token_ids.extend([1] * 10)
        put(log, record)
    ledger.follow(log)
    ledger.close()
    lines = plan_here(default_shape(), "float32", "full", tmp_path).lines()
    assert lines[2] == (
        "Lengths: prompts of up to 368 tokens (the 95th percentile; 95% of 20 recorded ones fit), "
        "answers of up to 112 (the default; 100% of 40 recorded ones fit)."
    )
    log.close()


def test_the_default_model_is_small_enough_to_ship() -> None:
    weights = default_model() / "model.safetensors"
    assert weights.stat().st_size <= 12_000_000
    assert 2_000_000 <= default_shape().parameters <= 6_000_000
    card = (default_model() / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in card


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_a_folders_shape_is_read_without_loading_it(name: str, tmp_path: Path) -> None:
    model = tiny_model(name, tiny_tokenizer())
    found = shape_of(save_tiny(name, tmp_path))
    assert found == model_shape(model), "the learner plans for the same model"
    assert found.parameters == count_parameters(model)
    assert (found.layers, found.hidden, found.vocabulary) == (2, 64, len(tiny_tokenizer()))
    linear_dimensions = [
        sum(p.shape)
        for n, p in model.named_parameters()
        if (p.dim() == 2 and ".layers." in n) or (".h." in n and p.dim() == 2)
    ]
    assert found.linear_dimensions == sum(linear_dimensions)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    save_tiny("gpt2", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(DeployError, match="import-model"):
        shape_of(tmp_path)


def test_a_folder_whose_weights_are_cut_short_is_refused(tmp_path: Path) -> None:
    weights = save_tiny("gpt2", tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DeployError, match=r"model\.safetensors is damaged"):
        shape_of(tmp_path)


def test_a_model_too_large_is_refused_before_any_work() -> None:
    huge = ModelShape(
        LLAMA,
        parameters=10**13,
        layers=100,
        hidden=10**5,
        vocabulary=10**5,
        linear_dimensions=10**9,
    )
    with pytest.raises(DeployError, match="It does not fit"):
        plan_here(huge, "float32")


def test_large_models_train_adapters() -> None:
    assert (tune_for(30_000_000), tune_for(30_000_001)) == ("full", "lora")
