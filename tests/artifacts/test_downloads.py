"""Files that are fetched from an address: whole or not there, once, and those we know."""

import concurrent.futures
import hashlib
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import command
from server import Server

from agd.artifacts import downloads
from agd.measures import extractors
from agd.runtime.errors import UserError

CONTENT = np.random.default_rng(0).bytes(3_000_000)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server(CONTENT) as serving:
        digest = "md5:" + hashlib.md5(CONTENT).hexdigest()
        monkeypatch.setattr(downloads, "KNOWN", {serving.url: digest, serving.url + "x": digest})
        yield serving


def whole(path: Path) -> bool:
    return path.read_bytes() == CONTENT and not list(path.parent.glob("*.part"))


def test_a_download_is_whole(server, tmp_path, capsys):
    command("download", "--url", server.url, "--output", tmp_path / "new" / "file.bin", family=None)
    assert whole(tmp_path / "new" / "file.bin")
    assert "file.bin (MiB): 2/2 (100%)" in capsys.readouterr().err


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on(server, tmp_path, ranges):
    server.breaks_after, server.ranges = 2_000_000, ranges
    with pytest.raises(UserError, match=r"key: http://127.0.0.1.*can't be downloaded \(.*Error\); run again to go on"):
        downloads.fetch(server.url, tmp_path / "file.bin", "key")
    assert not (tmp_path / "file.bin").exists()
    had = (tmp_path / "file.bin.part").stat().st_size
    assert 0 < had <= 2_000_000
    downloads.fetch(server.url, tmp_path / "file.bin", "key")
    assert whole(tmp_path / "file.bin")
    assert server.asked == [None, f"bytes={had}-"]


def test_two_at_once_fetch_it_once(server, tmp_path, capsys):
    server.seconds = 1
    file = tmp_path / "file.bin"
    both = [threading.Thread(target=downloads.fetch, args=(server.url, file, "key")) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert whole(file)
    assert server.asked == [None]
    assert f"{file}.part: another process is at it; waiting" in capsys.readouterr().out


def test_one_that_waited_goes_on_where_the_other_broke_off(server, tmp_path):
    server.seconds, server.breaks_after = 1, 2_000_000
    file = tmp_path / "file.bin"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        both = [pool.submit(downloads.fetch, server.url, file, "key") for _ in range(2)]
    assert sorted(type(each.exception()).__name__ for each in both) == ["NoneType", "UserError"]
    assert whole(file)
    assert len(server.asked) == 2
    assert server.asked[1].startswith("bytes=")


def test_nothing_is_left_of_a_download_that_got_nothing(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="can't be downloaded"):
        downloads.fetch(server.url, tmp_path / "file.bin", "key")
    assert list(tmp_path.iterdir()) == []


def test_a_whole_part_is_only_checked(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    downloads.fetch(server.url, tmp_path / "file.bin", "key")
    assert whole(tmp_path / "file.bin")


def test_a_wrong_checksum_is_named_and_nothing_is_left(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(b"something else")
    with pytest.raises(UserError) as error:
        downloads.fetch(server.url, tmp_path / "file.bin", "key")
    found = hashlib.md5(b"something else" + CONTENT[14:]).hexdigest()
    expected = hashlib.md5(CONTENT).hexdigest()
    assert f"key: {server.url} gave a file whose md5 is {found} and not {expected}; run again" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_address_is_asked_once(server):
    downloads.reachable.cache_clear()
    downloads.reachable(server.url, "models.x.captions")
    with pytest.raises(UserError) as error:
        downloads.reachable(server.url + "x", "models.x.captions")
    assert str(error.value) == (
        f"models.x.captions: {server.url}x can't be reached (HTTP 404); fetch it and give its path"
    )
    server.shutdown()
    server.server_close()
    downloads.reachable(server.url, "models.x.captions")  # still known
    with pytest.raises(UserError, match=r"another: .* can't be reached \(ConnectionError\)"):
        downloads.reachable(server.url, "another")


def test_only_known_addresses_are_fetched(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command("download", "--url", "http://127.0.0.1/x.zip", "--output", tmp_path / "x.zip", family=None)
    assert "--url: http://127.0.0.1/x.zip has no known checksum; choose one of http" in capsys.readouterr().err


def test_what_is_known_of_inception_is_one_thing():
    assert downloads.KNOWN[downloads.INCEPTION] == f"sha256:{extractors.INCEPTION_SHA256}"
    assert all(re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", digest) for digest in downloads.KNOWN.values())


def test_a_planted_link_is_not_followed(server, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "file.bin.part").symlink_to(victim)
    with pytest.raises(UserError, match=r"file.bin.part: is a link; delete it"):
        downloads.fetch(server.url, tmp_path / "file.bin", "key")
    assert victim.read_text() == "precious"


def test_a_body_without_end_is_cut(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "_MOST", 1 << 20)
    with pytest.raises(UserError, match="can't be downloaded"):
        downloads.fetch(server.url, tmp_path / "file.bin", "key")
    assert (tmp_path / "file.bin.part").stat().st_size <= 3 << 20


def test_no_login_goes_out(server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    downloads.fetch(server.url, tmp_path / "file.bin", "key")
    assert server.logins == [None] * len(server.asked)
