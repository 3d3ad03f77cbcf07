"""The stages of a learning cycle: functions from the cycle's context to a result.

A stage writes its files and notes and reports to metrics and people; `learner.cycle.runner` then
puts the result into the cycle's state and saves it. A stage that was killed is run again.
"""

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

import torch

from feedback.failpoints import failpoint
from learner.cycle.context import CycleContext
from learner.cycle.state import SeedSalt, Stage
from learner.data.owner_bound import effective_votes
from learner.errors import Interrupted, LeadershipLost
from learner.gate.evaluation import (
    GateInputs,
    GateResult,
    evaluate_candidate,
    reason_of_weak_judge,
)
from learner.gate.judge import fit_judge
from learner.models.saving import model_exists
from learner.ppo.reward import PessimisticScore
from learner.ppo.trainer import Iteration, iteration_figures
from learner.processes.joining import process_count
from learner.processes.machines import find_machines
from learner.processes.torchrun import Torchrun
from learner.report.contents import Outcome
from learner.reward.evaluation import RewardReport
from learner.reward.model import RewardModel
from learner.reward.probe import ProbeResult
from learner.sizing import CycleSizes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StageResult:
    """Result of a stage.

    Attributes:
        next_stage: Stage to run next; "done" if the cycle has ended.
        figures: Figures to add to those of the cycle.
        tuning: Which weights the saved models are trained for; None if the stage saved none.
        sizes: Sizes that the rest of the cycle must keep; None if the stage chose none.
        outcome: How the cycle ended; None if it goes on.
        reasons: Reasons why nothing is published.

    """

    next_stage: Stage
    figures: Mapping[str, float] = field(default_factory=dict)
    tuning: str | None = None
    sizes: CycleSizes | None = None
    outcome: Outcome | None = None
    reasons: Sequence[str] = ()


def train_reward_model(context: CycleContext) -> StageResult:
    """Train the reward model; end the cycle if votes do not predict other votes."""
    events, inputs = context.ledger.stream_events(upto_seq=context.state.upto_seq), context.inputs
    logger.info("cycle %d: %s", context.state.number, " ".join(inputs.sizing))
    context.reporter.add_data(events, context.data.examples, inputs)
    context.metrics.set_left_out_prompts(inputs.left_out_prompts)
    model, report, score, figures = _train(context)
    probe = context.data.probe_result
    figures |= {"probe_gain": probe.gain, "probe_gain_lower_bound": probe.gain_lower_bound}
    result = _check_reward_model(context, report, probe, figures)
    if result is None:
        assert score is not None, "there are enough votes"
        context.reward_models.save(model, score)
        result = StageResult("judge", figures, tuning=inputs.settings.tuning, sizes=inputs.sizes)
    context.metrics.set_reward_model(figures)
    return result


def _check_reward_model(
    context: CycleContext, report: RewardReport, probe: ProbeResult, figures: Mapping[str, float]
) -> StageResult | None:
    """Return the result that ends the cycle; None if the policy can be trained."""
    held_out, prompts = len(context.data.examples["held_out"]), len(context.inputs.prompts)
    votes = effective_votes(context.data.examples["reward"])
    if report.epochs == 0 or not held_out or not prompts:
        reason = (
            f"{report.trained_on} training examples that count for {votes:g} votes (at least "
            f"{context.settings.reward.min_train} are needed), {held_out} held-out examples, "
            f"{prompts} prompts"
        )
        return _end("too_few_votes", [reason], figures)
    if probe.gain_lower_bound <= 0:
        reason = (
            f"the linear probe's gain over chance is {probe.gain:.3f} nats per example, with a "
            f"lower bound of {probe.gain_lower_bound:.3f}: it must be above 0"
        )
        return _end("reward_model_weak", [reason], figures)
    if report.gain_upper_bound <= 0:
        reason = (
            f"the reward model's gain over chance is {report.gain:.3f} nats per held-out example, "
            f"with an upper bound of {report.gain_upper_bound:.3f}: it must be above 0"
        )
        return _end("reward_model_weak", [reason], figures)
    return None


def train_judge(context: CycleContext) -> StageResult:
    """Fit the judge to all votes; end the cycle if it predicts them no better than chance."""
    if not context.inputs.held_out_prompts:
        return _end("too_few_votes", ["no prompt is held out for the gate"])
    examples, settings = context.data.all_examples, context.settings
    judge, report = fit_judge(
        context.inputs.features.of_examples(examples, context.raise_if_stopped),
        examples,
        context.data.probe_result.reliabilities,
        seed=context.state.seed(settings.seed, SeedSalt.JUDGE),
        raise_if_stopped=context.raise_if_stopped,
    )
    logger.info("cycle %d: %s", context.state.number, report)
    figures = {f"judge_{k}": float(v) for k, v in asdict(report).items()}
    if not report.gain_lower_bound >= settings.gate.min_judge_gain:
        reason = reason_of_weak_judge(report.gain_lower_bound, settings.gate)
        return _end("reward_model_weak", [reason], figures)
    context.reward_models.save_judge(judge)
    return StageResult("ppo", figures)


def _train(
    context: CycleContext,
) -> tuple[RewardModel, RewardReport, PessimisticScore | None, dict[str, float]]:
    """Train the reward model; return it, its report, PPO's score, and the figures of both."""
    number, data = context.state.number, context.data
    model, report, score = context.reward_models.train(
        data.examples["reward"],
        data.examples["held_out"],
        SeedSalt.REWARD_MODEL,
        reliabilities=data.probe_result.reliabilities,
        on_epoch=lambda report: logger.info("cycle %d: %s", number, report),
        raise_if_stopped=context.raise_if_stopped,
    )
    figures = {f"reward_{k}": float(v) for k, v in asdict(report).items()}
    if score is not None:
        figures["reward_posterior_share"] = score.posterior_share.item()
    return model, report, score, figures


def train_policy(context: CycleContext) -> StageResult:
    """Train the candidate by PPO, in as many processes as there are GPUs unless set otherwise.

    Raises:
        MachinesUnusable: Not all machines that train together joined.

    """
    state, settings, reporter = context.state, context.settings, context.reporter

    def on_iteration(iteration: Iteration) -> None:
        context.enter(iteration.number)
        reporter.add_iteration(iteration_figures(iteration))
        failpoint("learner.ppo.iteration")
        context.metrics.set_iteration(iteration)
        context.publisher.report_stage(
            "ppo", state.number, iteration.number, settings.ppo.iterations
        )
        logger.info("cycle %d: %s", state.number, iteration)

    training = context.policy_training
    machines, count = find_machines(settings, os.environ), process_count(settings)
    if machines.count == count == 1:
        training.save(training.train(on_iteration, context.raise_if_stopped))
    else:
        threads = settings.threads or max(1, torch.get_num_threads() // count)
        torchrun = Torchrun(machines, count, threads, settings.join_seconds)
        training.train_in_processes(torchrun, on_iteration, context.raise_if_stopped)
    failpoint("learner.ppo.trained")
    return StageResult("gate", {f"ppo_{k}": v for k, v in reporter.last_iteration().items()})


def run_gate(context: CycleContext) -> StageResult:
    """Evaluate the candidate; end the cycle if it does not meet every criterion."""
    state, inputs, training = context.state, context.inputs, context.policy_training
    assert model_exists(context.candidate)
    candidate, live = training.load(context.candidate), training.load_parent()
    result = evaluate_candidate(
        GateInputs(
            candidate=candidate,
            reference=inputs.reference,
            candidate_sampler=inputs.sampler(candidate),
            live_sampler=inputs.sampler(live),
            first_sampler=inputs.sampler(inputs.reference) if state.parent > 1 else None,
            judge=context.reward_models.load_judge(),
            judge_gain_lower_bound=state.figures["judge_gain_lower_bound"],
            features=inputs.features,
            prompts=inputs.held_out_prompts,
            text=inputs.held_out_text,
            base_text_nll=inputs.base_text_nll,
        ),
        context.settings.gate,
        context.settings.ppo,
        seed=state.seed(context.settings.seed, SeedSalt.GATE),
    )
    context.reporter.add_gate_results(result.figures, inputs, live=live, candidate=candidate)
    return _announce_gate(context, result)


def _announce_gate(context: CycleContext, result: GateResult) -> StageResult:
    state, figures = context.state, result.figures
    judge = {"judge_accuracy": state.figures["judge_accuracy"]}
    context.metrics.set_gate(figures | judge, math.exp(min(figures["text_nll"], 30.0)))
    if result.passed:
        return StageResult("publish", figures)
    context.publisher.refuse(state.parent, reasons=result.reasons, figures=state.figures | figures)
    return _end("refused", result.reasons, figures)


def publish(context: CycleContext) -> StageResult:
    """Publish the candidate, unless another version went live or another learner leads.

    Raises:
        Interrupted: The learner must stop.

    """
    state, publisher = context.state, context.publisher
    if not publisher.wait_while_held(context.stopped, context.configured.poll_seconds):
        raise Interrupted
    if context.is_outdated():
        return StageResult("publish")  # the runner restarts the cycle
    if state.version == 0:
        live = publisher.state().live
        if live != state.parent:
            reason = f"version {live} is live now, not version {state.parent}"
            return _end("overtaken", [reason])
        # Saved first, so that a resumed cycle publishes the same version.
        state.version = publisher.next_version()
        state.save(context.folder)
    context.reporter.write(context.candidate, state, "published", publisher.base_model())
    try:
        publisher.publish(
            context.candidate,
            state,
            coverage=context.ledger.coverage(state.upto_seq),
            votes=context.ledger.count_votes(state.after_seq, state.upto_seq),
        )
    except LeadershipLost as error:
        return _end("overtaken", [str(error)])
    return _end("published", [])


def _end(
    outcome: Outcome, reasons: Sequence[str], figures: Mapping[str, float] | None = None
) -> StageResult:
    return StageResult("done", figures or {}, outcome=outcome, reasons=reasons)


STAGES: Final[Mapping[Stage, Callable[[CycleContext], StageResult]]] = {
    "reward": train_reward_model,
    "judge": train_judge,
    "ppo": train_policy,
    "gate": run_gate,
    "publish": publish,
}
