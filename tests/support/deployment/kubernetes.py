"""Checks of the rendered Kubernetes manifests: their schema, and how they refer to each other."""

import base64
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from learner.processes.machines import find_machines
from learner.settings import LearnerSettings
from tests.support.deployment.containers import dockerfile, environment
from tests.support.deployment.names import command_problems, port_of, routes_of, tool

VERSION = "1.37"
_COMPONENT = "app.kubernetes.io/component"
Manifest = dict[str, Any]


def render(folder: Path) -> list[Manifest]:
    """Return the manifests that `kubectl apply -k` would send.

    Raises:
        ValueError: kustomize cannot render them.

    """
    command = [tool("kubectl"), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr.strip())
    return list(yaml.safe_load_all(done.stdout))


def run_secrets(
    deploy: Path, given: dict[str, str], first: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the script that prints the Secrets, without a cluster.

    Args:
        deploy: Folder of the deployment files.
        given: Environment variables, beside the access keys.
        first: Folder with programs that take precedence.

    """
    environment = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"} | given
    folders = [first, Path(tool("kubectl")).parent, os.environ["PATH"]]
    environment["PATH"] = ":".join(str(folder) for folder in folders if folder)
    return subprocess.run(
        [deploy / "kubernetes" / "secrets.sh"],
        env={**os.environ, "KUBECONFIG": os.devnull, **environment},
        capture_output=True,
        check=False,
    )


def secrets(deploy: Path) -> list[Manifest]:
    """Return the manifests that the script prints: the namespace and its Secrets."""
    done = run_secrets(deploy, {})
    done.check_returncode()
    return list(yaml.safe_load_all(done.stdout))


def secret_value(manifests: list[Manifest], name: str, key: str) -> bytes:
    (found,) = (m for m in _all(manifests, "Secret") if m["metadata"]["name"] == name)
    return base64.b64decode(found["data"][key])


def problems(deploy: Path, overlay: str) -> list[str]:
    """Return the problems of an overlay's manifests."""
    try:
        manifests = render(deploy / "kubernetes" / overlay)
    except ValueError as error:
        return [f"kubernetes/{overlay}: {error}"]
    manifests += secrets(deploy)
    found = [p for m in manifests for p in _schema_problems(m)]
    if found:
        return found
    for workload in _all(manifests, "Deployment", "StatefulSet"):
        found += _pod_problems(workload, manifests, deploy)
    found += _training_problems(manifests)
    return found + _service_problems(manifests) + _rule_problems(manifests, deploy)


def _all(manifests: list[Manifest], *kinds: str) -> Iterator[Manifest]:
    return (m for m in manifests if m["kind"] in kinds)


def _where(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def _schema_problems(manifest: Manifest) -> list[str]:
    try:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{_where(manifest)}: {'.'.join(map(str, error.path))}: {error.message}"]
    return []


def _pod_problems(workload: Manifest, manifests: list[Manifest], deploy: Path) -> list[str]:
    where = _where(workload)
    pod = workload["spec"]["template"]["spec"]
    found = []
    if f"{pod['securityContext']['runAsUser']}" != dockerfile(deploy)["USER"][-1].split(":")[0]:
        found.append(f"{where}: not the user of the image")
    existing = {(m["kind"], m["metadata"]["name"]) for m in manifests}
    claims = workload["spec"].get("volumeClaimTemplates", [])
    volumes = {v["name"] for v in pod["volumes"]} | {c["metadata"]["name"] for c in claims}
    (config,) = (m["data"] for m in _all(manifests, "ConfigMap"))
    threads = {config["OMP_NUM_THREADS"], config["PLAUDIT_LEARNER_THREADS"]}
    secret_names = [v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v]
    found += [f"{where}: no Secret {s}" for s in secret_names if ("Secret", s) not in existing]
    claimed = [v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    for claim in (each["claimName"] for each in claimed):
        if ("PersistentVolumeClaim", claim) not in existing:
            found.append(f"{where}: no PersistentVolumeClaim {claim}")
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        found += _container_problems(f"{where}, {container['name']}", container, existing)
        if threads != {container["resources"]["requests"]["cpu"]}:
            found.append(f"{where}, {container['name']}: not the request's {threads} threads")
        mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
        if set(mounts) != volumes:
            found.append(f"{where}, {container['name']}: volumes {set(mounts) ^ volumes}")
        if mounts.get("home") != environment(deploy)["PLAUDIT_HOME"]:
            found.append(f"{where}, {container['name']}: its home folder is elsewhere")
    return found


def _training_problems(manifests: list[Manifest]) -> list[str]:
    """Check that as many machines train together as wait for each other, and where they meet."""
    (config,) = (m["data"] for m in _all(manifests, "ConfigMap"))
    if "PLAUDIT_LEARNER_NODES" not in config:
        return []
    trains = [
        w
        for w in _all(manifests, "StatefulSet")
        if w["spec"]["template"]["metadata"]["labels"].get(_COMPONENT) == "training"
    ]
    (leading,) = (w["metadata"]["name"] for w in trains if w["metadata"]["name"] == "learner")
    machines = LearnerSettings(
        nodes=int(config["PLAUDIT_LEARNER_NODES"]), rendezvous=config["PLAUDIT_LEARNER_RENDEZVOUS"]
    )
    found = []
    if sum(w["spec"]["replicas"] for w in trains) != machines.nodes:
        found.append(f"ConfigMap plaudit: not the {machines.nodes} replicas that train together")
    services = {s["metadata"]["name"] for s in _all(manifests, "Service")}
    host, _ = find_machines(machines, {}).address
    if host not in {f"{leading}-0.{service}" for service in services}:
        found.append(f"ConfigMap plaudit: no pod {host}")
    joins = [w["spec"]["template"]["spec"]["containers"][0]["args"] for w in trains]
    if sorted("--join" in args for args in joins) != [False, True]:
        found.append("not one learner leads, and the others join it")
    return found


def _container_problems(where: str, container: Any, existing: set[tuple[str, str]]) -> list[str]:
    if found := command_problems(container["args"], where):
        return found
    for source in container["envFrom"]:
        for kind, reference in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
            if reference in source and (kind, source[reference]["name"]) not in existing:
                found.append(f"{where}: no {kind} {source[reference]['name']}")
    ports = {p["name"]: p["containerPort"] for p in container.get("ports", [])}
    listens = port_of(container["args"])
    if set(ports.values()) != ({listens} - {None}):
        found.append(f"{where}: ports {ports}, but the command listens on {listens}")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        if probe not in container:
            continue
        request = container[probe]["httpGet"]
        if request["port"] not in ports:
            found.append(f"{where}: {probe}: no port {request['port']}")
        if request["path"] not in routes_of(container["args"]):
            found.append(f"{where}: {probe}: {request['path']} is no route")
    return found


def _pods(manifests: list[Manifest], labels: dict[str, str]) -> list[Manifest]:
    """Return the pod templates that match the labels of a selector."""
    templates = [w["spec"]["template"] for w in _all(manifests, "Deployment", "StatefulSet")]
    return [t for t in templates if labels.items() <= t["metadata"]["labels"].items()]


def _port_names(pods: list[Manifest]) -> set[str]:
    return {
        p["name"] for pod in pods for c in pod["spec"]["containers"] for p in c.get("ports", [])
    }


def _service_problems(manifests: list[Manifest]) -> list[str]:
    found = []
    for service in _all(manifests, "Service"):
        pods = _pods(manifests, service["spec"]["selector"])
        wanted = {p["targetPort"] for p in service["spec"]["ports"]}
        if len(pods) != 1 or not wanted <= _port_names(pods):
            found.append(f"{_where(service)}: no pod with ports {wanted}")
    for policy in _all(manifests, "NetworkPolicy"):
        pods = _pods(manifests, policy["spec"]["podSelector"].get("matchLabels", {}))
        ports = {p["port"] for i in policy["spec"].get("ingress", []) for p in i.get("ports", [])}
        if not pods or not ports <= _port_names(pods):
            found.append(f"{_where(policy)}: no pod with ports {ports}")
    found += _ingress_problems(manifests)
    budgets = _all(manifests, "PodDisruptionBudget")
    return found + [
        f"{_where(budget)}: it protects no pod"
        for budget in budgets
        if len(_pods(manifests, budget["spec"]["selector"]["matchLabels"])) != 1
    ]


def _ingress_problems(manifests: list[Manifest]) -> list[str]:
    """Check that an ingress sends requests to a port of a service that exists."""
    ports = {
        (s["metadata"]["name"], port["name"])
        for s in _all(manifests, "Service")
        for port in s["spec"]["ports"]
    }
    backends = (
        (ingress, path["backend"]["service"])
        for ingress in _all(manifests, "Ingress")
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    )
    return [
        f"{_where(ingress)}: no service {backend['name']} with port {backend['port']['name']}"
        for ingress, backend in backends
        if (backend["name"], backend["port"]["name"]) not in ports
    ]


def _rule_problems(manifests: list[Manifest], deploy: Path) -> list[str]:
    """Check the autoscaler's metric, and which containers Prometheus scrapes in the cluster."""
    found = []
    adapter = yaml.safe_load((deploy / "kubernetes" / "prometheus-adapter.yaml").read_text())
    metrics = {rule["name"]["as"] for rule in adapter["rules"]["custom"]}
    workloads = {(w["kind"], w["metadata"]["name"]): w for w in manifests}
    for scaler in _all(manifests, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        if "replicas" in workloads.get((target["kind"], target["name"]), scaler)["spec"]:
            found.append(f"{_where(scaler)}: its target sets replicas itself")
        if (target["kind"], target["name"]) not in workloads:
            found.append(f"{_where(scaler)}: no {target['kind']} {target['name']}")
        wanted = {m["pods"]["metric"]["name"] for m in scaler["spec"]["metrics"]}
        if not wanted <= metrics:
            found.append(f"{_where(scaler)}: the adapter has no rule for {wanted - metrics}")
    containers = {
        f"{c['name']};{p['name']}"
        for pod in _pods(manifests, {})
        for c in pod["spec"]["containers"]
        for p in c.get("ports", [])
    }
    scraped = yaml.safe_load((deploy / "prometheus" / "kubernetes.yml").read_text())
    wanted = {job["relabel_configs"][0]["regex"] for job in scraped["scrape_configs"]}
    if wanted != containers:
        found.append(f"prometheus/kubernetes.yml: {sorted(wanted ^ containers)}")
    return found
