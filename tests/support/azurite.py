"""Azure's blobs on this machine: Microsoft's Azurite, where it is installed, in a process of its own.

As a program, `python -m tests.support.azurite AZURITE`: says its port, and serves until its standard input ends.
"""

import base64
import hashlib
import hmac
import http.client
import os
import re
import shutil
import subprocess
import sys
import uuid
from email.utils import formatdate

from tests.support.server_process import ServerProcess

HOST = "127.0.0.1"
ACCOUNT = "devstoreaccount1"
# the key of everybody's Azurite, as its manual has it
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
ABSENT = "Azurite is not installed (npm install azurite; AZURITE names its azurite-blob where PATH does not)"


def find_azurite() -> str | None:
    """The program, where it is installed."""
    return shutil.which(os.environ.get("AZURITE", "azurite-blob"))


class AzureServer(ServerProcess):
    """The server, at `port`."""

    def __init__(self, program: str) -> None:
        super().__init__("tests.support.azurite", program)
        self.port = int(self.said)


class Containers:
    """Those of a server, at `host` and `port`: made as they are asked for."""

    def __init__(self, port: int) -> None:
        self.host, self.port = HOST, port

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def credentials(self, endpoint: str) -> dict[str, str]:
        """What a process needs in its environment to be let in at an address."""
        return {
            "AZURE_STORAGE_ENDPOINT": f"{endpoint}/{ACCOUNT}",
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "NO_PROXY": "127.0.0.1",
        }

    def new_place(self, *, public: bool = False) -> str:
        """The URL of an empty container, whose files everybody may read or none."""
        name = f"container-{uuid.uuid4().hex}"
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        if public:
            headers["x-ms-blob-public-access"] = "blob"
        said = "".join(f"{header}:{value}\n" for header, value in sorted(headers.items()))
        signed = "PUT" + "\n" * 12 + f"{said}/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256)).decode()
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{signature}"
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        connection.request("PUT", f"/{ACCOUNT}/{name}?restype=container", headers=headers)
        assert connection.getresponse().status == 201
        connection.close()
        return f"az://{name}"


def serve(program: str) -> None:
    words = ["--blobPort", "0", "--inMemoryPersistence", "--silent", "--disableTelemetry"]
    with subprocess.Popen(
        [program, "--blobHost", HOST, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            while (found := re.search(r"listens on http://.*:(\d+)", line := process.stdout.readline())) is None:
                assert line, f"{program} did not start"
            print(found[1], flush=True)
            sys.stdin.read()
        finally:
            process.terminate()
            process.stdout.read()  # it says that it ends, and fails where nobody listens


if __name__ == "__main__":
    serve(sys.argv[1])
