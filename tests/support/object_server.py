"""An object store on this machine: moto's, which speaks S3, and Google's XML near enough, in a process of its own.

As a program, `python -m tests.support.object_server`: says its port, imports when it is first asked, and serves until
its standard input ends.
"""

import http.client
import io
import os
import select
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from tests.support.server_process import ServerProcess

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]  # of WSGI
HOST = "127.0.0.1"
PAGE = 20  # names in an answer to a listing; Amazon gives 1,000
SOMEBODY = "AWS4-HMAC-SHA256 Credential=somebody/20260101/us-east-1/s3/aws4_request"
SECRET = "a-SeCrEt-that-nobody-may-see"
KINDS = "s3", "gs", "az"  # of servers, which a test of buckets may ask for: fixtures of tests/conftest.py


class ObjectServer(ServerProcess):
    """The server, at `port`."""

    def __init__(self) -> None:
        super().__init__(
            "tests.support.object_server", environment={**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)}
        )
        self.port = int(self.said)


class Buckets:
    """Those of a server, at `host` and `port`: made as they are asked for."""

    scheme = "s3"

    def __init__(self, port: int) -> None:
        self.host, self.port = HOST, port

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def credentials(self, endpoint: str) -> dict[str, str]:
        """What a process needs in its environment to be let in at an address."""
        return {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
        }

    def new_place(self) -> str:
        """The URL of an empty bucket."""
        name = f"bucket{uuid.uuid4().hex}"  # without what Google's clients escape, as moto takes it as it comes
        self._put(f"/{name}", {})
        return f"{self.scheme}://{name}"

    def publish(self, path: str) -> None:
        """Let everybody read /BUCKET/NAME."""
        self._put(f"{path}?acl", {"x-amz-acl": "public-read", "Authorization": SOMEBODY})

    def _put(self, path: str, headers: dict[str, str]) -> None:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        connection.request("PUT", path, headers=headers)
        assert connection.getresponse().status == 200
        connection.close()


class GoogleBuckets(Buckets):
    """The same buckets, as Google's clients ask for them."""

    scheme = "gs"

    def credentials(self, endpoint: str) -> dict[str, str]:
        return {"GOOGLE_BASE_URL": endpoint, "GOOGLE_BEARER_TOKEN": SECRET, "NO_PROXY": "127.0.0.1"}


def as_google(app: Application) -> Application:
    """Who has a token is somebody, and Google's condition that nothing is there yet is S3's."""

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ.get("HTTP_AUTHORIZATION") == f"Bearer {SECRET}":
            environ = {**environ, "HTTP_AUTHORIZATION": SOMEBODY}
        if environ.get("HTTP_X_GOOG_IF_GENERATION_MATCH") == "0":
            environ = {**environ, "HTTP_IF_NONE_MATCH": "*"}
        return app(environ, start_response)

    return answer


def one_create_at_a_time(app: Application) -> Application:
    """S3 lets one of several create a name; moto looks whether it is there, and another may as well until it writes."""
    lock = threading.Lock()

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if "HTTP_IF_NONE_MATCH" not in environ:
            return app(environ, start_response)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))  # which may be long in coming
        with lock:
            return app({**environ, "wsgi.input": io.BytesIO(body)}, start_response)

    return answer


def serve() -> None:
    listener = socket.create_server((HOST, 0), backlog=128)
    print(listener.getsockname()[1], flush=True)
    if listener not in select.select([listener, sys.stdin], [], [])[0]:
        return
    from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    # S3 alone: moto's own server looks through its folders at each request for which service it may be of
    app = as_google(one_create_at_a_time(create_backend_app("s3")))
    server = make_server(HOST, 0, app, threaded=True, request_handler=MotoRequestHandler, fd=listener.fileno())
    listener.close()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # a line for each request
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    serve()
