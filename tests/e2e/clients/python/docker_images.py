"""Docker's own Python library, unmodified, against a Windlass: python -B docker_images.py SOCKET PREFIX IMAGE.

Each check prints `ok NAME`; the first that fails ends the program with its traceback.
"""

import io
import sys
import tarfile

import docker
from docker.errors import APIError, BuildError, ImageNotFound

from checks import run

socket, prefix, image = sys.argv[1:4]
client = docker.DockerClient(base_url=f"unix://{socket}", timeout=120)


def archive(**files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def images_are_built_from_a_file_and_from_an_archive():
    text = f"FROM {image}\nARG WHO=nobody\nRUN echo made for $WHO > /out\nCMD cat /out\n"
    tag = f"{prefix}/python:1"
    built, log = client.images.build(fileobj=io.BytesIO(text.encode()), tag=tag, buildargs={"WHO": "me"}, labels={"l": "v"})
    said = "".join(line.get("stream", "") for line in log)
    assert "Step 1/2 : FROM" in said and f"Successfully tagged {tag}" in said, said
    assert built.labels["l"] == "v" and built.tags == [tag], built.attrs
    assert client.containers.run(tag, remove=True) == b"made for me\n"
    context = archive(**{"Dockerfile": f"FROM {image}\nCOPY in.txt /\nCMD cat /in.txt\n", "in.txt": "packed\n"})
    built, _ = client.images.build(fileobj=io.BytesIO(context), custom_context=True, rm=True, forcerm=True)
    assert client.containers.run(built.id, remove=True) == b"packed\n"
    client.images.remove(tag)


def a_build_that_fails_says_so():
    try:
        client.images.build(fileobj=io.BytesIO(f"FROM {image}\nRUN exit 4\n".encode()), nocache=True)
    except BuildError as error:
        assert "returned a non-zero code: 4" in error.msg, error.msg
    else:
        raise AssertionError("it was built")
    try:
        client.images.build(fileobj=io.BytesIO(b"FROM x\nNOPE\n"))
    except APIError as error:
        assert error.status_code == 400 and "line 2: unknown instruction: NOPE" in error.explanation, error
    else:
        raise AssertionError("it was built")


def a_container_is_committed_and_its_changes_are_listed():
    container = client.containers.run(image, ["sh", "-c", "echo kept > /kept"], detach=True)
    assert container.wait()["StatusCode"] == 0
    assert {"Path": "/kept", "Kind": 1} in container.diff()
    made = container.commit(f"{prefix}/commit", "1", message="why", author="me", changes="ENV A=b", conf={"Cmd": ["cat", "/kept"]})
    assert client.containers.run(made.id, remove=True) == b"kept\n"
    assert "A=b" in made.attrs["Config"]["Env"] and made.history()[0]["Comment"] == "why"
    container.remove()
    client.images.remove(made.id, force=True)


def files_are_imported_and_images_saved_and_loaded():
    lines = client.api.import_image_from_data(archive(only="file"), repository=f"{prefix}/import", tag="1")
    assert '"status":"sha256:' in lines.replace('": "', '":"'), lines
    made = client.images.get(f"{prefix}/import:1")
    saved = b"".join(made.save(named=True))
    client.images.remove(made.id, force=True)
    try:
        client.images.get(made.id)
    except ImageNotFound:
        pass
    else:
        raise AssertionError("it is still there")
    assert [i.id for i in client.images.load(saved)] == [made.id]
    client.images.remove(made.id, force=True)


def disk_use_knows_the_cache_and_prunes_it():
    assert all(row["Type"] == "regular" for row in client.df()["BuildCache"])
    assert client.api.prune_builds(filters={"until": "876000h"})["SpaceReclaimed"] == 0


run([
    images_are_built_from_a_file_and_from_an_archive,
    a_build_that_fails_says_so,
    a_container_is_committed_and_its_changes_are_listed,
    files_are_imported_and_images_saved_and_loaded,
    disk_use_knows_the_cache_and_prunes_it,
])
