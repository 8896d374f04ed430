"""Servers on this machine, for what downloads: any, and one of a single file."""

import http.server
import threading
import time


class Background(http.server.ThreadingHTTPServer):
    """Answers in a thread of its own while the block lasts."""

    def __init__(self, handler: type):
        super().__init__(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        """Whoever asked was killed, most likely."""


class Server(Background):
    """Serves `content` as /folder/{name} while the block lasts. ranges: whether it knows them. breaks_after: bytes after
    which it hangs up, once. seconds: how long all of it takes."""

    _PARTS = 50

    def __init__(self, content: bytes, name: str = "file.bin", seconds: float = 0):
        super().__init__(Handler)
        self.content, self.seconds = content, seconds
        self.ranges, self.breaks_after = True, None
        self.asked: list[str | None] = []  # the ranges
        self.logins: list[str | None] = []
        self.path = f"/folder/{name}"
        self.url = f"{self.address}{self.path}"

    def parts(self, start: int, stop: int | None):
        """The content from one byte to another, in its time."""
        step = len(self.content) // self._PARTS + 1
        for first in range(start, len(self.content) if stop is None else stop, step):
            yield self.content[first : min(first + step, stop or len(self.content))]
            time.sleep(self.seconds / self._PARTS)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers HEAD and GET."""

    def do_HEAD(self):
        self.send_response(200 if self.path == self.server.path else 404)
        self.end_headers()

    def do_GET(self):
        asked, whole = self.headers["Range"], len(self.server.content)
        self.server.asked.append(asked)
        self.server.logins.append(self.headers["Authorization"])
        start = int(asked.removeprefix("bytes=")[:-1]) if asked else 0
        if start >= whole:
            self.send_response(416)
            self.end_headers()
            return
        start = start if self.server.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(whole - start))
        self.end_headers()
        last, self.server.breaks_after = self.server.breaks_after, None
        for part in self.server.parts(start, last):
            self.wfile.write(part)

    def log_message(self, *words):
        pass
