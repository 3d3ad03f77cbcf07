"""Checks of the Dockerfile and the Compose file that their linters do not make."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from dockerfile_parse import DockerfileParser
from jsonschema.validators import validator_for

from tests.support.deployment.names import command_problems, port_of, routes_of, tool

_URL = re.compile(r"http://127\.0\.0\.1:(\d+)(/[\w/]*)")


def dockerfile(deploy: Path) -> dict[str, list[str]]:
    """Return the values of each instruction in the last stage, and of COPY in all stages."""
    with (deploy / "Dockerfile").open("rb") as file:
        structure = DockerfileParser(fileobj=file).structure
    starts = [n for n, line in enumerate(structure) if line["instruction"] == "FROM"]
    found: dict[str, list[str]] = {}
    for number, line in enumerate(structure):
        if number >= starts[-1] or line["instruction"] == "COPY":
            found.setdefault(line["instruction"], []).append(line["value"])
    return found


def environment(deploy: Path) -> dict[str, str]:
    """Return the environment variables that the Dockerfile sets."""
    pairs = " ".join(dockerfile(deploy)["ENV"]).split()
    return dict(pair.split("=", 1) for pair in pairs)


def hadolint_problems(deploy: Path) -> list[str]:
    """Return the complaints of hadolint about the Dockerfile."""
    command = [tool("hadolint"), "--no-color", str(deploy / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def dockerfile_problems(deploy: Path, repository: Path) -> list[str]:
    """Compare the Dockerfile with the command line and the files of the repository."""
    lines = dockerfile(deploy)
    problems = []
    if [json.loads(entry) for entry in lines["ENTRYPOINT"]] != [["plaudit"]]:
        problems.append("Dockerfile: the entry point is not plaudit")
    command = json.loads(lines["CMD"][-1])
    problems += command_problems(command, "Dockerfile: CMD")
    if problems:
        return problems
    health = json.loads(lines["HEALTHCHECK"][-1].partition("CMD")[2])
    problems += _url_problems(health, command, "Dockerfile: HEALTHCHECK")
    exposed = {int(port) for port in " ".join(lines["EXPOSE"]).split()}
    if exposed != {port_of(["serve"]), port_of(["learn"])}:
        problems.append(f"Dockerfile: EXPOSE {exposed} does not match the ports of serve and learn")
    sent = (deploy / "Dockerfile.dockerignore").read_text().splitlines()
    local = [copied.split()[:-1] for copied in lines["COPY"] if not copied.startswith("--from")]
    for source in (s for sources in local for s in sources):
        if not (repository / source).exists():
            problems.append(f"Dockerfile: COPY {source}: no such file")
        if f"!{source}" not in sent:
            problems.append(f"Dockerfile.dockerignore: {source} is not sent")
    if lines["USER"][-1].partition(":")[0] in ("", "0", "root"):
        problems.append("Dockerfile: the container runs as root")
    return problems


def _url_problems(health: list[str], command: list[str], where: str) -> list[str]:
    """Check that a health check requests a port and a path that the command serves."""
    found = _URL.search(" ".join(health))
    if found is None:
        return [f"{where}: it requests no address of its own container"]
    port, path = int(found[1]), found[2]
    problems = []
    if port != port_of(command):
        problems.append(f"{where}: port {port}, but the command listens on {port_of(command)}")
    if path not in routes_of(command):
        problems.append(f"{where}: {path} is no route of 'plaudit {command[0]}'")
    return problems


def compose_problems(deploy: Path) -> list[str]:
    """Check the Compose file against its schema, the command line and the other files."""
    compose = yaml.safe_load((deploy / "compose.yaml").read_text())
    schema = get_builtin_schema("vendor.compose-spec")
    errors = validator_for(schema)(schema).iter_errors(compose)
    problems = [f"compose.yaml: {e.json_path}: {e.message}" for e in errors]
    if problems:
        return problems
    services = compose["services"]
    for name, service in services.items():
        problems += _service_problems(name, service, services, deploy)
    builders = [name for name, service in services.items() if "build" in service]
    if len(builders) != 1:
        problems.append(f"compose.yaml: {builders} build one image at the same time")
    if problems:
        return problems
    mounted = {v.split(":")[0] for s in services.values() for v in s["volumes"]}
    named = {source for source in mounted if not source.startswith((".", "$"))}
    if named != set(compose["volumes"]):
        problems.append(f"compose.yaml: volumes {named ^ set(compose['volumes'])}")
    return problems + _target_problems(deploy, services)


def _service_problems(
    name: str, service: dict[str, Any], services: dict[str, Any], deploy: Path
) -> list[str]:
    where = f"compose.yaml: {name}"
    problems = []
    limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
    if set(limits) != {"memory"}:  # a limit of CPUs prevents starting on smaller machines
        problems.append(f"{where}: it limits {sorted(limits)}, not memory alone")
    sources = [v.split(":")[0] for v in service["volumes"] if v.startswith(".")]
    problems += [f"{where}: {s} does not exist" for s in sources if not (deploy / s).exists()]
    for other, needs in service.get("depends_on", {}).items():
        if needs["condition"] == "service_healthy" and "healthcheck" not in services[other]:
            problems.append(f"{where}: {other} has no health check")
    if not service["image"].startswith("plaudit:"):
        return problems
    if "build" not in service and service.get("pull_policy") != "never":
        problems.append(f"{where}: its image would be pulled, but is in no registry")
    command = service["command"]
    problems += command_problems(command, where)
    if problems:
        return problems
    homes = [v.split(":")[1] for v in service["volumes"] if v.startswith("home:")]
    if homes != [environment(deploy)["PLAUDIT_HOME"]]:
        problems.append(f"{where}: its home folder is mounted at {homes}")
    for published in service.get("ports", []):
        if int(published.split(":")[-1]) != port_of(command):
            problems.append(f"{where}: it does not listen on the port of {published}")
    health = service.get("healthcheck", {})
    if "test" in health:
        problems += _url_problems(health["test"], command, f"{where}: healthcheck")
    return problems


def _target_problems(deploy: Path, services: dict[str, Any]) -> list[str]:
    """Check that Prometheus scrapes the addresses that serving and learner listen on."""
    problems = []
    for file in sorted((deploy / "prometheus").glob("targets*/*.yml")):
        for target in (t for group in yaml.safe_load(file.read_text()) for t in group["targets"]):
            host, port = target.split(":")
            command = services[file.stem]["command"]
            right_host = file.stem if file.parent.name == "targets-compose" else "127.0.0.1"
            if (host, int(port)) != (right_host, port_of(command)):
                problems.append(f"{file.parent.name}/{file.name}: nothing listens on {target}")
    return problems
