"""Whom to trust: a linear probe forecasts each opinion, and those who contradict it count less.

The probe reads what the reference's states tell of an answer, and is fitted to the opinions on
other prompts (Alain and Bengio 2016, arXiv:1610.01644). It has so few degrees of freedom that
some hundred opinions are enough for it, where a reward model must have read an opinion before it
can say anything about it. People's preferences need not be linear in these states: the penalty
that forecasts best is taken, and where nothing can be forecast everybody keeps the prior's trust.
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from learner.answers import Answered, lay_out
from learner.batching import parts
from learner.linear import minimise, standardised
from learner.model import computing, inputs, trunk_of
from learner.opinions import opinions_of
from learner.preferences import Example
from learner.reliability import Forecast, Reliabilities, estimate, mixture_losses
from learner.settings import Dtype

_FOLDS: Final = 8  # of prompts
_PENALTIES: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
_ROUNDS: Final = 10
_AGREED: Final = 0.02
_STEPS: Final = 40
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
    probe = _Probe(states_AD, examples, check)
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
    return standardised(means_AD)[0]


class _Probe:
    """F probes, each fitted to all opinions but those of its fold, which it forecasts.

    How readily people tie is one number for all of them.
    """

    def __init__(
        self, states_AD: Tensor, examples: Sequence[Example], check: Callable[[], None]
    ) -> None:
        self._states_AD, self._check = states_AD, check
        self._raters = [example.rater for example in examples]
        # Every probe has a copy of all opinions, so that one pass fits them all.
        self._opinions_FE = opinions_of([*examples] * _FOLDS, states_AD.device)
        place = {key: at for at, key in enumerate(dict.fromkeys(e.key for e in examples))}
        fold_E = torch.tensor([place[e.key] % _FOLDS for e in examples], device=states_AD.device)
        self._own_FE = fold_E == torch.arange(_FOLDS, device=states_AD.device)[:, None]

    def search(self, penalty: float) -> tuple[float, Reliabilities]:
        """Fit the probes and see whom to trust, by turns; give the evidence too."""
        found = Reliabilities()
        weights_DF = self._states_AD.new_zeros(self._states_AD.shape[1], _FOLDS)
        weights_DF.requires_grad_()
        log_tie = self._states_AD.new_tensor(_TIE).requires_grad_()
        for _ in range(_ROUNDS):
            self._fit((weights_DF, log_tie), self._believed(found), penalty)
            with torch.no_grad():
                meant_FE, opposite_FE = self._log_likelihoods(weights_DF, log_tie)
            meant_E, opposite_E = (f.T[self._own_FE.T] for f in (meant_FE, opposite_FE))
            told = zip(self._raters, meant_E.tolist(), opposite_E.tolist(), strict=True)
            last = found
            found, evidence = estimate(Forecast(*one) for one in told)
            if found.change(last) < _AGREED:
                break
        return evidence, found

    def _believed(self, reliabilities: Reliabilities) -> Tensor:
        return self._states_AD.new_tensor([reliabilities.of(rater) for rater in self._raters])

    def _fit(self, parameters: tuple[Tensor, ...], believed_E: Tensor, penalty: float) -> None:
        def loss() -> Tensor:
            losses_FE = mixture_losses(*self._log_likelihoods(*parameters), believed_E)
            return losses_FE[~self._own_FE].sum() + penalty / 2 * (parameters[0] ** 2).sum()

        minimise(parameters, loss, steps=_STEPS, check=self._check)

    def _log_likelihoods(self, weights_DF: Tensor, log_tie: Tensor) -> tuple[Tensor, Tensor]:
        scores_FA = (self._states_AD @ weights_DF).T.flatten()
        # No offset: that others approve more often is nothing that an opinion can contradict.
        meant, opposite = self._opinions_FE.log_likelihoods(
            scores_FA, log_tie, torch.zeros_like(log_tie)
        )
        return meant.view(_FOLDS, -1), opposite.view(_FOLDS, -1)
