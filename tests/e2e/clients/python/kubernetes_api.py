"""The official Python client, unmodified, against a Windlass: python -B kubernetes_api.py KUBECONFIG NAMESPACE IMAGE.

Each check prints `ok NAME`; the first that fails ends the program with its traceback.
"""

import datetime
import sys

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock
from kubernetes.stream import portforward, stream

from checks import LIMIT, run, until

kubeconfig, namespace, image = sys.argv[1:4]
api_client = config.new_client_from_config(kubeconfig)
core = client.CoreV1Api(api_client)
apps = client.AppsV1Api(api_client)


def fails_with(code, reason, call):
    try:
        call()
    except ApiException as error:
        assert error.status == code, (error.status, error.body)
        assert f'"reason":"{reason}"' in error.body.replace('": "', '":"'), error.body
        return error
    raise AssertionError(f"{code} {reason} was expected")


def config_map(name, **data):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels={"from": "python"}), data=data)


def pod(name, *command):
    container = client.V1Container(name="main", image=image, command=list(command), image_pull_policy="Never")
    spec = client.V1PodSpec(containers=[container], termination_grace_period_seconds=0)
    return client.V1Pod(metadata=client.V1ObjectMeta(name=name), spec=spec)


def typed_objects_are_created_read_replaced_patched_and_deleted():
    made = core.create_namespaced_config_map(namespace, config_map("one", a="1"))
    assert made.metadata.uid and made.metadata.creation_timestamp <= datetime.datetime.now(datetime.timezone.utc)
    fails_with(409, "AlreadyExists", lambda: core.create_namespaced_config_map(namespace, config_map("one")))
    made.data = {"a": "2"}
    replaced = core.replace_namespaced_config_map("one", namespace, made)
    fails_with(409, "Conflict", lambda: core.replace_namespaced_config_map("one", namespace, made))
    patched = core.patch_namespaced_config_map("one", namespace, {"data": {"b": "3"}})
    assert patched.data == {"a": "2", "b": "3"}
    assert patched.metadata.resource_version != replaced.metadata.resource_version
    core.delete_namespaced_config_map("one", namespace)
    fails_with(404, "NotFound", lambda: core.read_namespaced_config_map("one", namespace))


def lists_come_in_pages_and_by_selector():
    for n in range(5):
        core.create_namespaced_config_map(namespace, config_map(f"page-{n}", n=str(n)))
    names, token = [], None
    while True:
        page = core.list_namespaced_config_map(namespace, label_selector="from=python", limit=2, _continue=token)
        assert len(page.items) <= 2
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert names == [f"page-{n}" for n in range(5)], names
    one = core.list_namespaced_config_map(namespace, field_selector="metadata.name=page-3")
    assert [item.data for item in one.items] == [{"n": "3"}]
    core.delete_collection_namespaced_config_map(namespace, label_selector="from=python")
    assert not core.list_namespaced_config_map(namespace, label_selector="from=python").items


def a_watch_tells_every_change_in_order():
    start = core.list_namespaced_config_map(namespace).metadata.resource_version
    core.create_namespaced_config_map(namespace, config_map("watched", n="0"))
    for n in range(1, 4):
        core.patch_namespaced_config_map("watched", namespace, {"data": {"n": str(n)}})
    core.delete_namespaced_config_map("watched", namespace)
    seen, watcher = [], watch.Watch()
    events = watcher.stream(
        core.list_namespaced_config_map, namespace, resource_version=start, label_selector="from=python",
        timeout_seconds=LIMIT,
    )
    for event in events:
        seen.append((event["type"], event["object"].data["n"]))
        if event["type"] == "DELETED":
            watcher.stop()
    assert seen == [("ADDED", "0"), ("MODIFIED", "1"), ("MODIFIED", "2"), ("MODIFIED", "3"), ("DELETED", "3")], seen


def invalid_objects_are_refused_with_the_field():
    bad = pod("Bad_Name", "true")
    error = fails_with(422, "Invalid", lambda: core.create_namespaced_pod(namespace, bad))
    assert "metadata.name" in error.body


def the_dynamic_client_defines_a_kind_and_applies_objects_of_it():
    dyn = dynamic.DynamicClient(api_client)
    group = f"{namespace}.python.example.com"
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"widgets.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [{
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": {"type": "object", "properties": {"size": {"type": "integer", "minimum": 1}}},
                        "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
                    },
                }},
            }],
        },
    }
    definitions = dyn.resources.get(api_version="apiextensions.k8s.io/v1", kind="CustomResourceDefinition")
    definitions.create(body=definition)

    def established():
        conditions = definitions.get(name=f"widgets.{group}").to_dict().get("status", {}).get("conditions", [])
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

    until("the definition is established", established)
    dyn.resources.invalidate_cache()
    widgets = dyn.resources.get(api_version=f"{group}/v1", kind="Widget")
    body = {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 3}}
    applied = dyn.server_side_apply(widgets, body=body, name="w", namespace=namespace, field_manager="python")
    assert applied.spec.size == 3 and applied.metadata.managedFields[0].manager == "python"
    body["spec"]["size"] = 0
    fails_with(422, "Invalid", lambda: dyn.server_side_apply(
        widgets, body=body, name="w", namespace=namespace, field_manager="python"))
    body["spec"]["size"] = 4
    fails_with(409, "Conflict", lambda: dyn.server_side_apply(
        widgets, body=body, name="w", namespace=namespace, field_manager="other"))
    status = {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": "w"}, "status": {"phase": "Done"}}
    patched = widgets.status.patch(
        body=status, name="w", namespace=namespace, content_type="application/merge-patch+json")
    assert patched.status.phase == "Done" and patched.spec.size == 3
    events = [(e["type"], e["object"].metadata.name) for e in widgets.watch(namespace=namespace, timeout=2)]
    assert events == [("ADDED", "w")], events
    widgets.delete(name="w", namespace=namespace)
    definitions.delete(name=f"widgets.{group}")


def a_deployment_is_rolled_out_and_scaled():
    labels = {"app": "python"}
    container = client.V1Container(name="main", image=image, command=["sleep", "3600"], image_pull_policy="Never")
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels=labels),
        spec=client.V1PodSpec(containers=[container], termination_grace_period_seconds=0))
    spec = client.V1DeploymentSpec(replicas=1, selector=client.V1LabelSelector(match_labels=labels), template=template)
    apps.create_namespaced_deployment(
        namespace, client.V1Deployment(metadata=client.V1ObjectMeta(name="python"), spec=spec))

    def available(n):
        return apps.read_namespaced_deployment_status("python", namespace).status.available_replicas == n

    until("one replica is available", lambda: available(1))
    apps.patch_namespaced_deployment_scale("python", namespace, {"spec": {"replicas": 2}})
    until("two replicas are available", lambda: available(2))
    apps.delete_namespaced_deployment("python", namespace, propagation_policy="Foreground")
    until("the Deployment is gone with its Pods", lambda: not core.list_namespaced_pod(
        namespace, label_selector="app=python").items)


def logs_exec_and_port_forward_reach_the_container():
    script = "echo began; mkdir -p /www; echo hello > /www/index.html; httpd -f -p 8080 -h /www"
    core.create_namespaced_pod(namespace, pod("streams", "sh", "-c", script))
    until("the pod runs", lambda: core.read_namespaced_pod("streams", namespace).status.phase == "Running")
    until("its log is there", lambda: core.read_namespaced_pod_log("streams", namespace) == "began\n")
    say = ["sh", "-c", "cat; echo err >&2; exit 3"]
    session = stream(core.connect_get_namespaced_pod_exec, "streams", namespace, command=["cat"], stdin=True,
                     stdout=True, stderr=True, tty=False, _preload_content=False)
    session.write_stdin("typed\n")
    assert session.readline_stdout(timeout=LIMIT) == "typed"
    session.close()
    session = stream(core.connect_get_namespaced_pod_exec, "streams", namespace, command=say, stdin=False,
                     stdout=True, stderr=True, tty=False, _preload_content=False)
    session.run_forever(timeout=LIMIT)
    assert session.read_stderr() == "err\n" and session.returncode == 3

    def page():
        forward = portforward(core.connect_get_namespaced_pod_portforward, "streams", namespace, ports="8080")
        socket = forward.socket(8080)
        socket.settimeout(LIMIT)
        socket.sendall(b"GET / HTTP/1.0\r\n\r\n")
        text = b""
        while piece := socket.recv(4096):
            text += piece
        return text if text else None

    assert b"hello" in until("the page comes through the forwarded port", page)
    core.delete_namespaced_pod("streams", namespace)


def of_two_candidates_one_leads_and_the_other_takes_over():
    client.Configuration.set_default(api_client.configuration)
    leases = client.CoordinationV1Api(api_client)

    def candidate(name):
        lock = LeaseLock("leader", namespace, name)
        return leaderelection.LeaderElection(electionconfig.Config(
            lock, lease_duration=3, renew_deadline=2, retry_period=1, onstarted_leading=lambda: None,
            onstopped_leading=lambda: None))

    assert candidate("first").acquire()
    assert leases.read_namespaced_lease("leader", namespace).spec.holder_identity == "first"
    # The first does not renew, as if it had crashed.
    assert candidate("second").acquire()
    spec = leases.read_namespaced_lease("leader", namespace).spec
    assert spec.holder_identity == "second", spec


run([
    typed_objects_are_created_read_replaced_patched_and_deleted,
    lists_come_in_pages_and_by_selector,
    a_watch_tells_every_change_in_order,
    invalid_objects_are_refused_with_the_field,
    the_dynamic_client_defines_a_kind_and_applies_objects_of_it,
    a_deployment_is_rolled_out_and_scaled,
    logs_exec_and_port_forward_reach_the_container,
    of_two_candidates_one_leads_and_the_other_takes_over,
])
