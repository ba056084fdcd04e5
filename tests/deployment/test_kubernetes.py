"""What the Kubernetes manifests keep: watched, bounded, not root, read-only, secrets as files, the compose file's commands."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.deployment.stack import SERVICES
from tests.support.processes import ROOT

TEXT = (ROOT / "examples" / "kubernetes" / "rankalloc.yaml").read_text()
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all(TEXT))
PODS = {
    o["metadata"]["name"]: o["spec"]["template"]["spec"]
    for o in OBJECTS
    if o["kind"] in ("Job", "Deployment")
}


def test_every_service_of_ours_is_there_with_its_command() -> None:
    commands = {pod["containers"][0]["name"]: pod["containers"][0]["command"] for pod in PODS.values()}
    assert commands.keys() == {"migrate", "api", "worker"}
    assert commands["migrate"] == SERVICES["migrate"]["command"]
    assert commands["worker"] == SERVICES["worker"]["command"]
    assert commands["api"][:2] == SERVICES["api"]["command"][:2]


@pytest.mark.parametrize("name", PODS)
def test_a_pod_may_do_nothing_but_its_work(name: str) -> None:
    pod = PODS[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    rights = container["securityContext"]
    assert rights["readOnlyRootFilesystem"] is True
    assert rights["allowPrivilegeEscalation"] is False
    assert rights["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"]
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert not container["image"].endswith(":latest")
    assert ":" in container["image"]
    mounted = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert mounted["models"]["readOnly"]
    assert mounted["secrets"]["readOnly"]
    assert mounted.keys() == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("name", PODS)
def test_the_environment_is_the_compose_file_s_and_holds_no_secret(name: str) -> None:
    (container,) = PODS[name]["containers"]
    found = {each["name"]: each["value"] for each in container["env"]}
    assert found.keys() == SERVICES["migrate"]["environment"].keys()
    assert all(key.endswith("_FILE") for key in found if "URL" in key)


def test_what_lasts_is_watched_and_has_time_to_end() -> None:
    for name in ("rankalloc-api", "rankalloc-worker"):
        (container,) = PODS[name]["containers"]
        assert container["readinessProbe"]["exec"]["command"]
        assert container["livenessProbe"]["exec"]["command"]
        assert PODS[name]["terminationGracePeriodSeconds"] >= 30
    assert "readyz" in str(PODS["rankalloc-api"]["containers"][0]["readinessProbe"])
