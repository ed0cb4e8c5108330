"""Downloads from a server that does what servers should not, and pictures by their address."""

import contextlib
import dataclasses
import hashlib
import http.client
import io
import os
import shutil
import socket
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import batch, picture
from PIL import Image

import nst
from nstlib import UserError, fetch, images, networks


def jpeg():
    file = io.BytesIO()
    Image.fromarray(picture(48, 64)).save(file, "JPEG")
    return file.getvalue()


PICTURE = jpeg()


@pytest.fixture
def serve(monkeypatch):
    """Answers every connection with `reply(connection)`; gives the address of a picture there."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetch, "PATIENCE", 0.5)
    fetch.picture.cache_clear()
    listener = socket.create_server(("127.0.0.1", 0))
    stop, asked = threading.Event(), []

    def serve(reply):
        def answer():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=speak, args=[connection], daemon=True).start()

        def speak(connection):
            with contextlib.suppress(OSError), connection:
                asked.append(connection.recv(9999))
                for part in reply():
                    connection.sendall(part)
                    if stop.is_set():
                        return

        threading.Thread(target=answer, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/a/photo.jpg"

    serve.asked = asked
    yield serve
    stop.set()
    listener.close()


def whole(data=PICTURE, length=None, status="200 OK"):
    yield f"HTTP/1.1 {status}\r\nContent-Length: {length or len(data)}\r\n\r\n".encode() + data


def without_length():
    yield b"HTTP/1.0 200 OK\r\n\r\n" + PICTURE


def trickle(start, part=b"x"):
    yield start
    while True:
        time.sleep(0.05)
        yield part


def without_end():
    yield b"HTTP/1.0 200 OK\r\n\r\n"
    while True:
        yield bytes(1 << 20)


@pytest.mark.parametrize("reply", [whole, without_length])
def test_picture_by_its_address(serve, reply):
    address = serve(reply)
    expected = images.load(io_file(PICTURE))
    assert images.image_size(address) == (64, 48)
    assert (images.load(address) == expected).all()
    assert images.load(address, 32).shape == (24, 32, 3)
    assert len(serve.asked) == 1
    assert serve.asked[0].startswith(b"GET /a/photo.jpg HTTP/1.1\r\n")


def test_the_address_is_kept(serve, tmp_path):
    """Of pictures given on the command line, with the result."""
    address, result = serve(whole), tmp_path / "out.png"
    few = ["--network", "small", "--size", "32", "-n", "1", "--style_layers", "level1_conv1"]
    assert nst.main(["-c", address, "-s", address, "-r", str(result), *few]) == 0
    found = images.read_metadata(result)
    assert (found["content"], found["style"]) == (address, [address])
    assert len(serve.asked) == 1


def io_file(data):
    path = Path(os.environ["KERAS_HOME"], "expected.jpg")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (lambda: whole(b"?", status="404 Not Found"), "the server answers 404 Not Found"),
        (lambda: whole(length=2 * len(PICTURE)), "the connection broke off"),
        (lambda: whole(length=10**10), "the connection broke off"),
        (lambda: whole(b"no picture at all"), "of an unknown format"),
        (lambda: whole(PICTURE[:-500]), "it is damaged or incomplete"),
        (lambda: [b"HTTP/1.1 200 OK\r\n\r\n"], "the file is empty"),
        (list, "Remote end closed connection"),
        (lambda: [b"garbage\r\n"], "garbage"),
        (lambda: trickle(b""), "too little came in 0 seconds"),
        (lambda: trickle(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"), "too little"),
        (lambda: trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"), "too little"),
        (without_end, "it is larger than 1 MB"),
        (lambda: [b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n"], "302"),
    ],
)
def test_bad_server(serve, monkeypatch, reply, reason):
    monkeypatch.setattr(fetch, "PICTURE", 1_000_000)
    address = serve(reply)
    with pytest.raises(UserError) as error:
        images.load(address)
    message = str(error.value)
    assert message.startswith(f"cannot read {address}: ")
    assert reason in message
    assert "\n" not in message
    assert ";" in message


@pytest.mark.parametrize("address", ["http://", "http://[", "https://a b", "http://127.0.0.1:x/"])
def test_no_address(address, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(UserError, match="check the address"):
        images.load(address)


# Weights


@pytest.fixture
def cached(serve, tmp_path):
    """Downloads PICTURE, as the only right file, into a folder."""

    def cached(reply=whole):
        return fetch.cached(serve(reply), hashlib.md5(PICTURE).hexdigest(), tmp_path / "models")

    return cached


def test_two_first_downloads_at_once(cached, serve, tmp_path):
    """Neither sees what the other has not finished."""
    both, paths = threading.Barrier(2), []

    def slowly():
        start = PICTURE[: len(PICTURE) // 2]
        yield from whole(start, length=len(PICTURE))
        both.wait(5)
        yield PICTURE[len(start) :]

    threads = [threading.Thread(target=lambda: paths.append(cached(slowly))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert paths == 2 * [tmp_path / "models" / "photo.jpg"]
    assert [path.read_bytes() for path in paths[0].parent.iterdir()] == [PICTURE]


class PlainHTTPS(urllib.request.HTTPSHandler):
    def https_open(self, request):
        return self.do_open(http.client.HTTPConnection, request)


SMALL = Path(networks.find_weights("small")).read_bytes()


@pytest.fixture
def server(serve, monkeypatch):
    """Serves the bundled weights as those of "vgg19", without the encryption; `reply` changes what
    it answers."""
    server = SimpleNamespace(reply=lambda: whole(SMALL), asked=serve.asked)
    server.address = serve(lambda: server.reply()).replace("http:", "https:")
    monkeypatch.setattr(urllib.request, "_opener", urllib.request.build_opener(PlainHTTPS()))
    network = dataclasses.replace(
        networks.NETWORKS["small"], weights=server.address, md5=hashlib.md5(SMALL).hexdigest()
    )
    monkeypatch.setitem(networks.NETWORKS, "vgg19", network)
    shutil.rmtree(cache(), ignore_errors=True)
    return server


def cache():
    return Path(os.environ["KERAS_HOME"]) / "models"


def test_download_once(server, capsys, caplog):
    caplog.set_level("INFO", "nst")
    layers, image = ["level2_conv1"], batch(picture(16, 16))
    expected = networks.feature_extractor("small", layers)(image)["level2_conv1"]
    for _ in range(2):
        seen = networks.feature_extractor("vgg19", layers)(image)["level2_conv1"]
        assert np.array_equal(seen, expected)
    assert len(server.asked) == 1
    assert [path.name for path in cache().iterdir()] == ["photo.jpg"]
    assert capsys.readouterr().out == ""
    assert caplog.messages == [f"downloading {server.address}"]


@pytest.mark.parametrize(
    "reply",
    [
        lambda: whole(SMALL[:-1] + bytes([SMALL[-1] ^ 1])),
        lambda: whole(SMALL[: len(SMALL) // 2], len(SMALL)),
        lambda: trickle(b""),
    ],
    ids=["wrong", "cut off", "trickle"],
)
def test_failed_download(server, capsys, reply):
    """Nothing but the right file is kept; the next time, it is asked for again."""
    good, server.reply = server.reply, reply
    with pytest.raises(networks.WeightsUnavailable) as error:
        networks.find_weights("vgg19")
    for part in ("vgg19", server.address, "--weights", str(cache().parent)):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(cache().iterdir())
    server.reply = good
    networks.find_weights("vgg19")
    assert len(server.asked) == 2
    assert socket.getdefaulttimeout() is None
    assert capsys.readouterr().out == ""


def test_weights_that_stay_the_same_are_hashed_once(server, monkeypatch):
    networks.find_weights("vgg19")
    hashed, md5 = [], hashlib.md5
    monkeypatch.setattr(fetch.hashlib, "md5", lambda *x, **y: hashed.append(1) or md5(*x, **y))
    for _ in range(3):
        networks.find_weights("vgg19")
    assert len(hashed) == 1
    (cache() / "photo.jpg").write_bytes(SMALL[:1000])
    networks.find_weights("vgg19")
    assert len(server.asked) == 2


def test_damaged_cache_is_downloaded_anew(server):
    cache().mkdir()
    (cache() / "photo.jpg").write_bytes(SMALL[:1000])
    assert Path(networks.find_weights("vgg19")).read_bytes() == SMALL
    assert len(server.asked) == 1


def test_no_network_no_matter(server, caplog, capsys):
    """One warning, and the picture is painted with the bundled network."""
    server.reply = list
    layers = {"content_layers": ("level1_conv1",), "style_layers": ("level1_conv1",)}
    settings = nst.Settings(num_iter=2, size=32, **layers)
    result = nst.stylize(picture(32, 32), picture(32, 32, 1), settings)
    assert result.image.shape == (32, 32, 3)
    assert result.settings.network == "small"
    assert result.settings.content_layers == ("level1_conv1",)
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    for part in ("vgg19", "closed connection", server.address, "--weights", "small"):
        assert part in message
    assert "\n" not in message
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("lacks", ["home", "temporary folder"])
def test_nowhere_to_keep_weights(monkeypatch, tmp_path, serve, lacks):
    """A home that may not be entered, even asked whether the file is there, or no place at all."""

    def denied(*_):
        raise PermissionError("permission denied")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(networks.os, "access", lambda *_: False)
    monkeypatch.setattr(Path, "is_file", denied)
    if lacks == "temporary folder":
        monkeypatch.setattr(networks.tempfile, "gettempdir", denied)
    address = serve(lambda: whole(b"?")).replace("http:", "https:")
    network = dataclasses.replace(networks.NETWORKS["vgg19"], weights=address)
    monkeypatch.setitem(networks.NETWORKS, "vgg19", network)
    with pytest.raises(networks.WeightsUnavailable):
        networks.find_weights("vgg19")


def test_folder_named_is_the_one_used(monkeypatch, tmp_path, serve):
    """Where Keras's own cannot be written, as Keras does."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file" / "keras"))
    monkeypatch.setattr(networks.tempfile, "tempdir", str(tmp_path))
    address = serve(lambda: whole(b"?"))
    address = address.replace("http:", "https:")
    network = dataclasses.replace(networks.NETWORKS["vgg19"], weights=address)
    monkeypatch.setitem(networks.NETWORKS, "vgg19", network)
    with pytest.raises(networks.WeightsUnavailable) as error:
        networks.find_weights("vgg19")
    assert f"put it into {tmp_path}/.keras/models," in str(error.value)
    assert (tmp_path / ".keras" / "models").is_dir()
