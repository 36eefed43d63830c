"""Models that are in a folder, in the hub's cache, on the hub, or nowhere; the hub is a server on this machine."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from icl.attention.models import load_model
from icl.bank.embedding.embedder import Embedder
from icl.common import hub
from tests.icl.models import tiny_model


class Hub(BaseHTTPRequestHandler):
    """Knows one model, one with terms, and is broken for one."""

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/").partition("?")[0]
        code, error = {"org/there": (200, ""), "org/gated": (403, "GatedRepo"), "org/broken": (503, "")}.get(
            name, (404, "RepoNotFound")
        )
        body = json.dumps({"id": name, "_id": name, "tags": [], "siblings": []}).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield address
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("org/nowhere", "no model of this name on the hub"),
        ("org/gated", "accepted its terms"),
        ("org/broken", "the hub does not answer: .*503"),
        ("/no/such/folder", "there is no folder /no/such/folder"),
        ("no/such/folder", "there is no folder no/such/folder"),
        ("./model", "there is no folder"),
        ("a model", "there is no folder a model"),
        ("\n", "there is no folder"),
    ],
)
def test_what_is_not_there_is_told(name: str, reason: str, endpoint: str) -> None:
    with pytest.raises(ValueError, match=reason):
        hub.locate(name)


def test_what_is_there_is_found(endpoint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "icl")
    assert hub.locate(str(tmp_path)) == {"local_files_only": True}
    assert caplog.text == ""
    assert hub.locate("org/there") == {}
    assert f"asking {endpoint} for org/there" in caplog.text


def test_a_hub_that_never_answers_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "_TIMEOUT", 0.1)
        with pytest.raises(ValueError, match=r"does not answer: .*timed out.*hf download org/there --local-dir"):
            hub.locate("org/there")


def test_offline_takes_the_cache_or_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"it may not be asked \(HF_HUB_OFFLINE\)"):
        hub.locate("org/there")
    snapshot = tmp_path / "models--org--there" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--org--there" / "refs").mkdir()
    (tmp_path / "models--org--there" / "refs" / "main").write_text("abc")
    assert hub.locate("org/there") == {"local_files_only": True}
    assert hub.cached("/no/such/folder") is None


def test_models_of_other_kinds_are_told_apart(tmp_path: Path) -> None:
    clip = tiny_model("clip", tmp_path / "clip")
    with pytest.raises(ValueError, match="is a clip, which writes no text about images") as raised:
        load_model(str(clip))
    assert len(str(raised.value)) < 400
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text("{}")
    for name in ("empty", "odd"):
        for load in (load_model, Embedder):
            with pytest.raises(ValueError, match=f"model: .*{name} cannot be loaded") as raised:
                load(str(tmp_path / name))
            assert len(str(raised.value)) < 500
    weights = clip / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="clip cannot be loaded"):
        Embedder(clip)
    with pytest.raises(ValueError, match="is a file: name the folder"):
        load_model(str(weights))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "cpu:x", " ", "5"])
def test_devices_that_are_none(device: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"device '{device}' cannot be used"):
        Embedder(tmp_path, device)


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"model: {tmp_path} holds an adapter: name it as one"):
        load_model(str(tmp_path))
