"""Testcontainers, unmodified, against a Windlass: python -B docker_testcontainers.py PREFIX IMAGE, DOCKER_HOST in the environment.

Each check prints `ok NAME`; the first that fails ends the program with its traceback. Its own helper that cleans up is an image
from a registry, and is switched off (TESTCONTAINERS_RYUK_DISABLED).
"""

import sys
import tempfile
import urllib.request
from pathlib import Path

from testcontainers.core.container import DockerContainer
from testcontainers.core.image import DockerImage
from testcontainers.core.network import Network
from testcontainers.core.waiting_utils import wait_for_logs

from checks import run, until

prefix, image = sys.argv[1:3]
SERVE = "mkdir /www; echo $WORD > /www/index.html; echo serving; exec httpd -f -p 80 -h /www"


def server(word):
    return DockerContainer(image).with_command(["sh", "-c", SERVE]).with_env("WORD", word)


def a_container_is_waited_for_by_its_log_and_reached_by_its_port():
    with server("page").with_exposed_ports(80) as box:
        wait_for_logs(box, "serving", timeout=60)
        url = f"http://{box.get_container_host_ip()}:{box.get_exposed_port(80)}/"
        until("the page is served", lambda: reads(url, b"page\n"))
        assert box.exec("cat /www/index.html") == (0, b"page\n")
        code, said = box.exec(["sh", "-c", "echo oh >&2; exit 3"])
        assert (code, said) == (3, b"oh\n")
        out, err = box.get_logs()
        assert (out, err) == (b"serving\n", b""), (out, err)
        id = box.get_wrapped_container().id
    assert not DockerContainer(image).get_docker_client().client.containers.list(all=True, filters={"id": id})


def reads(url, wanted):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read() == wanted
    except OSError:
        return False


def containers_find_each_other_in_a_network():
    with Network() as network:
        web = server("found").with_network(network).with_network_aliases("web")
        with web, DockerContainer(image).with_command("sleep 1000").with_network(network) as seeker:
            until("the page is found", lambda: seeker.exec("wget -q -O - http://web/") == (0, b"found\n"))


def folders_are_mounted_and_files_seen():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "in").write_text("in\n")
        box = DockerContainer(image).with_command("sleep 1000").with_volume_mapping(folder, "/data", "rw")
        with box:
            assert box.exec("cat /data/in") == (0, b"in\n")
            assert box.exec(["sh", "-c", "echo out > /data/out"]).exit_code == 0
        assert Path(folder, "out").read_text() == "out\n"


def images_are_built_and_run():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "Dockerfile").write_text(f"FROM {image}\nCOPY word /word\nCMD [\"sh\", \"-c\", \"cat /word; exec sleep 1000\"]\n")
        Path(folder, "word").write_text("built\n")
        with DockerImage(path=folder, tag=f"{prefix}/testcontainers:1") as built:
            with DockerContainer(str(built)) as box:
                wait_for_logs(box, "built", timeout=60)


def a_container_that_ends_is_seen_with_its_code():
    box = DockerContainer(image).with_command(["sh", "-c", "exit 7"]).start()
    wrapped = box.get_wrapped_container()
    assert wrapped.wait(timeout=60)["StatusCode"] == 7
    box.stop()


run([
    a_container_is_waited_for_by_its_log_and_reached_by_its_port,
    containers_find_each_other_in_a_network,
    folders_are_mounted_and_files_seen,
    images_are_built_and_run,
    a_container_that_ends_is_seen_with_its_code,
])
