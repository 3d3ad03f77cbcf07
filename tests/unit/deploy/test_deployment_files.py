"""The files under deploy/ are valid, and refer only to what exists in the code."""

import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from feedback.privacy.identity import load_or_create_secret
from tests.support.deployment import kubernetes
from tests.support.deployment.containers import (
    compose_problems,
    dockerfile_problems,
    hadolint_problems,
)
from tests.support.deployment.dashboards import dashboard_problems
from tests.support.deployment.faults import FAULTS
from tests.support.deployment.names import tool
from tests.support.deployment.proxy import proxy_problems
from tests.support.deployment.texts import RUNBOOKS, alert_problems, text_problems

REPOSITORY = Path(__file__).parents[3]


# The checks, by the part of deploy/ that they are about.
CHECKERS: dict[str, list[Callable[[Path], list[str]]]] = {
    "Dockerfile": [
        lambda root: hadolint_problems(root / "deploy"),
        lambda root: dockerfile_problems(root / "deploy", root),
    ],
    "compose.yaml": [lambda root: compose_problems(root / "deploy")],
    "proxy": [lambda root: proxy_problems(root / "deploy")],
    "base": [lambda root: kubernetes.problems(root / "deploy", "base")],
    "gpu": [lambda root: kubernetes.problems(root / "deploy", "gpu")],
    "fleet": [lambda root: kubernetes.problems(root / "deploy", "fleet")],
    "prometheus": [alert_problems],
    "grafana": [dashboard_problems],
    "": [text_problems],
}


@pytest.mark.parametrize("part", CHECKERS)
def test_the_files_have_no_problems(part: str) -> None:
    assert [p for check in CHECKERS[part] for p in check(REPOSITORY)] == []


@pytest.mark.parametrize(("part", "file", "old", "new", "expected"), FAULTS)
def test_a_planted_fault_is_found(
    tmp_path: Path, part: str, file: str, old: str, new: str, expected: str
) -> None:
    for folder in ("deploy", "docs"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    for name in ("README.md", "pyproject.toml", "uv.lock"):
        shutil.copy(REPOSITORY / name, tmp_path)
    for folder in ("protos", "feedback", "serving", "learner"):
        (tmp_path / folder).mkdir()
    changed = tmp_path / "deploy" / file
    text = changed.read_text()
    assert old in text
    changed.write_text(text.replace(old, new))
    found = [p for check in CHECKERS[part] for p in check(tmp_path)]
    assert any(expected in problem for problem in found), found


def test_a_runbook_entry_without_its_alert_or_command_is_found(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "deploy", tmp_path / "deploy")
    (tmp_path / "docs").mkdir()
    text = (REPOSITORY / RUNBOOKS).read_text()
    text = text.replace("`plaudit policies rollback`", "`plaudit policies undo`")
    (tmp_path / RUNBOOKS).write_text(text + "\n## Sunspots\n\n**Means** **Look** **Do**\n")
    shutil.copy(REPOSITORY / "README.md", tmp_path)
    assert alert_problems(tmp_path) == ["Sunspots: runbook entry without alert"]
    assert "docs/runbooks.md: no command 'plaudit policies undo'" in text_problems(tmp_path)


def test_the_script_prints_a_secret_that_serving_accepts(tmp_path: Path) -> None:
    manifests = kubernetes.secrets(REPOSITORY / "deploy")
    file = tmp_path / "secret.json"
    file.write_bytes(kubernetes.secret_value(manifests, "plaudit-identity", "secret.json"))
    secret = load_or_create_secret(file)
    assert len(secret.identity) == 32
    assert secret.current in secret.keys
    assert kubernetes.secret_value(manifests, "plaudit", "AWS_ACCESS_KEY_ID") == b"id"
    kinds = [(m["kind"], m["metadata"]["name"]) for m in manifests]
    assert kinds == [
        ("Namespace", "plaudit"),
        ("Secret", "plaudit"),
        ("Secret", "plaudit-identity"),
    ]
    assert manifests[-1]["immutable"]


def test_the_script_keeps_an_existing_identity(tmp_path: Path) -> None:
    cluster = tmp_path / "kubectl"  # a cluster that has this Secret
    cluster.write_text(
        '#!/bin/sh\ncase "$*" in *"get secret plaudit-identity") exit 0 ;; esac\n'
        f'exec {tool("kubectl")} "$@"\n'
    )
    cluster.chmod(0o755)
    done = kubernetes.run_secrets(REPOSITORY / "deploy", {}, tmp_path)
    assert done.returncode == 0
    assert [m["kind"] for m in yaml.safe_load_all(done.stdout)] == ["Namespace", "Secret"]
    assert b"plaudit-identity" not in done.stdout


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_the_script_prints_nothing_without_the_bucket_s_access_keys(name: str) -> None:
    done = kubernetes.run_secrets(REPOSITORY / "deploy", {name: ""})
    assert (done.returncode, done.stdout) == (1, b"")
    assert name in done.stderr.decode()


def test_images_have_the_version_of_the_package() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    compose = yaml.safe_load((REPOSITORY / "deploy/compose.yaml").read_text())
    assert compose["services"]["serving"]["image"] == f"plaudit:{version}"
    for overlay, tag in (("base", version), ("gpu", f"{version}-gpu"), ("fleet", f"{version}-gpu")):
        manifests = kubernetes.render(REPOSITORY / "deploy/kubernetes" / overlay)
        images = {
            c["image"]
            for m in manifests
            if m["kind"] in ("Deployment", "StatefulSet")
            for c in m["spec"]["template"]["spec"]["containers"]
        }
        assert images == {f"plaudit:{tag}"}
