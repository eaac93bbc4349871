"""The chart as Helm sees it: what it renders, what it refuses, and what must never change."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from steward_operator.adapters.startup import RIGHTS, SNAPSHOT_RIGHTS
from steward_operator.main import read_settings

from cluster import cache, local, tools

Json = dict[str, Any]
HERE = Path(__file__).parent
CHART = local.CHART
LOCAL_VALUES = cache.REPOSITORY / "cluster" / "values.yaml"


@pytest.fixture(scope="session")
def helm() -> Any:
    binary = tools.bin_directory() / "helm"
    local.chart_dependencies()

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([binary, *words], capture_output=True, text=True)

    return run


def render(helm: Any, *flags: str) -> str:
    result = helm("template", "hub", str(CHART), "--namespace", "hub", "--kube-version", "1.35.0", *flags)
    assert result.returncode == 0, result.stderr
    return str(result.stdout)


def objects(helm: Any, *flags: str) -> list[Json]:
    return [o for o in yaml.safe_load_all(render(helm, *flags)) if o]


def test_the_chart_passes_lint_without_a_warning(helm: Any) -> None:
    result = helm("lint", "--strict", str(CHART), "--values", str(LOCAL_VALUES))
    assert result.returncode == 0, result.stdout + result.stderr


def test_two_renders_are_the_same(helm: Any) -> None:
    assert render(helm) == render(helm)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--set", "hub.replicas=2"], "replicas"),
        (["--set", "singleuser.storag.capacity=1Gi"], "storag"),
        (["--set", "proxy.service.type=Nodeport"], "proxy"),
        (["--set", "singleuser.storage.volumes.Scratch.mountPath=/s"], "Scratch"),
        (["--set", "singleuser.storage.volumes.workspace.reset.backup=Maybe"], "backup"),
        (["--set", "singleuser.storage.type=magic"], "type"),
        (["--set", "hub.baseUrl=jupyter"], "baseUrl"),
        (["--set", "operator.minRestartInterval=-1"], "minRestartInterval"),
        (["--set", "hub.config.jupyterhub.x=1"], "jupyterhub"),
    ],
)
def test_a_bad_value_is_refused_by_its_name(helm: Any, flags: list[str], words: str) -> None:
    result = helm("template", "hub", str(CHART), *flags)
    assert result.returncode != 0
    assert words in result.stderr


def test_no_keyword_of_the_schema_is_the_rest_of_a_sentence() -> None:
    """A comma in a description that is not quoted makes one; validators pass over what they do not know."""

    def walk(node: Any) -> None:
        for keyword, value in node.items():
            assert value is not None, keyword
            if isinstance(value, dict) and keyword not in ("default", "examples"):
                walk(value)

    walk(json.loads((CHART / "values.schema.json").read_text()))


def test_the_schema_is_closed_and_covers_every_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema == yaml.safe_load((CHART / "values.schema.yaml").read_text()), "run make generate"
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def walk(part: Json, value: Any, path: str) -> None:
        if not isinstance(value, dict) or "properties" not in part:
            return
        assert part.get("additionalProperties") is not None, f"{path} is open"
        for key, inner in value.items():
            known = part["properties"].get(key) or part["additionalProperties"]
            assert known, f"{path}.{key} is not in the schema"
            if isinstance(known, dict):
                assert "description" in known or "$ref" in known, f"{path}.{key} has no description"
                walk(known, inner, f"{path}.{key}")

    walk(schema, values, "values")


def test_selectors_are_z2jhs_and_never_change(helm: Any) -> None:
    """A Deployment's selector is immutable: a change here breaks every installed release."""
    selectors = {}
    for item in objects(helm):
        if item["kind"] == "Deployment":
            selectors[item["metadata"]["name"]] = item["spec"]["selector"]["matchLabels"]
        if item["kind"] == "Service":
            selectors[f"service/{item['metadata']['name']}"] = item["spec"]["selector"]
    assert selectors == json.loads((HERE / "selectors.golden.json").read_text())


def test_every_pod_is_fit_for_the_restricted_standard(helm: Any) -> None:
    for item in objects(helm):
        template = item["spec"].get("template") if item["kind"] in ("Deployment", "Job") else None
        spec = template["spec"] if template else item["spec"] if item["kind"] == "Pod" else None
        if not spec:
            continue
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            context = container["securityContext"]
            assert not context["allowPrivilegeEscalation"]
            assert context["readOnlyRootFilesystem"]
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_every_component_has_labels_of_both_families(helm: Any) -> None:
    for item in objects(helm):
        if item["kind"] == "CustomResourceDefinition":
            continue
        labels = item["metadata"]["labels"]
        for key in ("app", "release", "component", "chart", "app.kubernetes.io/name", "app.kubernetes.io/instance"):
            assert key in labels, (item["kind"], item["metadata"]["name"], key)
        assert labels["helm.sh/chart"].startswith("jupyterhub-")


def test_what_users_made_is_kept_on_uninstall(helm: Any) -> None:
    kept = {
        item["metadata"]["name"]
        for item in objects(helm)
        if item["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    assert kept == {"hub-db-dir", "volumeresets.hubsteward.io", "serverrestarts.hubsteward.io"}


def test_another_path_and_servers_without_volumes_can_be_had(helm: Any) -> None:
    rendered = objects(helm, "--set", "hub.baseUrl=/jupyter/", "--set", "singleuser.storage.type=none")
    (operator,) = [o for o in rendered if o["kind"] == "Deployment" and o["metadata"]["name"] == "operator"]
    assert "--hub-url=http://hub:8081/jupyter/hub/api" in operator["spec"]["template"]["spec"]["containers"][0]["args"]
    (config,) = [o for o in rendered if o["kind"] == "ConfigMap" and o["metadata"]["name"] == "operator"]
    assert json.loads(config["data"]["config.json"])["storage"] == {}


def test_cluster_scoped_objects_can_be_left_out(helm: Any) -> None:
    kinds = {item["kind"] for item in objects(helm, "--set", "rbac.clusterScoped=false", "--set", "crds.install=false")}
    assert not kinds & {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ClusterRole",
                        "ClusterRoleBinding", "CustomResourceDefinition"}  # fmt: skip


def test_the_clusters_own_view_and_edit_roles_get_the_requests(helm: Any) -> None:
    roles = {item["metadata"]["name"]: item for item in objects(helm) if item["kind"] == "ClusterRole"}
    gained: dict[str, set[str]] = {}
    for name, role in roles.items():
        for label, value in (role["metadata"].get("labels") or {}).items():
            if label.startswith("rbac.authorization.k8s.io/aggregate-to-") and value == "true":
                verbs = {verb for rule in role["rules"] for verb in rule["verbs"]}
                gained[label.rsplit("-", 1)[1]] = verbs
                assert {r for rule in role["rules"] for r in rule["resources"]} >= {"volumeresets", "serverrestarts"}, (
                    name
                )
    assert gained["view"] == {"get", "list", "watch"}
    assert {"create", "delete", "patch"} <= gained["edit"]


def test_every_generated_value_can_be_brought_along(helm: Any) -> None:
    names = ["cookieSecret", "proxyToken", "operatorToken", "adminPassword", "userPassword"]
    flags = [word for name in names for word in ("--set", f"secrets.{name}.existingSecret=mine-{name.lower()}")]
    rendered = objects(helm, *flags, "--set", "secrets.userPassword.enabled=true")
    assert [item["metadata"]["name"] for item in rendered if item["kind"] == "Job"] == ["hubsteward-uninstall"]
    text = json.dumps(rendered)
    assert "hubsteward-cookie-secret" not in text
    assert all(f"mine-{name.lower()}" in text for name in names)


def test_copies_run_as_the_owner_of_the_labs_files_in_the_operators_image(helm: Any) -> None:
    flags = ["--set", "singleuser.uid=4000", "--set", "singleuser.fsGid=5000", "--set", "operator.image.tag=t1",
             "--set", "imagePullSecrets={mine}", "--set", "operator.backups.keepLast=7"]  # fmt: skip
    rendered = objects(helm, *flags)
    (config,) = [o for o in rendered if o["kind"] == "ConfigMap" and o["metadata"]["name"] == "operator"]
    copying = read_settings(json.loads(config["data"]["config.json"])["settings"]).copying
    assert (copying.uid, copying.fs_gid, copying.image, copying.keep_last) == (4000, 5000, "hub-steward/operator:t1", 7)
    assert copying.pull_secrets == ("mine",)
    assert copying.labels["release"] == "hub"
    (policy,) = [o for o in rendered if o["metadata"]["name"].endswith("operator-jobs") and "Binding" not in o["kind"]]
    # By its repository: while a release is upgraded, the operator of the last one is still at work.
    assert "startsWith('hub-steward/operator:')" in json.dumps(policy)


def test_the_standby_is_as_many_as_are_asked_for(helm: Any) -> None:
    for count in (1, 3):
        rendered = objects(helm, "--set", f"operator.replicas={count}")
        (operator,) = [o for o in rendered if o["kind"] == "Deployment" and o["metadata"]["name"] == "operator"]
        assert operator["spec"]["replicas"] == count
        assert any(o["kind"] == "PodDisruptionBudget" for o in rendered) == (count > 1)


def test_no_account_can_be_claimed_on_a_fresh_install(helm: Any) -> None:
    """Only the admin, whose password is made at install time; nobody else may log in, and nobody can sign up."""
    (secret,) = [o for o in objects(helm) if o["kind"] == "Secret" and o["metadata"]["name"] == "hub"]
    config = json.loads(secret["stringData"]["values.json"])["hub"]["config"]
    assert config["JupyterHub"]["authenticator_class"] == "shared-password"
    assert config["Authenticator"] == {"admin_users": ["admin"]}
    (hub,) = [o for o in objects(helm) if o["kind"] == "Deployment" and o["metadata"]["name"] == "hub"]
    variables = {e["name"] for e in hub["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert "STEWARD_ADMIN_PASSWORD" in variables
    assert "STEWARD_USER_PASSWORD" not in variables


def test_labs_cannot_reach_the_operator_and_each_policy_names_who_may(helm: Any) -> None:
    policies = {o["metadata"]["name"]: o["spec"] for o in objects(helm) if o["kind"] == "NetworkPolicy"}
    assert policies["operator"]["ingress"] == []
    (rule,) = policies["singleuser"]["ingress"]
    assert rule["from"][0]["podSelector"]["matchLabels"] == {"hub.jupyter.org/network-access-singleuser": "true"}
    assert (policies["volume-copy"]["ingress"], policies["volume-copy"]["egress"]) == ([], [])
    reached = [to for rule in policies["singleuser"]["egress"] for to in rule.get("to", [])]
    assert all(to.get("podSelector", {}).get("matchLabels", {}).get("component") != "operator" for to in reached)
    (block,) = [to["ipBlock"] for to in reached if "ipBlock" in to]
    assert "169.254.169.254/32" in block["except"]


def test_the_operator_asks_at_its_start_for_every_right_of_its_role(helm: Any) -> None:
    on = ("--set", "operator.backups.snapshots.enabled=true")
    (role,) = [o for o in objects(helm, *on) if o["kind"] == "Role" and o["metadata"]["name"] == "operator"]
    given = set()
    for rule in role["rules"]:
        for resource in rule["resources"]:
            main, _, sub = resource.partition("/")
            for name in rule.get("resourceNames", [""]):
                given |= {(verb, rule["apiGroups"][0], main, sub, name) for verb in rule["verbs"]}
    asked = {(verb, *what) for what, verbs in {**RIGHTS, **SNAPSHOT_RIGHTS}.items() for verb in verbs}
    assert asked == given


def test_snapshots_are_off_and_their_rights_come_with_them(helm: Any) -> None:
    def about(*flags: str) -> dict[str, list[str]]:
        """Verbs on snapshots by Role."""
        rules = {o["metadata"]["name"]: o["rules"] for o in objects(helm, *flags) if o["kind"] == "Role"}
        found = {name: [v for r in given if "volumesnapshots" in r["resources"] for v in r["verbs"]]
                 for name, given in rules.items()}  # fmt: skip
        return {name: verbs for name, verbs in found.items() if verbs}

    assert about() == {}
    on = ("--set", "operator.backups.snapshots.enabled=true", "--set", "operator.backups.snapshots.className=fast")
    assert about(*on) == {"operator": ["list", "create", "delete", "patch"], "hub": ["list", "delete"]}
    rendered = objects(helm, *on)
    (config,) = [o for o in rendered if o["kind"] == "ConfigMap" and o["metadata"]["name"] == "operator"]
    settings = read_settings(json.loads(config["data"]["config.json"])["settings"])
    assert (settings.snapshots.enabled, settings.snapshots.class_name) == (True, "fast")
    policies = [o["metadata"]["name"] for o in rendered if o["kind"] == "ValidatingAdmissionPolicy"]
    assert any(name.endswith("operator-snapshots") for name in policies)
    by_volume = ("--set", "singleuser.storage.volumes.home.reset.backup=Snapshot")
    refused = helm("template", "hub", str(CHART), "--namespace", "hub", *by_volume)
    assert refused.returncode != 0
    assert "set operator.backups.snapshots.enabled=true" in refused.stderr
    assert render(helm, *on, *by_volume)
