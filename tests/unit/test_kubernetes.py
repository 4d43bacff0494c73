# SPDX-License-Identifier: Apache-2.0
"""The manifest for Kubernetes: its form, and that the daemon and its exporter get what they need.

That it suffices is tried in tests/integration/test_container.py.
"""

import re
from pathlib import Path
from typing import Any

import pytest
from cowdaemon import __version__
from cowdaemon.listener import DEFAULT_PATH
from cowdaemon.system.privileges import Capability

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "packaging" / "kubernetes" / "cowd.yaml"
DOCKERFILE = MANIFEST.with_name("Dockerfile")
OLDEST = "1.30"
"""The first with appArmorProfile and, known to it, hostUsers."""
pytestmark = pytest.mark.pypi


def read_objects() -> dict[str, Any]:
    """Return the manifest's objects by kind."""
    import yaml

    objects = list(yaml.safe_load_all(MANIFEST.read_text()))
    by_kind = {one["kind"]: one for one in objects}
    assert len(by_kind) == len(objects)
    return by_kind


def read_pod() -> dict[str, Any]:
    """Return what a node is to run."""
    pod: dict[str, Any] = read_objects()["DaemonSet"]["spec"]["template"]["spec"]
    return pod


def read_containers() -> dict[str, Any]:
    """Return the containers by name."""
    return {container["name"]: container for container in read_pod()["containers"]}


def test_kubernetes_takes_it() -> None:
    """By the schemas of the oldest release that it is for, and of the newest known; no key more."""
    import kubernetes_validate

    for version in (OLDEST, kubernetes_validate.latest_version()):
        for described in read_objects().values():
            kubernetes_validate.validate(described, version, strict=True)


def test_pods_have_the_nodes_pids_and_users() -> None:
    """Else cowd refuses the exporter, sees no processes, or no frame numbers."""
    pod = read_pod()
    assert (pod["hostPID"], pod["hostUsers"]) == (True, True)
    assert not pod.get("hostNetwork")
    assert not pod["automountServiceAccountToken"]


def test_cowd_has_five_capabilities_and_is_not_privileged() -> None:
    context = read_containers()["cowd"]["securityContext"]
    assert context["capabilities"]["drop"] == ["ALL"]
    assert set(context["capabilities"]["add"]) == {capability.name for capability in Capability}
    assert context["runAsUser"] == 0
    assert context["privileged"] is False
    assert context["readOnlyRootFilesystem"]
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    # Kubernetes says that it cannot be false with SYS_ADMIN.
    assert "allowPrivilegeEscalation" not in context
    # The engine's profile would forbid every look at a process outside of the container.
    assert context["appArmorProfile"] == {"type": "Unconfined"}


def test_exporter_is_an_ordinary_user_without_rights() -> None:
    """It meets what Kubernetes calls restricted."""
    context = read_containers()["exporter"]["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["runAsNonRoot"]
    assert context["privileged"] is False
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"]
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "appArmorProfile" not in context


def test_exporter_has_ids_that_the_image_gives_to_its_user_and_the_granted_group() -> None:
    added = dict(re.findall(r"groupadd --gid (\d+) ([a-z-]+)", DOCKERFILE.read_text()))
    ids = {name: int(number) for number, name in added.items()}
    users = re.findall(r"useradd --uid (\d+) --gid (\d+)", DOCKERFILE.read_text())
    context = read_containers()["exporter"]["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (
        ids["cowd-exporter"],
        ids["cowd-monitor"],
    )
    assert {(int(uid), int(gid)) for uid, gid in users} == {
        (ids["cowd"], ids["cowd"]),
        (ids["cowd-exporter"], ids["cowd-exporter"]),
    }


def test_containers_share_the_folder_of_the_socket() -> None:
    """The folder, not the socket, which every cowd makes anew; the exporter only connects."""
    mounts = {
        name: {mount["name"]: mount for mount in container["volumeMounts"]}
        for name, container in read_containers().items()
    }
    volumes = {volume["name"]: volume for volume in read_pod()["volumes"]}
    assert volumes["socket"]["hostPath"]["path"] == str(DEFAULT_PATH.parent)
    for mounted in mounts.values():
        assert mounted["socket"]["mountPath"] == str(DEFAULT_PATH.parent)
        assert "subPath" not in mounted["socket"]
    assert mounts["exporter"]["socket"]["readOnly"]
    assert "readOnly" not in mounts["cowd"]["socket"]


def test_old_cowd_leaves_before_the_new_one_comes() -> None:
    """There is one socket."""
    assert read_objects()["DaemonSet"]["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] == 0


def test_prometheus_alone_reaches_the_port() -> None:
    """And no other one; from the pod, nothing is reached."""
    policy = read_objects()["NetworkPolicy"]["spec"]
    [rule] = policy["ingress"]
    [exposed] = read_containers()["exporter"]["ports"]
    assert rule["ports"] == [{"port": exposed["containerPort"]}]
    assert [*rule["from"][0]] == ["namespaceSelector"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy
    labels = read_objects()["DaemonSet"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()


def test_versions_are_ours() -> None:
    images = {container["image"] for container in read_containers().values()}
    assert images == {f"cowd:{__version__}"}
    assert f"docker build --tag cowd:{__version__} " in DOCKERFILE.read_text()
    labels = read_objects()["DaemonSet"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/version"] == __version__


def test_port_is_the_one_that_is_scraped() -> None:
    exporter = read_containers()["exporter"]
    [port] = exporter["ports"]
    annotations = read_objects()["DaemonSet"]["spec"]["template"]["metadata"]["annotations"]
    assert exporter["command"][-1] == f"0.0.0.0:{port['containerPort']}"
    assert annotations["prometheus.io/port"] == str(port["containerPort"])
