"""One learning cycle: reward model, judge, PPO, gate, publish; each stage saved when done.

Killed at any moment and run again, a cycle ends with the same weights bit for bit (one machine
and number of threads): a stage that was under way is done again, PPO from its last checkpoint.

Where somebody is forgotten meanwhile, what was trained is dropped after the stage that is under
way, and the cycle starts afresh without them. Its folder holds weights, figures, and a report
without anybody's texts.
"""

import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Final

import torch

from feedback.failpoints import failpoint
from feedback.ledger.store import Ledger
from learner.cycle.materials import Materials, gather
from learner.cycle.metrics import Metrics
from learner.cycle.policy_training import PolicyTraining
from learner.cycle.publishing import Publisher
from learner.cycle.reporting import NOTES, Reporter
from learner.cycle.reward_models import RewardModels
from learner.cycle.state import CycleState, Stage, cycle_folder
from learner.data.preferences import PreferenceExample, Split, preference_examples, split_examples
from learner.errors import Interrupted, LeadershipLost
from learner.gate.evaluation import GateInputs, evaluate_candidate
from learner.models.checkpoint import model_exists
from learner.ppo.trainer import Iteration, iteration_figures
from learner.reward.evaluation import RewardReport
from learner.reward.model import RewardModel
from learner.reward.probe import ProbeResult
from learner.settings import LearnerSettings

logger = logging.getLogger(__name__)

_TRAINED: Final = ("candidate", "ppo", "reward.pt", "judge.pt", NOTES)


class Cycle:
    """A cycle that is to be done, or done on."""

    def __init__(
        self,
        home: Path,
        state: CycleState,
        *,
        settings: LearnerSettings,
        ledger: Ledger,
        publisher: Publisher,
        metrics: Metrics,
        stopped: Callable[[], bool],
    ) -> None:
        """Do the cycle that `state` describes; nothing happens before `run`."""
        self._home = home
        self._state = state
        self._folder = cycle_folder(home, state.number)
        self._own_settings = settings
        self._ledger = ledger
        self._publisher = publisher
        self._metrics = metrics
        self._stopped = stopped
        self._reporter = Reporter(self._folder)
        self._stages: dict[Stage, Callable[[], None]] = {
            "reward": self._reward,
            "judge": self._judge,
            "ppo": self._ppo,
            "gate": self._gate,
            "publish": self._publish,
        }

    def run(self) -> CycleState:
        """Do every stage that is not done.

        Raises:
            Interrupted: It was stopped; run it again.
            LogUnavailable: The log was away; run it again.

        """
        try:
            return self._run()
        finally:
            self._close()

    def _run(self) -> CycleState:
        state = self._state
        state.save(self._folder)
        logger.info(
            "cycle %d: %d opinions since version %d; next is its stage '%s'",
            *(state.number, state.events, state.parent, state.stage),
        )
        self._restart_if_tuning_changed()
        while state.stage != "done":
            self._restart_if_forgotten()
            stage = state.stage
            self._metrics.stage(stage)
            self._publisher.report_stage(stage, state.number)
            failpoint(f"learner.{stage}")
            started = time.monotonic()
            self._stages[stage]()
            state.seconds[stage] = round(time.monotonic() - started, 1)
            if state.outcome is not None:
                self._reporter.write(self._folder, state, state.outcome, self._publisher.base())
            state.save(self._folder)
            logger.info("cycle %d: %s took %.0f s", state.number, stage, state.seconds[stage])
        self._metrics.ended(state)
        self._delete_trained()
        return state

    def _delete_trained(self) -> None:
        for name in _TRAINED:
            path = self._folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _is_outdated(self) -> bool:
        """Tell whether somebody was forgotten since training began, and it can still be undone."""
        state = self._state
        return self._ledger.last_forgetting() != state.forgettings and not self._publisher.has(
            state.version
        )

    def _restart_if_forgotten(self) -> None:
        if self._is_outdated():
            self._restart("somebody was forgotten")

    def _restart_if_tuning_changed(self) -> None:
        """Drop what was trained in another way than is set now: it fits no model of this one."""
        state = self._state
        under_way = state.stage in ("judge", "ppo", "gate")  # a candidate to publish is whole
        if under_way and state.tuning != self._settings.tuning:
            self._restart(f"it was begun with '{state.tuning}', not '{self._settings.tuning}'")

    def _restart(self, why: str) -> None:
        state = self._state
        logger.info("cycle %d: %s; it starts afresh", state.number, why)
        self._delete_trained()  # before the state says so: a stage goes on from what it finds
        self._close()
        for cached in ("_materials", "_examples", "_probed"):
            self.__dict__.pop(cached, None)
        forgettings = self._ledger.last_forgetting()
        events = len(self._ledger.effective_events(state.after_seq, state.upto_seq))
        state.restart(events=events, forgettings=forgettings)
        state.save(self._folder)

    def _close(self) -> None:
        if "_materials" in self.__dict__:
            self._materials.close()

    @cached_property
    def _materials(self) -> Materials:
        return gather(self._home, self._own_settings, self._ledger, self._state.upto_seq)

    @property
    def _settings(self) -> LearnerSettings:
        return self._materials.settings

    def _check(self) -> None:
        if self._stopped():
            raise Interrupted

    @cached_property
    def _examples(self) -> dict[Split, list[PreferenceExample]]:
        context = getattr(self._materials.reference.config, "max_position_embeddings", 2048)
        found = preference_examples(
            self._ledger.effective_events(upto_seq=self._state.upto_seq),
            self._materials.encode_answer,
            context=min(context, 2048),
        )
        return split_examples(found, self._settings.reward)

    @cached_property
    def _probe_result(self) -> ProbeResult:
        """What opinions tell and how far each rater is trusted, by all that are not held out.

        The judge shares this with the reward model: it is about people, and what the judge is to
        be independent in is what it thinks of answers.
        """
        known = [*self._examples["reward"], *self._examples["judge"]]
        return self._reward_models.probe(known, self._check)

    def _reward(self) -> None:
        judged = self._ledger.effective_events(upto_seq=self._state.upto_seq)
        self._reporter.began(judged, self._examples, self._materials)
        model, report = self._train("reward", 1)
        self._state.figures |= {
            "probe_gain": self._probe_result.gain,
            "probe_gain_lower_bound": self._probe_result.gain_lower_bound,
        }
        held_out = len(self._examples["held_out"])
        if report.epochs == 0 or not held_out or not self._materials.prompts:
            self._state.end(
                "too_few_votes",
                [f"{report.trained_on} opinions to learn from, {held_out} to measure by"],
            )
        elif self._probe_result.gain_lower_bound <= 0:
            self._state.end(
                "reward_model_weak",
                [
                    f"a linear probe forecasts opinions by {self._probe_result.gain:.3f} nats each "
                    f"better than chance, at least {self._probe_result.gain_lower_bound:.3f}"
                ],
            )
        elif report.gain_upper_bound <= 0:
            self._state.end(
                "reward_model_weak",
                [
                    f"it explains held-out opinions by {report.gain:.3f} nats each better than "
                    f"chance, at most {report.gain_upper_bound:.3f}"
                ],
            )
        else:
            self._reward_models.save(model, "reward.pt")
            self._state.tuning = self._settings.tuning
            self._state.stage = "judge"
        self._metrics.reward_model(self._state.figures)

    def _judge(self) -> None:
        model, report = self._train("judge", 2)
        if report.epochs == 0 or not self._materials.held_out_prompts:
            self._state.end("too_few_votes", [f"{report.trained_on} opinions for the judge"])
            return
        self._reward_models.save(model, "judge.pt")
        self._state.stage = "ppo"

    def _train(self, split: Split, salt: int) -> tuple[RewardModel, RewardReport]:
        model, report = self._reward_models.train(
            self._examples[split],
            self._examples["held_out"],
            salt,
            reliabilities=self._probe_result.reliabilities,
            on_epoch=lambda report: logger.info("cycle %d: %s", self._state.number, report),
            check=self._check,
        )
        self._state.figures |= {f"{split}_{k}": float(v) for k, v in asdict(report).items()}
        return model, report

    @property
    def _reward_models(self) -> RewardModels:
        return self._policy_training.reward_models()

    @property
    def _policy_training(self) -> PolicyTraining:
        return PolicyTraining(self._home, self._state, self._materials, self._ledger)

    def _ppo(self) -> None:
        training = self._policy_training
        count = self._settings.processes or max(1, torch.cuda.device_count())
        if count == 1:
            training.train(self._on_iteration, self._check)
        else:
            training.train_in_processes(count, self._on_iteration, self._check)
        failpoint("learner.ppo.trained")
        self._state.figures |= {f"ppo_{k}": v for k, v in self._reporter.last_iteration().items()}
        self._state.stage = "gate"

    def _on_iteration(self, iteration: Iteration) -> None:
        self._reporter.add_iteration(iteration_figures(iteration))
        failpoint("learner.ppo.iteration")
        self._metrics.iteration(iteration)
        self._publisher.report_stage(
            "ppo", self._state.number, iteration.number, self._settings.ppo.iterations
        )
        logger.info("cycle %d: %s", self._state.number, iteration)

    def _gate(self) -> None:
        materials = self._materials
        assert model_exists(self._folder / "candidate")
        training = self._policy_training
        candidate, live = training.load(training.candidate), training.live()
        result = evaluate_candidate(
            GateInputs(
                candidate=candidate,
                reference=materials.reference,
                candidate_sampler=materials.sampler(candidate),
                live_sampler=materials.sampler(live),
                first_sampler=(
                    materials.sampler(materials.reference) if self._state.parent > 1 else None
                ),
                judge=self._reward_models.load("judge.pt"),
                prompts=materials.held_out_prompts,
                text=materials.held_out_text,
                base_text_nll=materials.base_text_nll,
            ),
            self._settings.gate,
            self._settings.ppo,
            seed=self._state.seed(self._settings.seed, 5),
        )
        self._state.figures |= result.figures
        self._reporter.examined(result.figures, materials, live=live, candidate=candidate)
        judge = {"judge_accuracy": self._state.figures["judge_accuracy"]}
        self._metrics.gate(result.figures | judge, math.exp(min(result.figures["text_nll"], 30.0)))
        if result.passed:
            self._state.stage = "publish"
            return
        self._state.end("refused", list(result.reasons))
        self._publisher.refuse(self._state)

    def _publish(self) -> None:
        state = self._state
        if not self._publisher.wait_while_held(self._stopped, self._own_settings.poll_seconds):
            raise Interrupted
        if self._is_outdated():
            return  # and start afresh
        if state.version == 0:
            live = self._publisher.state().live
            if live != state.parent:
                state.end("overtaken", [f"version {live} is live, not {state.parent}"])
                return
            state.version = self._publisher.next_version()
            state.save(self._folder)
        self._reporter.write(self._folder / "candidate", state, "published", self._publisher.base())
        try:
            self._publisher.publish(
                self._folder / "candidate",
                state,
                lessons=self._ledger.coverage(state.upto_seq),
                votes=self._ledger.count_votes(state.after_seq, state.upto_seq),
            )
        except LeadershipLost as error:
            state.end("overtaken", [str(error)])
            return
        state.end("published", [])
