"""Docker's Python client, unmodified, against a Windlass: python -B docker_containers.py PREFIX IMAGE, DOCKER_HOST in the environment.

Each check prints `ok NAME`; the first that fails ends the program with its traceback.
"""

import sys

import docker
from docker import types
from docker.errors import APIError, ContainerError, NotFound

from checks import LIMIT, run, until

prefix, image = sys.argv[1:3]
client = docker.from_env(timeout=60)


def fails_with(code, words, call):
    try:
        call()
    except APIError as error:
        assert error.status_code == code and words in error.explanation, error
        return
    raise AssertionError(f"{code} {words} was expected")


def named(name):
    return f"{prefix}-py-{name}"


def containers_run_and_say_how_they_ended():
    assert client.containers.run(image, ["echo", "hello"], remove=True) == b"hello\n"
    try:
        client.containers.run(image, ["sh", "-c", "echo oh >&2; exit 3"], remove=True)
    except ContainerError as error:
        assert error.exit_status == 3 and error.stderr == b"oh\n", error
    else:
        raise AssertionError("an error was expected")
    one = client.containers.run(image, ["sh", "-c", "exit 5"], detach=True, labels={"of": prefix})
    assert one.wait(timeout=LIMIT)["StatusCode"] == 5
    assert [c.id for c in client.containers.list(all=True, filters={"label": f"of={prefix}"})] == [one.id]
    one.remove()
    try:
        client.containers.get(one.id)
    except NotFound:
        pass
    else:
        raise AssertionError("it is gone")


def commands_run_and_their_streams_are_told_apart():
    box = client.containers.run(image, ["sleep", "1000"], detach=True, name=named("box"))
    assert box.exec_run("echo here") == (0, b"here\n")
    code, (out, err) = box.exec_run(["sh", "-c", "echo o; echo e >&2; exit 4"], demux=True)
    assert (code, out, err) == (4, b"o\n", b"e\n")
    _, stream = box.exec_run(["sh", "-c", "echo 1; echo 2"], stream=True)
    assert b"".join(stream) == b"1\n2\n"
    assert box.exec_run("pwd", workdir="/tmp", user="app", environment={"A": "b"}).output == b"/tmp\n"
    box.remove(force=True)


def logs_are_streamed():
    box = client.containers.run(image, ["sh", "-c", "for n in 1 2 3; do echo $n; sleep 0.2; done"], detach=True)
    assert b"".join(box.logs(stream=True, follow=True)) == b"1\n2\n3\n"
    assert box.logs(tail=1) == b"3\n"
    box.remove()


def networks_are_made_joined_and_left():
    net = client.networks.create(named("net"), driver="bridge", labels={"of": prefix}, check_duplicate=True)
    fails_with(409, "already exists", lambda: client.networks.create(named("net")))
    assert [n.name for n in client.networks.list(filters={"label": f"of={prefix}"})] == [named("net")]
    serve = ["sh", "-c", "mkdir /www; echo page > /www/index.html; httpd -f -p 80 -h /www"]
    web = client.containers.run(image, serve, detach=True, name=named("web"), network=net.name)
    seeker = client.containers.run(image, ["sleep", "1000"], detach=True, name=named("seeker"))
    net.connect(seeker, aliases=["guest"])
    until("the page is found by name", lambda: seeker.exec_run(f"wget -q -O - http://{named('web')}/") == (0, b"page\n"))
    assert web.exec_run("nslookup guest").exit_code == 0
    net.reload()
    assert {c.name for c in net.containers} == {named("web"), named("seeker")}
    seeker.reload()
    settings = seeker.attrs["NetworkSettings"]["Networks"]
    assert set(settings) == {"bridge", net.name} and "guest" in settings[net.name]["Aliases"], settings
    fails_with(403, "has active endpoints", net.remove)
    net.disconnect(seeker)
    web.remove(force=True)
    seeker.remove(force=True)
    net.remove()
    fails_with(404, "not found", net.reload)


def addresses_are_chosen_from_a_pool():
    pool = types.IPAMPool(subnet="10.94.0.0/24", gateway="10.94.0.254")
    net = client.networks.create(named("pool"), ipam=types.IPAMConfig(pool_configs=[pool]), internal=True, labels={"pool": prefix})
    again = types.IPAMConfig(pool_configs=[pool])
    fails_with(403, "Pool overlaps", lambda: client.networks.create(named("pool2"), ipam=again))
    box = client.containers.create(image, ["sleep", "1000"], name=named("fixed"))
    client.networks.get("bridge").disconnect(box)
    net.connect(box, ipv4_address="10.94.0.7")
    box.start()
    box.reload()
    assert box.attrs["NetworkSettings"]["Networks"][net.name]["IPAddress"] == "10.94.0.7"
    box.remove(force=True)
    assert named("pool") in client.networks.prune(filters={"label": f"pool={prefix}"})["NetworksDeleted"]


def events_come_as_they_happen():
    events = client.events(decode=True, filters={"label": f"events={prefix}"})
    box = client.containers.create(image, ["true"], labels={"events": prefix})
    box.start()
    box.wait(timeout=LIMIT)
    seen = []
    for event in events:
        assert event["Actor"]["ID"] == box.id
        seen.append(event["Action"])
        if event["Action"] == "die":
            break
    events.close()
    assert seen == ["create", "start", "die"], seen
    box.remove()


run([
    containers_run_and_say_how_they_ended,
    commands_run_and_their_streams_are_told_apart,
    logs_are_streamed,
    networks_are_made_joined_and_left,
    addresses_are_chosen_from_a_pool,
    events_come_as_they_happen,
])
