"""Object stores over a network that fails, without the right to be there, and misnamed; web servers' files."""

import http.server
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, unquote

import pytest

from teacher_cache.errors import StorageError
from teacher_cache.storage import objects
from teacher_cache.storage.ahead import Ahead
from teacher_cache.storage.credentials import CREDENTIALS
from teacher_cache.storage.objects import ObjectStorage
from teacher_cache.storage.opening import open_storage
from teacher_cache.storage.place import Url
from tests.support.azurite import ACCOUNT, KEY, Containers
from tests.support.faulty_proxy import Fault, FaultyProxy
from tests.support.object_server import KINDS, PAGE, SECRET, Buckets, GoogleBuckets
from tests.support.web_server import WebServer

ROOT = Path(__file__).parents[2]
of_each_kind = pytest.mark.parametrize("object_server", KINDS, indirect=True)
BODY = random.Random(0).randbytes(600_000)


@pytest.fixture
def network(object_server: Buckets | Containers, bucket: Url, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """What stands between the bucket and whoever asks it."""
    with FaultyProxy(object_server.host, object_server.port) as proxy:
        for name, value in object_server.credentials(proxy.url).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def storage(bucket: Url, network: FaultyProxy) -> ObjectStorage:
    return ObjectStorage(bucket, stall_s=0.4, retry_s=0.8)


# -- a network that fails ----------------------------------------------------------------------------------------------


@of_each_kind
def test_bodies_that_are_cut_are_read_whole(storage: ObjectStorage, network: FaultyProxy) -> None:
    storage.put("x", BODY)
    network.faults += [Fault("cut", "GET", num_bytes) for num_bytes in (0, 100_000, 1)]
    assert storage.get("x") == BODY
    network.faults.append(Fault("cut", "GET", 50_000))
    assert storage.get_ranges("x", [(100, 400_000), (599_990, 100)]) == [BODY[100:400_100], BODY[599_990:]]
    listing = storage.list()
    network.faults.append(Fault("cut", "GET", 50))
    assert storage.list() == listing
    assert not network.faults


@of_each_kind
@pytest.mark.parametrize("kind", ["lost", "reset"])
def test_requests_whose_answers_are_lost_are_sent_again(
    kind: str, storage: ObjectStorage, network: FaultyProxy
) -> None:
    storage.put("x", BODY)
    for request, ask in {
        "PUT": lambda: storage.put("x", BODY),
        "GET": lambda: storage.get("x"),
        "HEAD": lambda: storage.list("x"),
        "POST" if storage.place.scheme == "az" else "DELETE": lambda: storage.delete("x"),
    }.items():
        network.faults.append(Fault(kind, request))
        network.requests.clear()
        ask()
        assert not network.faults
        assert sum(line.startswith(request) for line in network.requests) == 2
    assert storage.get("x") is None


@of_each_kind
@pytest.mark.parametrize("kind", ["lost", "reset"])
def test_a_create_whose_answer_is_lost_is_known_as_ones_own(
    kind: str, storage: ObjectStorage, network: FaultyProxy
) -> None:
    network.faults.append(Fault(kind, "PUT"))
    assert storage.put_if_absent("x", b"mine")
    assert [line.split()[0] for line in network.requests] == ["PUT", "PUT", "GET"]
    network.faults.append(Fault(kind, "PUT"))
    assert not storage.put_if_absent("x", b"another's")
    assert storage.get("x") == b"mine"


@of_each_kind
def test_a_create_that_is_refused_for_what_is_gone_is_sent_again(storage: ObjectStorage, network: FaultyProxy) -> None:
    """Its writer removed it between the refusal and the look at what is there."""
    storage.put("x", b"another's")
    other = ObjectStorage(storage.place)
    refused: list[str] = []

    def remove(line: str) -> None:
        if line.startswith("PUT") and not refused:
            refused.append(line)
            other.delete("x")

    network.after = remove
    assert storage.put_if_absent("x", b"mine")
    assert refused
    assert storage.get("x") == b"mine"


def test_busy_servers_are_asked_again(storage: ObjectStorage, network: FaultyProxy) -> None:
    network.faults += [Fault("busy"), Fault("busy")]
    storage.put("x", BODY)
    network.faults += [Fault("busy")] * 100
    with pytest.raises(StorageError, match="folder/x: the server answers 503 Service Unavailable: check the network"):
        storage.get("x")


@pytest.mark.parametrize("num_bytes", [None, 0, 1000])
def test_what_stalls_is_given_up(num_bytes: int | None, storage: ObjectStorage, network: FaultyProxy) -> None:
    storage.put("x", BODY)
    storage = ObjectStorage(storage.place, stall_s=0.2, retry_s=0.35)
    network.faults += [Fault("stalled", num_bytes=num_bytes)] * 100
    asked: dict[str, Callable[[], object]] = {
        "x": lambda: storage.get("x"),
        "x ": lambda: storage.get_ranges("x", [(0, 5000)]),
        "y": lambda: storage.put("y", b""),
        "": lambda: storage.list(),
    }
    for name, ask in list(asked.items())[: None if num_bytes is None else 2]:
        began = time.monotonic()
        url = f"{storage.place}/{name.strip()}".rstrip("/")
        with pytest.raises(StorageError, match=f"^{url}: no answer within 0.2 s: check the network and the endpoint"):
            ask()
        assert 0.2 <= time.monotonic() - began < 10


@of_each_kind
@pytest.mark.parametrize("num_bytes", [None, 0])
def test_what_stalls_twice_is_had(num_bytes: int | None, storage: ObjectStorage, network: FaultyProxy) -> None:
    """obstore asks again for what is read, but for a listing that breaks off, and repeats no create and no delete."""
    storage.put("x", BODY)
    storage = ObjectStorage(storage.place, stall_s=0.2)
    stalls = [Fault("stalled", num_bytes=num_bytes)] * 2
    network.faults += stalls
    assert storage.get("x") == BODY
    network.faults += stalls
    assert [entry.name for entry in storage.list()] == ["x"]
    network.faults += stalls
    assert storage.put_if_absent("y", b"ours")
    network.faults.clear()  # an answer without a body is whole before it stalls, and its connection is still used
    storage = ObjectStorage(storage.place, stall_s=0.2)
    network.faults += stalls
    storage.delete("x")
    network.faults.clear()
    assert [entry.name for entry in storage.list()] == ["y"]


def test_an_upload_is_waited_for_as_long_as_it_may_take(storage: ObjectStorage, network: FaultyProxy) -> None:
    network.faults.append(Fault("late", "PUT", seconds=0.8))
    storage.put("x", BODY)  # 0.6 s at a megabyte a second
    assert [line.split()[0] for line in network.requests] == ["PUT"]
    network.faults.append(Fault("late", "GET", seconds=0.8))
    assert storage.get("x") == BODY
    assert [line.split()[0] for line in network.requests] == ["PUT", "GET", "GET"]


def test_nobody_there_is_said(bucket: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    storage = ObjectStorage(bucket, stall_s=0.4, retry_s=0.4)
    for ask in (storage.get, storage.list, storage.delete):
        with pytest.raises(StorageError, match=f"^{bucket}/x: no connection: check the network and the endpoint, then"):
            ask("x")


def test_a_signal_is_not_kept_waiting(
    storage: ObjectStorage, network: FaultyProxy, request: pytest.FixtureRequest
) -> None:
    patient = ObjectStorage(storage.place)
    # what a shell runs beside itself ignores it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    network.faults += [Fault("stalled")] * 10
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    began = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        patient.get("x")
    assert time.monotonic() - began < 10
    timer.join()


# -- requests ----------------------------------------------------------------------------------------------------------


def test_a_listing_asks_for_pages_and_not_for_objects(storage: ObjectStorage, network: FaultyProxy) -> None:
    names = [f"records/{number:03d}" for number in range(2 * PAGE + 5)]
    for name in names:
        storage.put(name, b"x")
    network.requests.clear()
    assert [entry.name for entry in storage.list("records")] == names
    assert len(network.requests) == 3


@of_each_kind
def test_near_ranges_are_one_request(storage: ObjectStorage, network: FaultyProxy) -> None:
    content = bytes(3 << 20)
    storage.put("x", content)
    stamp = storage.list("x")[0].stamp
    network.requests.clear()
    assert storage.get_ranges("x", [(0, 10), (1 << 20, 10), (5, 10)], stamp) == [bytes(10)] * 3
    assert len(network.requests) == 1
    assert storage.get_ranges("x", [(0, 10), (2 << 20, 10)], stamp) == [bytes(10)] * 2
    assert len(network.requests) == 3


def test_a_fork_of_a_process_that_has_asked_is_refused_and_hangs_not(bucket: Url) -> None:
    program = f"""
import os, sys
from teacher_cache.storage.opening import open_storage

def child(ask):
    if not os.fork():
        try:
            ask()
        except Exception as error:
            print(type(error).__name__, error)
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.wait()

storage = open_storage({str(bucket)!r})
child(lambda: storage.put("x", b"before"))  # what has asked for nothing may be forked
print(storage.get("x"), flush=True)
child(lambda: storage.get("x"))
child(lambda: open_storage({str(bucket)!r}).list())
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    refused = f"StorageError {bucket} was used before this process was forked: start a process anew for it"
    assert done.stdout.splitlines() == ["b'before'", refused, refused], done.stderr


# -- what is wrong with a place ----------------------------------------------------------------------------------------


@of_each_kind
def test_an_absent_bucket_is_said(bucket: Url) -> None:
    place = f"{bucket.scheme}://nobody-has-made-this/folder"
    storage = open_storage(place)
    for ask in (
        lambda: storage.get("x"),
        lambda: storage.get_ranges("x", [(0, 1)]),
        lambda: storage.put("x", b"content"),
        lambda: storage.put_if_absent("x", b"content"),
        lambda: storage.list("x"),
        lambda: storage.list(),
    ):
        with pytest.raises(StorageError, match=rf"^{place}.*: there is no such bucket: check"):
            ask()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("s3://user:PASSWORD@bucket/x", "s3://bucket/x was given with a user: leave it out"),
        ("https://user:PASSWORD@host/x", "https://host/x was given with a user: leave it out"),
        ("https://PASSWORD@host/x", "https://host/x was given with a user: leave it out"),
        ("abfss://container:PASSWORD@account.dfs.core.windows.net", "abfss://account.dfs.core.windows.net was given"),
        ("https://host/x?sig=PASSWORD", "https://host/x was given with more behind it: leave out its ?"),
        ("s3://bucket/x#PASSWORD", "s3://bucket/x was given with more behind it: leave out its ? or #"),
        ("ftp://user:PASSWORD@host/x", "ftp://host/x: nothing here reads ftp://: give a path, s3://, gs://"),
        ("s3://bucket/a/../../other", "s3://bucket/a/../../other has a .. in it: give the place itself"),
        ("s3://", "s3:// names no bucket: give s3://BUCKET/FOLDER"),
        ("https://", "https:// names no server: give https://HOST/FOLDER"),
        ("s3://bucket/stores//x", "s3://bucket/stores//x has a // in it: give it with one slash"),
        ("s3://bucket/x//", "s3://bucket/x// has a // in it: give it with one slash"),
        ("s3://bucket/a\nb", r"'s3://bucket/a\nb' has a control character in it: choose a name without"),
    ],
)
def test_places_that_are_refused(place: str, message: str) -> None:
    with pytest.raises(StorageError) as refused:
        ObjectStorage(Url(place))
    assert str(refused.value).startswith(message)
    assert "PASSWORD" not in str(refused.value)


def test_a_name_that_cannot_be_read_is_told_as_one(bucket: Url, network: FaultyProxy) -> None:
    """A key that others made: `a//b` is one for S3, and for nobody's folders."""
    _put_key(network, f"{bucket.partition('://')[2]}/a//b")
    with pytest.raises(
        StorageError, match=r'a name there cannot be read \(.*a//b".*\): rename it, or choose'
    ) as refused:
        ObjectStorage(bucket).list()
    assert "\n" not in str(refused.value)


@of_each_kind
@pytest.mark.parametrize("folder", ["per%20cent", "a%2Fb", "100%", "sp ace", "grün", "plus+eq=&~"])
def test_a_key_is_what_was_written(folder: str, bucket: Url, network: FaultyProxy) -> None:
    """Also in the place itself: a percent sign is one, and begins no escape."""
    other = ObjectStorage(bucket)
    ObjectStorage(bucket / folder).put(f"{folder}.tar", b"content")
    assert [entry.name for entry in other.list()] == [f"{folder}/{folder}.tar"]
    for storage, name in ((ObjectStorage(bucket / folder), f"{folder}.tar"), (other, f"{folder}/{folder}.tar")):
        assert storage.get(name) == b"content"
        assert [entry.name for entry in storage.list(name)] == [name]


def test_a_folder_that_a_console_made_is_empty(bucket: Url, network: FaultyProxy) -> None:
    _put_key(network, f"{bucket.partition('://')[2]}/")
    assert ObjectStorage(bucket).list() == []
    assert [entry.name for entry in ObjectStorage(bucket.parent).list()] == ["folder"]


def _put_key(network: FaultyProxy, path: str) -> None:
    """Make an object of whatever key, by a client of another's."""
    with urllib.request.urlopen(urllib.request.Request(f"{network.url}/{path}", b"", method="PUT")) as answer:
        assert answer.status == 200


def test_of_azure_a_container_may_stand_before_its_account() -> None:
    assert ObjectStorage(Url("abfss://container@account.dfs.core.windows.net/x")).place.scheme == "abfss"


def test_what_has_to_be_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(StorageError, match=r"^s3://bucket needs obstore: pip install 'deit-teacher-cache\[objects\]'$"):
        open_storage("s3://bucket")


@pytest.mark.parametrize("endpoint", ["nonsense", "ftp://host", "http://user:PASSWORD@host", "https://host?x=PASSWORD"])
@pytest.mark.parametrize(
    ("place", "variable"),
    [
        ("s3://bucket", "AWS_ENDPOINT_URL"),
        ("gs://bucket", "GOOGLE_BASE_URL"),
        ("az://bucket", "AZURE_STORAGE_ENDPOINT"),
    ],
)
def test_an_endpoint_that_is_none_is_said(
    place: str, variable: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, endpoint)
    with pytest.raises(StorageError, match=rf"{variable} is no URL of a server, http\(s\)://HOST: correct it$"):
        ObjectStorage(Url(place)).get("x")


# -- credentials -------------------------------------------------------------------------------------------------------


def without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/absent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/absent")
    monkeypatch.setattr(objects, "METADATA", "127.255.255.254")  # where nobody answers, as on a machine in no cloud


@pytest.mark.parametrize("boto3", [True, False])
def test_that_there_are_no_credentials_is_said_at_once(
    boto3: bool, bucket: Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_credentials(monkeypatch)
    if not boto3:
        monkeypatch.setitem(sys.modules, "botocore.exceptions", None)
    began = time.monotonic()
    with pytest.raises(StorageError, match="no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_K"):
        ObjectStorage(bucket).get("x")
    assert time.monotonic() - began < 10


def test_public_objects_need_no_credentials(
    object_server: Buckets, bucket: Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = ObjectStorage(bucket)
    storage.put("open", b"content")
    storage.put("shut", b"content")
    object_server.publish("/" + (bucket / "open").partition("://")[2])
    without_credentials(monkeypatch)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    public = ObjectStorage(bucket)
    assert public.get("open") == b"content"
    with pytest.raises(StorageError, match=r"/shut: access is denied \(403 Forbidden\): check AWS_ACCESS_KEY_ID and"):
        public.get("shut")


def test_a_profile_of_aws_is_taken(bucket: Url, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ObjectStorage(bucket).put("x", b"content")
    without_credentials(monkeypatch)
    (tmp_path / "credentials").write_text("[work]\naws_access_key_id = somebody\naws_secret_access_key = word\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert ObjectStorage(bucket).get("x") == b"content"
    monkeypatch.setenv("AWS_PROFILE", "home")
    with pytest.raises(StorageError, match=r"^The config profile \(home\) could not be found: check AWS_PROFILE"):
        ObjectStorage(bucket).get("x")


@pytest.mark.parametrize(
    "given",
    [
        {"CONNECTION_STRING": f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint=URL/{ACCOUNT}/"},
        {"CONNECTION_STRING": "UseDevelopmentStorage=true"},
        {"USE_EMULATOR": "true"},
        {"ACCOUNT": ACCOUNT, "KEY": KEY, "ENDPOINT": f"URL/{ACCOUNT}/"},
    ],
)
def test_azurite_is_found_as_its_users_name_it(
    given: dict[str, str], az: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", az.url)
    for name, value in given.items():
        monkeypatch.setenv(f"AZURE_STORAGE_{name}", value.replace("URL", az.url))
    storage = ObjectStorage(Url(az.new_place()) / "folder")
    storage.put("x", b"content")
    assert [entry.name for entry in storage.list()] == ["x"]
    storage.delete("x")
    assert storage.get("x") is None


def test_a_public_container_needs_no_credentials_and_a_wrong_key_is_said(
    az: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in az.credentials(az.url).items():
        monkeypatch.setenv(name, value)
    public, shut = Url(az.new_place(public=True)), Url(az.new_place())
    for place in (public, shut):
        ObjectStorage(place).put("x", b"content")
    wrong = "c2VjcmV0"
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", wrong)
    for what, ask in (
        ("access", lambda storage: storage.get("x")),
        ("access", lambda storage: storage.list()),
        ("writing", lambda storage: storage.put("x", b"other")),
        ("removing", lambda storage: storage.delete("x")),
    ):
        with pytest.raises(
            StorageError, match=rf"{what} is denied \(403 Forbidden, \w+\): check AZURE_STORAGE_"
        ) as told:
            ask(ObjectStorage(shut))
        assert wrong not in str(told.value)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    monkeypatch.setattr(objects, "METADATA", "127.255.255.254")
    with pytest.raises(StorageError, match="no credentials were found: set AZURE_STORAGE_CONNECTION_STRING, or"):
        ObjectStorage(public).get("x")
    monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
    assert ObjectStorage(public).get("x") == b"content"
    with pytest.raises(StorageError, match="access is denied"):
        ObjectStorage(shut).get("x")


class Batch(http.server.BaseHTTPRequestHandler):
    """Answers a batch of one delete, as Azure does, by the next of `answers`."""

    answers: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        part = f"Content-Type: application/http\r\nContent-ID: 0\r\n\r\nHTTP/1.1 {self.answers.pop(0)}\r\n\r\n"
        body = f"--batch\r\n{part}\r\n--batch--\r\n".encode()
        self.send_response(202)
        self.send_header("Content-Type", "multipart/mixed; boundary=batch")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_what_azure_says_of_one_of_a_batch_counts(
    serve: Callable[[Callable[..., http.server.BaseHTTPRequestHandler]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its deletes are batches, which are answered well whatever becomes of what is in them."""
    for name, value in Containers(0).credentials(serve(Batch)).items():
        monkeypatch.setenv(name, value)
    storage = ObjectStorage(Url("az://container/folder"))
    for answers in (["202 Accepted"], ["404 Not Found"], ["503 Server Busy", "500 Oh", "202 Accepted"]):
        Batch.answers[:] = answers
        storage.delete("x")
        assert not Batch.answers
    for answers, told in (
        (["403 Forbidden"], r"removing is denied \(403\): check AZURE_STORAGE_CONNECTION_STRING"),
        (["409 Conflict"], "the server answers 409: check the network"),
        (["503 Server Busy"] * 3, "the server answers 503: check the network"),
    ):
        Batch.answers[:] = answers
        with pytest.raises(StorageError, match=f"^az://container/folder/x: {told}"):
            storage.delete("x")
        assert not Batch.answers


@pytest.mark.parametrize(
    ("variable", "value", "found"),
    [
        ("AWS_SESSION_TOKEN", f"{SECRET}\n", "a newline at its end"),
        ("AWS_SECRET_ACCESS_KEY", f"{SECRET}\r\n", "a newline at its end"),
        ("AWS_ACCESS_KEY_ID", f"{SECRET}\x7f", "a control character in it"),
        ("AWS_REGION", f"us\n{SECRET}", "a newline in it"),
    ],
)
def test_a_variable_that_no_header_takes_is_named(
    variable: str, value: str, found: str, bucket: Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(StorageError, match=f"^{variable} has {found}, which cannot be sent: set it without$"):
        ObjectStorage(bucket).get("x")


def test_a_panic_of_the_library_is_one_line(bucket: Url, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of what no variable says, but a profile: obstore panics, which is no Exception."""
    without_credentials(monkeypatch)
    profile = f"[default]\naws_access_key_id = a\naws_secret_access_key = b\naws_session_token = {SECRET}\x7f.\n"
    (tmp_path / "credentials").write_text(profile)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with pytest.raises(
        StorageError, match=r"/x: obstore, which was asked for it, broke down \(.*Invalid.*\): check AWS"
    ) as told:
        ObjectStorage(bucket).get("x")
    assert "SeCrEt" not in str(told.value)
    coming = Ahead(lambda: ObjectStorage(bucket).get("x"))
    assert coming.wait(20)
    with pytest.raises(StorageError):
        coming.result()


class Quoting(http.server.BaseHTTPRequestHandler):
    """Refuses whatever comes, and quotes it: S3 does so with what was signed."""

    def answer(self) -> None:
        request = f"{self.path} {self.headers}"
        quoted = f"<Error><Code>SignatureDoesNotMatch</Code><CanonicalRequest>{request}</CanonicalRequest></Error>"
        self.send_response(int(re.findall(r"[/=](\d{3})", self.path)[0]))
        self.send_header("Content-Length", str(len(quoted)))
        self.end_headers()
        self.wfile.write(quoted.encode())

    do_GET = do_PUT = do_DELETE = do_HEAD = do_POST = answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[..., http.server.BaseHTTPRequestHandler]], str]]:
    """Start a web server -> its address."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> str:
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _at_azure(endpoint: str) -> dict[str, str]:
    signed = f"https://account.blob.core.windows.net;SharedAccessSignature=sv=2021&sig={SECRET}"
    return {"AZURE_STORAGE_CONNECTION_STRING": f"BlobEndpoint={signed}", "AZURE_STORAGE_ENDPOINT": endpoint}


@pytest.mark.parametrize(
    ("scheme", "credentials", "skip"),
    [
        ("s3", Buckets(0).credentials, "AWS_SKIP_SIGNATURE"),
        ("gs", GoogleBuckets(0).credentials, "GOOGLE_SKIP_SIGNATURE"),
        ("az", _at_azure, "AZURE_SKIP_SIGNATURE"),
    ],
)
def test_no_secret_is_in_a_message(
    scheme: str,
    credentials: Callable[[str], dict[str, str]],
    skip: str,
    serve: Callable[[Callable[..., http.server.BaseHTTPRequestHandler]], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"{SECRET}-of-a-session")
    quoting = serve(Quoting)
    said: list[str] = []
    for endpoint, status in [
        *((quoting, status) for status in (400, 401, 403, 404, 301, 409, 412)),
        ("http://127.0.0.1:1", 0),
        (f"http://somebody:{SECRET}@127.0.0.1:1", 0),
    ]:
        for name, value in credentials(endpoint).items():
            monkeypatch.setenv(name, value)
        storage = ObjectStorage(Url(f"{scheme}://bucket/{status}"), stall_s=0.4, retry_s=0.1)
        for ask in (
            lambda storage: storage.get("x"),
            lambda storage: storage.get_ranges("x", [(0, 1)]),
            lambda storage: storage.put("x", b"content"),
            lambda storage: storage.put_if_absent("x", b"content"),
            lambda storage: storage.list(),
            lambda storage: storage.delete("x"),
        ):
            try:
                ask(storage)
            except (StorageError, FileNotFoundError) as error:
                said += [str(error), repr(error), repr(error.__context__), *traceback.format_exception(error)]
        said += [repr(storage), str(storage), repr(vars(storage)), repr(pickle.dumps(storage))]
    for name, value in credentials(quoting).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(skip, SECRET)
    with pytest.raises(StorageError) as refused:
        storage = ObjectStorage(Url(f"{scheme}://bucket")).get("x")
    said.append(str(refused.value))
    assert not [line for line in said if "SeCrEt" in line]
    variables = re.escape(CREDENTIALS[{"s3": "S3", "gs": "GCS", "az": "Azure"}[scheme]])
    for status, told in {
        "401": rf"x: access is denied \(401 Unauthorized, SignatureDoesNotMatch\): check {variables}",
        "403": rf"x: access is denied \(403 Forbidden, SignatureDoesNotMatch\): check {variables}",
        "301": "x: the bucket is in another region: set AWS_REGION" if scheme == "s3" else "x: it is elsewhere: check",
        "400": "x: the server answers 400 Bad Request, SignatureDoesNotMatch: check the network",
    }.items():
        assert any(re.search(f"^{scheme}://bucket/{status}/{told}", line) for line in said), status


def test_who_may_not_write_is_told_so(
    serve: Callable[[Callable[..., http.server.BaseHTTPRequestHandler]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in Buckets(0).credentials(serve(Quoting)).items():
        monkeypatch.setenv(name, value)
    storage = ObjectStorage(Url("s3://bucket/403"), stall_s=0.4, retry_s=0.1)
    denied = r"^s3://bucket/403/x: {} is denied \(403 Forbidden, SignatureDoesNotMatch\): check AWS_ACCESS.*{}$"
    for ask, what, end in (
        (lambda: storage.put("x", b"content"), "writing", "=true"),
        (lambda: storage.put_if_absent("x", b"content"), "writing", "=true"),
        (lambda: storage.delete("x"), "removing", "=true"),
        (lambda: storage.get("x"), "access", "; where nothing may be listed, what is absent is refused too"),
    ):
        with pytest.raises(StorageError, match=denied.format(what, end)):
            ask()


# -- web servers -------------------------------------------------------------------------------------------------------


def test_files_of_a_web_server_are_read(object_server: Buckets, bucket: Url) -> None:
    ObjectStorage(bucket).put("a/x.tar", BODY)
    path = bucket.partition("://")[2]
    object_server.publish(f"/{path}/a/x.tar")
    web = ObjectStorage(Url(f"{object_server.url}/{path}"))
    assert web.get("a/x.tar") == BODY
    assert web.get("a/y.tar") is None
    (entry,) = web.list("a/x.tar")
    assert entry == ObjectStorage(bucket).list("a")[0]
    assert web.list("a/y.tar") == []
    assert web.get_ranges("a/x.tar", [(5, 10), (599_999, 10)], entry.stamp) == [BODY[5:15], BODY[-1:]]
    for folder in ("", "a/"):
        with pytest.raises(StorageError, match=r"a web server's folders cannot be listed: name the files$"):
            web.list(folder)
    for write in (
        lambda: web.put("y", b""),
        lambda: web.put_if_absent("y", b""),
        lambda: web.delete("a/x.tar"),
    ):
        with pytest.raises(StorageError, match=r"is read-only: give a folder or a bucket to write to$"):
            write()
    assert web.get("a/x.tar") == BODY


@pytest.mark.parametrize("written", ["sp ace", "sp%20ace", "gr%C3%BCn", "grün", "plus+eq=&~", "100%25"])
def test_an_address_of_a_web_server_is_as_it_is_written(written: str, tmp_path: Path) -> None:
    """With escapes or without, in what names a folder and in what names a file."""

    def heard(name: str) -> str:
        """By the server."""
        return quote(unquote(name), safe="+=&")

    with WebServer(tmp_path) as server:
        web = ObjectStorage(Url(f"{server.url}/{written}"))
        file = tmp_path / heard(written) / heard(f"{written}.tar")
        file.parent.mkdir()
        file.write_bytes(b"content")
        for name in (written, unquote(written)):
            assert web.get(f"{name}.tar") == b"content"
            assert [entry.name for entry in web.list(f"{name}.tar")] == [f"{name}.tar"]
            assert web.get_ranges(f"{name}.tar", [(1, 2)]) == [b"on"]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_of_a_web_server_without_etags_the_time_counts(
    serve: Callable[[Callable[..., http.server.BaseHTTPRequestHandler]], str], tmp_path: Path
) -> None:
    """Python's own gives no parts of files either."""
    web = ObjectStorage(Url(serve(partial(Quiet, directory=str(tmp_path)))))
    (tmp_path / "x").write_bytes(b"content")
    before = web.list("x")
    assert (before[0].name, before[0].num_bytes, web.list("x")) == ("x", 7, before)
    os.utime(tmp_path / "x", (1_000_000, 1_000_000))
    assert web.list("x") != before
    assert web.get("x") == b"content"
    with pytest.raises(StorageError, match=r"/x: the server gives no parts of files: copy it, and name the copy$"):
        web.get_ranges("x", [(1, 2)])
