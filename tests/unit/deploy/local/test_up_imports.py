"""`plaudit up` starts its processes before anything imports what takes seconds."""

import subprocess
import sys
from pathlib import Path

SLOW = ("torch", "transformers", "vllm")

PROGRAM = """
import sys
from pathlib import Path
from deploy.local.up import _first_policy
from deploy.settings import UpSettings
from deploy.sizing.tuning import tuning_of
settings = UpSettings(home=Path(sys.argv[1]))
settings.home.mkdir()
tuning_of(settings.home, _first_policy(settings, "float32", print).tune)
print("imported:", [name for name in %r if name in sys.modules])
"""


def test_the_first_start_of_the_default_model_imports_no_torch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM % (SLOW,), str(tmp_path / "home")],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "the default model is included" in done.stdout
    assert done.stdout.splitlines()[-1] == "imported: []"
