"""What every store must do, asked of each; and whether the libraries still answer as we read them.

GCS, Azure and Hugging Face are played by a file system in memory that answers as gcsfs, adlfs and
huggingface_hub do.
"""

import base64
import contextlib
import errno
import hashlib
import inspect
import os
import socket
import subprocess
import time
from types import SimpleNamespace

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from support import stores

from keras_ratchet._storage.objects import calls
from keras_ratchet._storage.objects.checksums import differs
from keras_ratchet._storage.objects.lease import Lease
from keras_ratchet._storage.objects.object_store import ObjectStore


def gcs_info(data):
    return {"md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(), "etag": "CJTh0="}


def azure_info(data):
    settings = {"content_md5": bytearray(hashlib.md5(data).digest())}
    return {"etag": '"0x8DC0FFEE"', "content_settings": settings}


def hf_info(data):
    lfs = SimpleNamespace(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    return {"lfs": lfs, "blob_id": "0" * 40}


def like(scheme, answer):
    """Return a class of file systems that answers as the library of a scheme does."""

    class Like(MemoryFileSystem):
        protocol = scheme
        store, pseudo_dirs = {}, [""]

        @classmethod
        def _strip_protocol(cls, path):
            return MemoryFileSystem._strip_protocol(path.removeprefix(f"{scheme}://"))

        def ls(self, path, detail=True, **kwargs):
            found = [self._more(info) for info in super().ls(path, detail=True, **kwargs)]
            return found if detail else [info["name"] for info in found]

        def find(self, path, detail=False, **kwargs):
            found = super().find(path, detail=True, **kwargs)
            more = {name: self._more(info) for name, info in found.items()}
            return more if detail else list(more)

        def info(self, path, **kwargs):
            return self._more(super().info(path, **kwargs))

        def _more(self, info):
            if info["type"] == "directory":
                return info
            return {**info, **answer(self.store[info["name"]].getvalue())}

    return Like


LIKE = {"gs": gcs_info, "az": azure_info, "hf": hf_info}


@pytest.fixture
def url(request, tmp_path, monkeypatch):
    scheme = request.param
    if scheme == "s3":
        return stores.new_url(request.getfixturevalue("s3"))
    if scheme == "file":
        return f"file://{tmp_path}/share"
    if scheme in LIKE:
        made = like(scheme, LIKE[scheme])
        monkeypatch.setitem(_registry, scheme, made)
        made().pipe_file("bucket/elsewhere", b"")
        return stores.new_url(f"{scheme}://bucket")
    return stores.new_url()


@pytest.fixture
def store(url):
    return calls.connect(url, {})


@pytest.fixture
def path(tmp_path):
    (tmp_path / "sent").write_bytes(b"what was sent")
    return str(tmp_path / "sent")


SCHEMES = ["memory", "file", "s3", *LIKE]
on_each = pytest.mark.parametrize("url", SCHEMES, indirect=True)
KEYS = ["best.keras", "a/b/c.keras", "ckpt é 漢 +1 %20 #2 &=.keras", "ckpt[1]-{x}.keras"]


@on_each
@pytest.mark.parametrize("key", KEYS)
def test_a_file_that_is_put_is_there(key, store, path, tmp_path):
    store.put_file(path, key)
    assert store.read(key) == b"what was sent"
    assert b"".join(store.chunks(key)) == b"what was sent"
    store.get_file(key, str(tmp_path / "got"))
    assert (tmp_path / "got").read_bytes() == b"what was sent"
    assert store.stat(key).size_bytes == 13
    assert list(store.find("")) == [key]
    store.delete(key)
    assert store.find("") == {}


@on_each
def test_what_the_store_says_of_it_agrees(store, path, url):
    store.put_file(path, "sent")
    stat = store.stat("sent")
    assert stat == store.find("")["sent"]
    assert stat.modified_s == pytest.approx(time.time(), abs=100)
    assert differs(path, stat, lambda: store.chunks("sent")) == ""
    kinds = {"s3": {"etag"}, "gs": {"etag", "md5"}, "az": {"etag", "md5"}, "hf": {"sha256"}}
    assert set(stat.checksums) == kinds.get(url.partition(":")[0], set())


@on_each
def test_a_key_that_is_in_use_is_refused(store, url):
    assert store.exclusive == (not url.startswith("hf"))
    store.put_new("a/new", b"first")
    with pytest.raises(FileExistsError):
        store.put_new("a/new", b"second")
    assert store.read("a/new") == b"first"
    store.put("a/new", b"third")
    assert store.read("a/new") == b"third"
    store.delete("a/new")
    store.put_new("a/new", b"fourth")


@on_each
def test_a_listing_is_of_one_directory_and_of_now(store):
    assert store.find("a") == {}
    assert store.find_here() == {}
    for key in ("a/1", "a/b/2", "ab/3", "a.txt", "z"):
        store.put(key, key.encode())
        assert key in store.find("")
    assert set(store.find("a")) == {"a/1", "a/b/2"}
    assert set(store.find("a/b")) == {"a/b/2"}
    assert set(store.find("nothing")) == set()
    assert set(store.find_here()) == {"a.txt", "z"}
    store.delete("a/1")
    assert set(store.find("a")) == {"a/b/2"}


@on_each
def test_what_is_not_there_is_said_to_be_absent(store, tmp_path):
    store.put("x", b"")
    store.delete("nothing")
    store.delete("no/thing")
    for act in (
        lambda: store.read("nothing"),
        lambda: store.stat("nothing"),
        lambda: b"".join(store.chunks("nothing")),
        lambda: store.get_file("nothing", str(tmp_path / "got")),
    ):
        with pytest.raises(FileNotFoundError):
            act()


@on_each
def test_several_are_read_at_once_without_those_that_are_absent(store):
    data = {f"d/{n}": bytes([n]) * n for n in range(30)}
    for key, value in data.items():
        store.put(key, value)
    assert store.read_all([]) == {}
    assert store.read_all(["d/7"]) == {"d/7": data["d/7"]}
    assert store.read_all(["nothing"]) == {}
    assert store.read_all([*data, "nothing", "d/nothing"]) == data


@pytest.mark.parametrize("scheme", ["memory", "s3", "file"])
def test_a_directory_may_have_any_name(scheme, tmp_path, request):
    root = {"memory": "memory://tests", "file": f"file://{tmp_path}"}.get(scheme)
    root = stores.new_url(root or request.getfixturevalue("s3"))
    store = calls.connect(f"{root}/lr=[0.1]*? é {{a}}/b", {})
    other = calls.connect(f"{root}/lr=0/b", {})
    other.put("x", b"other")
    for key in ("x", "y"):
        store.put_new(key, b"1")
    assert store.read_all(["x", "y", "z"]) == {"x": b"1", "y": b"1"}
    assert set(store.find("")) == set(store.find_here()) == {"x", "y"}
    store.delete("x")
    assert set(store.find("")) == {"y"}
    assert other.read("x") == b"other"


@on_each
def test_checkpoints_go_there_and_back(url, tmp_path):
    stores.put(url, tmp_path / "run", "best.keras", b"one", at=1.0)
    stores.put(url, tmp_path / "run", "best.keras", b"two", at=2.0)
    [info] = stores.reading.checkpoints(url)
    assert info.saved_at == 1.8e9 + 2.0
    for read in (True, False):
        assert stores.reading.verify(info.path, read=read)
    with open(stores.reading.local_copy(info.path), "rb") as file:
        assert file.read() == b"two"


def http_error():
    from gcsfs.retry import HttpError

    text = "At least one of the pre-conditions you specified did not hold."
    return HttpError({"code": 412, "message": text})


def s3_error():
    """What s3fs raises where the answer does not say which condition it was."""
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    said = {"Error": {"Code": "PreconditionFailed", "Message": "At least one of them did not hold"}}
    return translate_boto_error(ClientError(said, "PutObject"))


def azure_error():
    from azure.core.exceptions import ResourceModifiedError

    error = ResourceModifiedError("The condition specified did not hold. ErrorCode:ConditionNotMet")
    error.status_code = 412
    return error


REFUSALS = {
    "fsspec, gcsfs, adlfs": lambda: FileExistsError("bucket/x"),
    "s3fs": s3_error,
    "s3fs, the text": lambda: OSError(errno.EINVAL, "PreconditionFailed"),
    "gcsfs": http_error,
    "azure": azure_error,
}
FAILURES = {
    "the network": OSError(errno.ETIMEDOUT, "timeout"),
    "a key with the digits of a refusal": OSError("timeout: checkpoints/1800000041234-0412abcd/x"),
    "not allowed": PermissionError("no"),
    "a value": ValueError("412 is no value"),
}


@pytest.fixture
def refusing(monkeypatch):
    """Return a store whose create-only puts raise an error."""

    def make(error):
        class Refusing(like("gs", gcs_info)):
            def pipe_file(self, path, value, mode="overwrite", **kwargs):
                if mode == "create":
                    raise error
                super().pipe_file(path, value, mode=mode, **kwargs)

        monkeypatch.setitem(_registry, "gs", Refusing)
        return stores.new_url("gs://bucket")

    return make


@pytest.mark.parametrize("error", REFUSALS.values(), ids=REFUSALS)
def test_every_form_of_a_refusal_is_understood(error, refusing):
    url = refusing(error())
    with pytest.raises(FileExistsError):
        calls.connect(url, {}).put_new("x", b"new")
    store = ObjectStore(url)
    store.put("x", b"there")
    assert store.put_new("x", b"new") is False
    assert store.put_new("x", b"there") is True


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
def test_another_failure_is_no_refusal(error, refusing):
    with pytest.raises(type(error)) as raised:
        calls.connect(refusing(error), {}).put_new("x", b"new")
    assert raised.value is error


def test_a_store_that_ignores_the_condition_is_found_out_and_still_used(tmp_path, monkeypatch):
    class Ignoring(like("gs", gcs_info)):
        def pipe_file(self, path, value, mode="overwrite", **kwargs):
            super().pipe_file(path, value, **kwargs)

    monkeypatch.setitem(_registry, "gs", Ignoring)
    Ignoring().pipe_file("bucket/elsewhere", b"")
    url = stores.new_url("gs://bucket")
    store = ObjectStore(url)
    assert store.exclusive
    with Lease(store, "best.keras", "it") as held:
        assert not store.exclusive
        held.check()
        [key] = store.find("")
        assert store.put_new(key, b"another's") is False
    stores.put(url, tmp_path / "run", "best.keras", b"data")
    assert stores.reading.verify(f"{url}/best.keras")


def parameters(function):
    return set(inspect.signature(function).parameters)


def test_s3fs_takes_what_we_give():
    from s3fs import S3FileSystem

    assert "mode" in parameters(S3FileSystem._pipe_file)
    assert {"chunksize", "max_concurrency"} <= parameters(S3FileSystem._put_file)
    assert parameters(S3FileSystem._rm_file) >= {"path"}


def test_gcsfs_takes_what_we_give():
    from gcsfs import GCSFileSystem
    from gcsfs.core import GCSFileSystem as Plain

    for made in (GCSFileSystem, Plain):
        assert "mode" in parameters(made._pipe_file)
        assert "callback" in parameters(made._put_file)


def test_adlfs_takes_what_we_give():
    from adlfs import AzureBlobFileSystem

    assert {"overwrite", "kwargs"} <= parameters(AzureBlobFileSystem._pipe_file)
    source = inspect.getsource(AzureBlobFileSystem._pipe_file)
    assert '"mode"' in source and "FileExistsError" in source


def test_huggingface_hub_takes_what_we_give():
    from huggingface_hub import HfFileSystem

    for name in ("pipe_file", "put_file", "rm_file", "cat_file", "get_file", "find", "exists"):
        assert callable(getattr(HfFileSystem, name))
    assert "path" in parameters(HfFileSystem.rm_file)


@contextlib.contextmanager
def azurite(directory):
    """Serve Azure's blobs by the emulator of RATCHET_AZURITE; yield a URL and how to connect."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [os.environ["RATCHET_AZURITE"], "--blobPort", str(port), "--location", directory]
    server = subprocess.Popen([*command, "--silent", "--skipApiVersionCheck"])
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    text = (
        f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={key};"
        f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
    )
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        fsspec.filesystem("az", connection_string=text).mkdir("ratchet")
        yield "az://ratchet/run", text
    finally:
        server.terminate()
        server.wait()


@pytest.mark.skipif("RATCHET_AZURITE" not in os.environ, reason="RATCHET_AZURITE is not set")
def test_azures_emulator_keeps_the_contract(tmp_path, path, monkeypatch):
    with azurite(str(tmp_path / "azurite")) as (url, text):
        store = calls.connect(url, {"connection_string": text})
        store.put_file(path, "a/sent")
        assert differs(path, store.stat("a/sent"), lambda: store.chunks("a/sent")) == ""
        store.put_new("new", b"first")
        with pytest.raises(FileExistsError):
            store.put_new("new", b"second")
        assert set(store.find("")) == {"a/sent", "new"}
        assert set(store.find_here()) == {"new"}
        assert store.read_all(["new", "nothing"]) == {"new": b"first"}
        store.delete("new")
        store.delete("new")
        assert set(store.find("")) == {"a/sent"}
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        _, story = stores.tell(monkeypatch, url=f"{url}/story")
        assert story.error is None
