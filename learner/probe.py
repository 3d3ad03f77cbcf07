"""Whom to trust: a linear probe forecasts each opinion, and those who contradict it count less.

The probe reads what the reference's states tell of an answer, and is fitted to the opinions on
other prompts (Alain and Bengio 2016, arXiv:1610.01644). It has so few degrees of freedom that
some hundred opinions are enough for it, where a reward model must have read an opinion before it
can say anything about it. People's preferences need not be linear in these states: the penalty
that forecasts best is taken, and where nothing can be forecast everybody keeps the prior's trust.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from learner.answers import Answered, lay_out
from learner.batching import parts
from learner.model import computing, inputs, trunk_of
from learner.opinions import Opinions, opinions_of
from learner.preferences import Example
from learner.reliability import Forecast, Reliabilities, estimate, mixture_losses
from learner.settings import Dtype

_FOLDS: Final = 8  # of prompts
_PENALTIES: Final = (0.1, 0.3, 1.0, 3.0, 10.0)
_ROUNDS: Final = 10
_AGREED: Final = 0.02
_STEPS: Final = 25
_TIE: Final = -1.0


def probed_reliabilities(
    model: PreTrainedModel,
    examples: Sequence[Example],
    *,
    pad: int,
    dtype: Dtype,
    micro_tokens: int,
    check: Callable[[], None] = lambda: None,
) -> Reliabilities:
    """Find how far each rater can be trusted, by the opinions of all.

    Args:
        model: Its states are what the probe reads; nothing is trained in it.
        micro_tokens: Padded tokens in one forward pass.
        check: Called now and then; what it raises ends the search.

    """
    if len({example.rater for example in examples} - {""}) < 2:
        return Reliabilities()  # no crowd to contradict
    states_AD = answer_states(
        model, examples, pad=pad, dtype=dtype, micro_tokens=micro_tokens, check=check
    )
    probe = _Probe(
        states_AD,
        opinions_of(examples, states_AD.device),
        [example.rater for example in examples],
        _folds([example.key for example in examples]).to(states_AD.device),
        check,
    )
    return max((probe.search(penalty) for penalty in _PENALTIES), key=lambda found: found[0])[1]


@torch.no_grad()
def answer_states(
    model: PreTrainedModel,
    examples: Sequence[Example],
    *,
    pad: int,
    dtype: Dtype,
    micro_tokens: int,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """Give what the model's states tell of each answer, [A, D], in order.

    D is twice the model's width: the means over the answer's tokens of their embeddings and of
    their last states, each with mean 0 and deviation 1 over the answers, and all divided by the
    root of D, so that a row has about length 1.
    """
    rows = [
        Answered(tuple(sequence[:-length]), (tuple(sequence[-length:]),))
        for example in examples
        for sequence, length in zip(example.sequences, example.lengths, strict=True)
    ]
    trunk, embedding = trunk_of(model), model.get_input_embeddings()
    found: dict[int, Tensor] = {}
    for part in parts([row.length for row in rows], micro_tokens):
        check()
        batch = lay_out([rows[i] for i in part], pad=pad, device=model.device)
        with computing(dtype, batch.ids_RT):
            states = trunk(**inputs(batch)).last_hidden_state.flatten(0, 1)
        lengths_A = batch.chosen_AL.sum(-1)
        first_A = batch.last_A - lengths_A + 1
        at_AL = first_A[:, None] + torch.arange(batch.chosen_AL.shape[1], device=model.device)
        at_N = at_AL[batch.chosen_AL]
        values_ND = torch.cat([embedding(batch.tokens_N).float(), states[at_N].float()], dim=-1)
        of_N = torch.arange(len(part), device=model.device).repeat_interleave(lengths_A)
        sums_AD = values_ND.new_zeros(len(part), values_ND.shape[1]).index_add(0, of_N, values_ND)
        found.update(zip(part, sums_AD / lengths_A[:, None], strict=True))
    means_AD = torch.stack([found[i] for i in range(len(rows))])
    scale_D = means_AD.std(0).clamp_min(1e-6) * math.sqrt(means_AD.shape[1])
    return (means_AD - means_AD.mean(0)) / scale_D


def _folds(keys: Sequence[str]) -> Tensor:
    place = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return torch.tensor([place[key] % _FOLDS for key in keys])


@dataclass(frozen=True, slots=True)
class _Probe:
    states_AD: Tensor
    opinions: Opinions
    raters: Sequence[str]
    fold_E: Tensor
    check: Callable[[], None]

    def search(self, penalty: float) -> tuple[float, Reliabilities]:
        """Give the log-likelihood of opinions not trained on, and whom to trust, by turns."""
        found = Reliabilities()
        for _ in range(_ROUNDS):
            believed_E = self._believed(found)
            meant_E, opposite_E = self._forecast(believed_E, penalty)
            told = zip(self.raters, (meant_E - opposite_E).tolist(), strict=True)
            last, found = found, estimate(Forecast(*one) for one in told)
            if found.change(last) < _AGREED:
                break
        likelihood = -mixture_losses(meant_E, opposite_E, self._believed(found)).sum().item()
        return likelihood + found.log_prior(), found

    def _believed(self, reliabilities: Reliabilities) -> Tensor:
        return self.states_AD.new_tensor([reliabilities.of(rater) for rater in self.raters])

    def _forecast(self, believed_E: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
        """Give log-likelihoods of the opinions and of their opposites, by the other folds."""
        meant_E, opposite_E = torch.zeros_like(believed_E), torch.zeros_like(believed_E)
        for fold in range(_FOLDS):
            self.check()
            own_E = self.fold_E == fold
            with torch.no_grad():
                meant, opposite = self._log_likelihoods(*self._fit(~own_E, believed_E, penalty))
            meant_E[own_E], opposite_E[own_E] = meant[own_E], opposite[own_E]
        return meant_E, opposite_E

    def _fit(self, on_E: Tensor, believed_E: Tensor, penalty: float) -> tuple[Tensor, ...]:
        states_AD = self.states_AD
        weights_D = states_AD.new_zeros(states_AD.shape[1], requires_grad=True)
        log_tie = states_AD.new_tensor(_TIE).requires_grad_()
        offset = states_AD.new_tensor(0.0).requires_grad_()
        parameters = (weights_D, log_tie, offset)
        optimizer = torch.optim.LBFGS(parameters, max_iter=_STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            losses_E = mixture_losses(*self._log_likelihoods(*parameters), believed_E)
            value: Tensor = losses_E[on_E].sum() + penalty / 2 * (weights_D**2).sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        with torch.enable_grad():
            optimizer.step(loss)  # type: ignore[no-untyped-call]
        return parameters

    def _log_likelihoods(
        self, weights_D: Tensor, log_tie: Tensor, offset: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self.opinions.log_likelihoods(self.states_AD @ weights_D, log_tie, offset)
