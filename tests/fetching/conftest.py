"""A web server on localhost, which may answer for every host of the world."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from fetch_tools import BODY, PATH, Server, serving

from recount.fetching import transfers


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        running.files[PATH] = BODY
        yield running


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RECOUNT_MIRROR", "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def impostor(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Let the server answer for every host."""
    send = requests.adapters.HTTPAdapter.send

    def redirected(self: Any, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        assert request.url is not None
        request.url = server.address + "/" + request.url.split("://", 1)[1].split("/", 1)[1]
        return send(self, request, **kwargs)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", redirected)
    monkeypatch.setattr(transfers.socket, "create_connection", lambda *_, **__: socket.socket())
    return server
