"""A question whose answers are 'yes' or 'no', and the vote of somebody who prefers 'yes'."""

from typing import Any, Final

from tests.support.servers import Plaudit

PREFERRED, REJECTED = "yes", "no"
ANSWERS: Final = [PREFERRED, REJECTED]


def ask_yes_or_no(plaudit: Plaudit, number: int) -> tuple[str, dict[str, Any]]:
    """Request two answers to the question of this number; return their id and the vote on them."""
    answer = plaudit.openai().chat.completions.create(
        model="plaudit",
        n=2,
        temperature=1,
        max_tokens=8,
        messages=[{"role": "user", "content": f"Is {number} a number?"}],
        extra_body={"structured_outputs": {"choice": ANSWERS}},
    )
    left, right = (choice.message.content for choice in answer.choices)
    assert {left, right} <= {*ANSWERS}
    verdict = "tie" if left == right else "left" if left == PREFERRED else "right"
    return answer.id, {"kind": "comparison", "left": 0, "right": 1, "verdict": verdict}
