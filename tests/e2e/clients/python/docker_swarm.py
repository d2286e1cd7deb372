"""Services of Docker's Python client, unmodified: python -B docker_swarm.py PREFIX IMAGE, DOCKER_HOST in the environment.

Each check prints `ok NAME`; the first that fails ends the program with its traceback.
"""

import sys

import docker
from docker import types
from docker.errors import APIError, NotFound

from checks import run, until

prefix, image = sys.argv[1:3]
client = docker.from_env(timeout=60)


def named(name):
    return f"{prefix}-py-{name}"


def states(service):
    return [t["Status"]["State"] for t in service.tasks(filters={"desired-state": "running"})]


def the_swarm_and_its_nodes():
    assert client.info()["Swarm"]["ControlAvailable"]
    assert client.swarm.attrs["Spec"]["Name"] == "default"
    (node,) = client.nodes.list(filters={"role": "manager"})
    assert node.attrs["Status"]["State"] == "ready" and client.nodes.get(node.id).version == node.version
    spec = dict(node.attrs["Spec"], Labels={"of-test": "x"})
    node.update(spec)
    assert client.nodes.get(node.id).attrs["Spec"]["Labels"] == {"of-test": "x"}
    node.reload()
    node.update(dict(spec, Labels={}))


def secrets_and_configs():
    secret = client.secrets.create(name=named("secret"), data=b"kept", labels={"of": prefix})
    config = client.configs.create(name=named("config"), data=b"plain", labels={"of": prefix})
    assert [s.name for s in client.secrets.list(filters={"label": f"of={prefix}"})] == [named("secret")]
    assert "Data" not in client.secrets.get(secret.id).attrs["Spec"] or not client.secrets.get(secret.id).attrs["Spec"]["Data"]
    assert client.configs.get(config.id).attrs["Spec"]["Data"] == "cGxhaW4="
    try:
        client.secrets.create(name=named("secret"), data=b"again")
    except APIError as error:
        assert error.status_code == 409, error
    else:
        raise AssertionError("409 was expected")
    secret.remove()
    config.remove()
    try:
        client.secrets.get(secret.id)
    except NotFound:
        pass
    else:
        raise AssertionError("it is gone")


def a_service_lives():
    service = client.services.create(
        image,
        command=["sh", "-c"],
        args=["echo began; exec sleep 1000"],
        name=named("web"),
        env=["A=b"],
        labels={"of": prefix},
        mode=types.ServiceMode("replicated", 2),
        stop_grace_period=1_000_000_000,
    )
    until("both run", lambda: states(service) == ["running", "running"])
    until("both have begun", lambda: b"".join(service.logs(stdout=True, stderr=True)).count(b"began") == 2)
    assert service.scale(1)
    until("one is left", lambda: states(service) == ["running"])
    stale = client.services.get(service.id)
    service.reload()
    assert service.update(labels={"of": prefix, "more": "x"}, fetch_current_spec=True)["Warnings"] in (None, [])
    try:
        stale.update(labels={}, fetch_current_spec=True)
    except APIError as error:
        assert "update out of sequence" in error.explanation, error
    else:
        raise AssertionError("a conflict was expected")
    service.reload()
    assert service.attrs["Spec"]["Labels"]["more"] == "x"
    assert service.attrs["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=b"]
    service.remove()


def what_is_gone_is_not_found():
    try:
        client.services.get(named("web"))
    except NotFound as error:
        assert error.explanation == f"service {named('web')} not found", error
    else:
        raise AssertionError("it is gone")


run([the_swarm_and_its_nodes, secrets_and_configs, a_service_lives, what_is_gone_is_not_found])
