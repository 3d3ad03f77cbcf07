"""`plaudit simulate`."""

import httpx
import pytest

from deploy.errors import DeployError
from deploy.simulation.simulate import Plan, Simulation, simulate


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.ReadTimeout("slow")])
def test_a_simulation_reports_a_server_that_has_gone(
    error: httpx.HTTPError, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(*_: object) -> None:
        raise error

    monkeypatch.setattr(Simulation, "run", run)
    with pytest.raises(DeployError, match=r"no answer from .*: start it with"):
        simulate(Plan(("http://127.0.0.1:1",), "concise"))
