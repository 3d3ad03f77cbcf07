"""Fits that are linear in a model's states: convex but for doubt about raters, by L-BFGS."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def minimise(
    parameters: Sequence[Tensor],
    loss: Callable[[], Tensor],
    *,
    steps: int,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Bring the parameters where the loss is least, in at most so many steps.

    Args:
        check: Called before every evaluation; what it raises ends the search.

    """
    optimizer = torch.optim.LBFGS(parameters, max_iter=steps, line_search_fn="strong_wolfe")

    def evaluate() -> Tensor:
        check()
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(evaluate)  # type: ignore[no-untyped-call]


def standardised(states_AD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give states with mean 0 and deviation 1, rows of about length 1; and their mean and scale."""
    mean_D = states_AD.mean(0)
    scale_D = states_AD.std(0).clamp_min(1e-6) * states_AD.shape[1] ** 0.5
    return (states_AD - mean_D) / scale_D, mean_D, scale_D
