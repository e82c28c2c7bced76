"""Servers of shards on this machine: http and S3."""

import contextlib
import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, notes what was asked for, and breaks off where it is told to."""

    def log_message(self, *args):
        """Say nothing."""

    def do_GET(self):
        self.server.asked.append(self.path.rpartition("/")[2])
        if self.server.break_off.get(self.path.rpartition("/")[2], 0) > 0:
            self.server.break_off[self.path.rpartition("/")[2]] -= 1
            data = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        super().do_GET()


class Server(http.server.ThreadingHTTPServer):
    """``asked``: names of files, in order; ``break_off``: how often each is cut short."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(root)))
        self.asked: list[str] = []
        self.break_off: dict[str, int] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def serve_http(root: Path) -> Iterator[Server]:
    """An http server of a folder."""
    with Server(root) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def serve_s3() -> Iterator[dict[str, str]]:
    """A server that speaks S3, and the environment by which its clients find it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    server.stop()
