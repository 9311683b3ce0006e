"""A web server of a folder's files: it gives parts of them, with ETags, and lists nothing."""

import re
import threading
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class WebServer(AbstractContextManager["WebServer"]):
    """Listens on this machine, at `url`, until it is left; `requests` are the lines that came."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else a body waits 40 ms for its headers

            def log_message(self, *words: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def _answer(self, *, with_body: bool) -> None:
                wanted = self.headers.get("Range", "")
                server.requests.append(f"{self.command} {self.path} {wanted}".strip())
                file = folder / self.path.strip("/")
                if not file.is_file():
                    self._send(404, {}, b"")
                    return
                content = file.read_bytes()
                headers = {"ETag": f'"{file.stat().st_mtime_ns:x}-{len(content):x}"'}
                part = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
                if part is None:
                    self._send(200, headers, content, with_body=with_body)
                    return
                start, stop = int(part[1]), min(int(part[2]) + 1, len(content))
                if start >= len(content):
                    self._send(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
                    return
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
                self._send(206, headers, content[start:stop], with_body=with_body)

            def _send(self, status: int, headers: dict[str, str], content: bytes, *, with_body: bool = True) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if with_body:
                    self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *details: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
