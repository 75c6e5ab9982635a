"""What `.ci/kubernetes` calls: PROGRAM KUBECTL. Ends with 1 and all that was found."""

import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib

import kubernetes_validate
import yaml

PROGRAM, KUBECTL = sys.argv[1:]
ROOT = pathlib.Path("deploy/kubernetes/overlays")
KUBERNETES = "1.34"
# What a process is certified as: `retort certs init` makes a folder for each.
ROLES = {"coordinator": "coordinator", "teacher-server": "teacher", "student-worker": "student", "submit": "operator"}
# Environment names that a library reads, and those that only name a value for others.
FOREIGN = {"RAYON_NUM_THREADS", "OMP_NUM_THREADS", "RUST_LOG", "RETORT_DATA__CACHE", "TMPDIR", "POD_IP", "INDEX", "JOB"}
# Kinds whose schemas are not part of Kubernetes.
CUSTOM = {"ServiceMonitor", "PrometheusRule"}

problems = []


def run(*command):
    return subprocess.run(command, capture_output=True, text=True)


def template(thing):
    return thing.get("spec", {}).get("template", {})


def containers(thing):
    return template(thing).get("spec", {}).get("containers", [])


def environment(container):
    return {variable["name"]: variable.get("value", "") for variable in container.get("env", [])}


def opened(container, help_text):
    """The ports that it opens by flag: as its arguments say, or its environment, or the program by default."""
    given, ports = dict(zip(container["args"], container["args"][1:])), {}
    flags = r"(--listen|--http) <.*?\[env: (\w+)=[^\]]*\](?: \[default: (\S+)\])?"
    for flag, variable, default in re.findall(flags, help_text, re.S):
        if address := given.get(flag) or environment(container).get(variable) or default:
            ports[flag] = int(address.rsplit(":", 1)[1])
    return ports


def check_container(where, container):
    """Its command line is the program's, its environment is read, its ports are those that it opens."""
    if container["image"].split(":")[0] != "retort":
        problems.append(f"{where}: image {container['image']}, expected retort")
    arguments = container["args"]
    # Whatever stands before --help is parsed first: an unknown flag or a wrong value is refused.
    parsed = run(PROGRAM, *arguments, "--help")
    if parsed.returncode != 0:
        problems.append(f"{where}: {' '.join(arguments)}: {parsed.stderr.strip()}")
        return
    for name in environment(container):
        if name not in FOREIGN and f"[env: {name}=" not in parsed.stdout:
            problems.append(f"{where}: {name} is read by no flag of retort {arguments[0]}")
    ports = opened(container, parsed.stdout)
    declared = {port["containerPort"] for port in container.get("ports", [])}
    if declared != set(ports.values()):
        problems.append(f"{where}: ports {sorted(declared)}, expected {sorted(ports.values())}")
    # A kubelet's own gRPC probe speaks no TLS: the program asks, inside the pod.
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        if kind not in container:
            continue
        command = container[kind].get("exec", {}).get("command", [])
        if command != ["retort", "health", f"https://127.0.0.1:{ports.get('--listen')}"]:
            problems.append(f"{where}: {kind}: {' '.join(command)}, expected retort health of port {ports.get('--listen')}")
        elif (asks := run(PROGRAM, *command[1:], "--help")).returncode != 0:
            problems.append(f"{where}: {kind}: {asks.stderr.strip()}")


def check_credentials(where, thing):
    """Every container has the secret of its own role, where the program looks for it."""
    volumes = template(thing).get("spec", {}).get("volumes", [])
    secrets = {v["name"]: v["secret"]["secretName"] for v in volumes if "secret" in v}
    for container in containers(thing):
        variables = environment(container)
        mounts = {m["mountPath"]: m["name"] for m in container.get("volumeMounts", [])}
        secret = secrets.get(mounts.get(variables.get("RETORT_TLS")))
        expected = f"retort-{ROLES[container['args'][0]]}"
        if secret != expected:
            problems.append(f"{where}: RETORT_TLS leads to {secret}, expected {expected}")
        if variables.get("RETORT_FLEET__COORDINATOR", "https://").split(":")[0] != "https":
            problems.append(f"{where}: the coordinator's address is not https://")


def check_references(where, things):
    """Whatever selects pods selects some, by ports that they declare; what is scaled is there, and says no number itself."""
    pods = []
    for thing in filter(containers, things):
        ports = {port["containerPort"]: port["name"] for c in containers(thing) for port in c.get("ports", [])}
        pods.append((template(thing)["metadata"]["labels"].items(), ports))

    for thing in things:
        spec, name = thing.get("spec", {}), f"{where}: {thing['kind']} {thing['metadata']['name']}"

        def ports_of(labels):
            found = [ports for of, ports in pods if labels.items() <= of]
            if not found:
                problems.append(f"{name}: no pod has {labels}")
            return {port: called for ports in found for port, called in ports.items()}

        match thing["kind"]:
            case "Service":
                of = ports_of(spec["selector"])
                for port in spec["ports"]:
                    if of.get(port["port"]) != port["targetPort"]:
                        problems.append(f"{name}: port {port['port']} to {port['targetPort']}, expected one of {of}")
            case "NetworkPolicy":
                of = ports_of(spec["podSelector"]["matchLabels"])
                for rule in spec.get("ingress", []):
                    for peer in rule.get("from", []):
                        ports_of(peer["podSelector"]["matchLabels"])
                    for port in rule["ports"]:
                        if port["port"] not in of:
                            problems.append(f"{name}: port {port['port']}, expected one of {of}")
            case "PodDisruptionBudget":
                ports_of(spec["selector"]["matchLabels"])
            case "HorizontalPodAutoscaler":
                target = spec["scaleTargetRef"]
                found = [t for t in things if (t["kind"], t["metadata"]["name"]) == (target["kind"], target["name"])]
                if not found:
                    problems.append(f"{name}: there is no {target['kind']} {target['name']}")
                elif "replicas" in found[0]["spec"]:
                    problems.append(f"{name}: {target['kind']} {target['name']} has replicas, which each apply would set again")


def check_job(where, text, things):
    """The job can start, and each of its parts has a student worker."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "job.toml"
        # Devices of a cluster are not here.
        path.write_text(re.sub(r'^device = .*$', "", text, flags=re.M))
        checked = run(PROGRAM, "check", str(path))
    if checked.returncode != 0:
        problems.append(f"{where}: {checked.stdout}{checked.stderr}")
        return
    job = tomllib.loads(text)
    students = job["students"]
    parts = [1 for t in job.get("teachers", []) if t["source"]["kind"] == "trained"]
    parts += [s.get("replicas", 1) for s in students]
    parts += [s.get("replicas", 1) for s in students if s.get("teachers") and job["run"].get("baseline")]
    for thing in things:
        if thing["kind"] == "Job" and thing["metadata"]["name"] == "student-worker":
            pods = thing["spec"]["completions"], thing["spec"]["parallelism"]
            if pods != (sum(parts), sum(parts)):
                problems.append(f"{where}: completions and parallelism of student-worker {pods}, expected {sum(parts)}")


def check_rules(where, thing):
    """Every name in a query is a metric of the program, or of a rule here. Gives the names of the latter."""
    rules = [r for g in thing["spec"].get("groups", []) for r in g["rules"]]
    made = {rule["record"] for rule in rules if "record" in rule}
    known = made | set(re.findall(r"`(retort_[a-z_]+)`", pathlib.Path("docs/metrics.md").read_text()))
    for rule in rules:
        for name in set(re.findall(r"retort_[a-z_]+", rule["expr"])) - known:
            problems.append(f"{where}: {name} is no metric (docs/metrics.md)")
    return made


made = set()
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
            made |= check_rules(where, thing)
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
            check_job(where, thing["data"]["job.toml"], things)
    check_references(overlay.name, things)
    print(f"{overlay}: {len(things)} objects")
for where, name in scaled_by:
    if name not in made:
        problems.append(f"{where}: metric {name} is made by no rule of overlays/monitoring")
for problem in problems:
    print(problem, file=sys.stderr)
sys.exit(1 if problems else 0)
