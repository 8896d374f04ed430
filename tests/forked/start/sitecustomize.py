"""Python imports this as it starts, where PYTHONPATH says so: hands a stage over to tests/forked/server.py."""

import os
import sys

if (
    os.environ.get("AGD_FORKED")
    and sys.orig_argv[1:2] == ["-m"]
    and "".join(sys.orig_argv[2:3]).startswith(("agd.", "benchmarks."))
):
    import json
    import signal
    import socket

    with socket.socket(socket.AF_UNIX) as _connection:
        _connection.connect(os.environ["AGD_FORKED"])
        _mask = os.umask(0)
        os.umask(_mask)
        _asked = {"words": sys.orig_argv[2:], "folder": os.getcwd(), "environment": dict(os.environ), "umask": _mask}
        _message = json.dumps(_asked).encode()
        socket.send_fds(_connection, [len(_message).to_bytes(8, "big")], [0, 1, 2])
        _connection.sendall(_message)
        _child = _connection.recv(64)
        if _child != b"no":
            for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                signal.signal(_number, lambda number, frame: os.kill(int(_child), number))
            _status = int(_connection.recv(64) or -signal.SIGKILL)
            if _status < 0:
                signal.signal(-_status, signal.SIG_DFL) if -_status != signal.SIGKILL else None
                os.kill(os.getpid(), -_status)
            os._exit(_status)
