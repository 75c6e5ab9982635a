"""What `.ci/kubernetes` calls: PROGRAM KUBECTL. Ends with 1 and all that was found."""

import pathlib
import re
import subprocess
import sys
import tempfile

import kubernetes_validate
import yaml

PROGRAM, KUBECTL = sys.argv[1:]
ROOT = pathlib.Path("deploy/kubernetes/overlays")
KUBERNETES = "1.34"
# Environment names that Kubernetes or a library reads, and those that only name a value for others.
# Folders below which `retort certs init` makes one for each of these.
ROLES = {"coordinator", "teacher", "student", "operator", "observer"}
FOREIGN = {"RAYON_NUM_THREADS", "OMP_NUM_THREADS", "RUST_LOG", "POD_IP", "INDEX"}
# Kinds whose schemas are not part of Kubernetes.
CUSTOM = {"ServiceMonitor", "PrometheusRule"}

problems = []


def run(*command):
    return subprocess.run(command, capture_output=True, text=True)


def containers(thing):
    template = thing.get("spec", {}).get("template", {}).get("spec", {})
    return template.get("containers", [])


def check_container(where, container):
    """Its command line is the program's, its environment is read, its ports are those that it opens or is told to open."""
    if container["image"].split(":")[0] != "retort":
        problems.append(f"{where}: image {container['image']}, expected retort")
    arguments = container["args"]
    # Whatever stands before --help is parsed first: an unknown flag or a wrong value is refused.
    parsed = run(PROGRAM, *arguments, "--help")
    if parsed.returncode != 0:
        problems.append(f"{where}: {' '.join(arguments)}: {parsed.stderr.strip()}")
        return
    help_text = parsed.stdout
    for variable in container.get("env", []):
        name = variable["name"]
        if name not in FOREIGN and f"[env: {name}=" not in help_text:
            problems.append(f"{where}: {name} is read by no flag of retort {arguments[0]}")
    opened = set(map(int, re.findall(r":(\d+)\]", help_text)))
    opened |= {int(p) for a in arguments for p in re.findall(r"^[\d.]+:(\d+)$", a)}
    declared = {port["containerPort"]: port.get("name") for port in container.get("ports", [])}
    # A kubelet's own gRPC probe speaks no TLS: the program asks, inside the pod.
    probes = []
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        command = container.get(kind, {}).get("exec", {}).get("command")
        if command is None:
            if kind in container:
                problems.append(f"{where}: {kind}: expected exec of retort health")
            continue
        asks = run(PROGRAM, *command[1:], "--help")
        if command[:2] != ["retort", "health"] or asks.returncode != 0:
            problems.append(f"{where}: {kind}: {' '.join(command)}: {asks.stderr.strip()}")
        probes.append(int(command[-1].rsplit(":", 1)[1]))
    for port in [*declared, *probes]:
        if port not in opened:
            problems.append(f"{where}: port {port}, expected one of {sorted(opened)}")


def check_credentials(where, thing):
    """Every container has the secret of a role, where the program looks for it."""
    template = thing.get("spec", {}).get("template", {}).get("spec", {})
    secrets = {v["name"]: v["secret"]["secretName"] for v in template.get("volumes", []) if "secret" in v}
    for container in containers(thing):
        environment = {e["name"]: e.get("value") for e in container.get("env", [])}
        mounts = {m["mountPath"]: m["name"] for m in container.get("volumeMounts", [])}
        secret = secrets.get(mounts.get(environment.get("RETORT_TLS")), "")
        if secret.removeprefix("retort-") not in ROLES or not secret.startswith("retort-"):
            problems.append(f"{where}: RETORT_TLS leads to {secret or 'no secret'}, expected retort-ROLE")
        if environment.get("RETORT_FLEET__COORDINATOR", "https://").split(":")[0] != "https":
            problems.append(f"{where}: the coordinator's address is not https://")


def check_services(where, things):
    """Every service and every network policy meets a declared port of the pods that it selects."""
    ports = {}
    for thing in things:
        labels = thing.get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {})
        for container in containers(thing):
            for port in container.get("ports", []):
                ports.setdefault(labels.get("app.kubernetes.io/component"), {})[port["containerPort"]] = port["name"]
    for thing in things:
        spec, name = thing.get("spec", {}), f"{where}: {thing['kind']} {thing['metadata']['name']}"
        if thing["kind"] == "Service":
            of = ports.get(spec["selector"]["app.kubernetes.io/component"], {})
            for port in spec["ports"]:
                if of.get(port["port"]) != port["targetPort"]:
                    problems.append(f"{name}: port {port['port']} to {port['targetPort']}, expected one of {of}")
        if thing["kind"] == "NetworkPolicy":
            of = ports.get(spec["podSelector"]["matchLabels"].get("app.kubernetes.io/component"), {})
            for rule in spec.get("ingress", []):
                for port in rule["ports"]:
                    if port["port"] not in of:
                        problems.append(f"{name}: port {port['port']}, expected one of {of}")


def check_metrics(where, thing):
    """Every name in a query is a metric of the program, or of a rule here."""
    known = set(re.findall(r"`(retort_[a-z_]+)`", pathlib.Path("docs/metrics.md").read_text()))
    rules = [r for g in thing["spec"].get("groups", []) for r in g["rules"]]
    known |= {rule["record"] for rule in rules if "record" in rule}
    for rule in rules:
        for name in set(re.findall(r"retort_[a-z_]+", rule["expr"])) - known:
            problems.append(f"{where}: {name} is no metric (docs/metrics.md)")
    return known


metrics = set()
scaled_by = []
for overlay in sorted(path.parent for path in ROOT.glob("*/kustomization.yaml")):
    built = run(KUBECTL, "kustomize", str(overlay))
    if built.returncode != 0:
        problems.append(f"{overlay}: {built.stderr.strip()}")
        continue
    things = [thing for thing in yaml.safe_load_all(built.stdout) if thing]
    for thing in things:
        where = f"{overlay.name}: {thing['kind']} {thing['metadata']['name']}"
        if thing["kind"] in CUSTOM:
            metrics |= check_metrics(where, thing)
            continue
        try:
            kubernetes_validate.validate(thing, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            problems.append(f"{where}: {'.'.join(map(str, error.path))}: {error.message}")
        for container in containers(thing):
            check_container(where, container)
        check_credentials(where, thing)
        for metric in thing.get("spec", {}).get("metrics", []):
            scaled_by.append((where, metric["external"]["metric"]["name"]))
        if thing["kind"] == "ConfigMap" and "job.toml" in thing.get("data", {}):
            with tempfile.TemporaryDirectory() as folder:
                job = pathlib.Path(folder) / "job.toml"
                # Devices of a cluster are not here.
                job.write_text(re.sub(r'^device = .*$', "", thing["data"]["job.toml"], flags=re.M))
                checked = run(PROGRAM, "check", str(job))
                if checked.returncode != 0:
                    problems.append(f"{where}: {checked.stdout}{checked.stderr}")
    check_services(overlay.name, things)
    print(f"{overlay}: {len(things)} objects")
for where, name in scaled_by:
    if name not in metrics:
        problems.append(f"{where}: metric {name} is made by no rule of overlays/monitoring")
for problem in problems:
    print(problem, file=sys.stderr)
sys.exit(1 if problems else 0)
