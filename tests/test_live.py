"""``recount status --serve``: the live page says what files say, to this machine alone."""

from __future__ import annotations

import http.client
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from recount.cli import app
from recount.errors import UserError
from recount.live import view
from recount.live.server import Server, serve
from recount.live.view import Curve, Live, next_hour
from recount.results.attempts import Attempt
from recount.settings.project import Project, load
from report.test_browser import browser  # noqa: F401
from small_project import SUITE, make_project
from test_status import JOB, begun, log, note

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "<script>alert(1)</script>"
CROWD = {**SUITE, "benchmarks": {f"shown/{split}": {"dataset": "crowd", "split": split} for split in ("train", "test")}}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(view, "FRESH", 0.0)
    monkeypatch.setattr(view.planning, "check_data", lambda _: None)  # the small project's system is none of recount's
    return make_project(tmp_path, suite=CROWD, seeds=[0, 1])


@pytest.fixture
def server(project: Project) -> Iterator[Server]:
    live = Live(project.root, lambda: load(project.root, {"seeds": [0, 1]}))
    with Server(live, 0) as served:
        threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield served
        served.shutdown()


def ask(server: Server, path: str = "/", method: str = "GET", hosts: list[str] | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    for host in [f"127.0.0.1:{server.server_port}"] if hosts is None else hosts:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_page_says_what_runs_failed_and_waits_and_follows_the_files(project: Project, server: Server) -> None:
    assert "2 waiting, 2 skipped" in ask(server)[1]
    begun(project, "node7", 1)
    note(project)
    lines = "".join(f"INFO density epoch {n}: mae 3 loss {10 - n}.5 lr 0.1\n" for n in (1, 2, 2, 3))
    log(project, lines)
    found = ask(server)[1]
    assert "density epoch 3/60, step 12/40" in found and '<progress max="2400" value="92"' in found
    assert "in use: NVIDIA H200 on node7" in found and "9.5 to 7.5 in 3 epochs" in found
    path = begun(project, socket.gethostname(), 2**22 - 3)  # and it crashes
    log(project, f"{lines}RuntimeError: {HOSTILE}\n")
    found = ask(server)[1]
    assert "was killed without a word" in found and "RuntimeError: &lt;script&gt;" in found and HOSTILE not in found
    path.unlink()
    history = project.root / project.results / f"runs/{JOB}/history.csv"
    history.parent.mkdir(parents=True)
    history.write_text("stage,epoch,loss\na,1,4.0\na,2,nan\na,3,x\na,4,\na,5,1e400\nb,1,1.0\n")
    assert "4 to 1 in 2 epochs" in ask(server)[1]


def test_settings_that_cannot_be_read_are_told_until_they_can(project: Project, server: Server) -> None:
    config = project.root / "config.yaml"
    before = config.read_text()
    config.write_text(before + f"seedz: '{HOSTILE}'\n")
    status, found = ask(server)
    assert status == 200 and "The settings cannot be read" in found and "seedz" in found and HOSTILE not in found
    config.write_text(before)
    os.utime(config, (1, 1))
    assert "2 waiting" in ask(server)[1]


@pytest.mark.parametrize(
    "hosts",
    [["evil.example"], ["evil.example:{port}"], ["127.0.0.1"], ["127.0.0.1:1"], [""], [], ["127.0.0.1:{port}", "evil"],
     ["127.0.0.1:{port}.evil.example"], ["[::1]:{port}"]],
)  # fmt: skip
def test_a_request_sent_to_another_name_is_refused(server: Server, hosts: list[str]) -> None:
    status, found = ask(server, hosts=[host.format(port=server.server_port) for host in hosts])
    assert status == 421 and "waiting" not in found
    assert ask(server, hosts=[f"localhost:{server.server_port}"])[0] == 200


@pytest.mark.parametrize(
    "path", ["/config.yaml", "/../config.yaml", "//etc/passwd", "/%2e%2e/x", "/?x=1", "*", "http://evil/"]
)
def test_there_is_one_path(server: Server, path: str) -> None:
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "X"])
def test_nothing_but_get_is_answered(server: Server, method: str) -> None:
    assert ask(server, method=method)[0] == 501


def test_it_listens_on_this_machine_alone_and_a_taken_port_is_one_line(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(UserError, match=f"port {server.server_port} is in use on this machine"):
        Server(server.live, server.server_port)
    done = CliRunner().invoke(app, ["status", "--serve", "--port", str(server.server_port)])
    assert done.exit_code == 1 and done.stderr.count("\n") == 1
    assert CliRunner().invoke(app, ["status", "--serve", "--json"]).exit_code == 1


def test_the_next_hour_is_the_cheapest_path_or_what_waits(project: Project) -> None:
    found = next_hour(project)
    assert found["why"].startswith("no training of this suite decides more claims")
    assert [row[0] for row in found["rows"]] == ["good/full/seed0"]  # one job is the hour
    assert next_hour(load(project.root, {"runs": "released"}))["why"] == "nothing waits"


def test_a_curve_fits_its_box() -> None:
    points = [tuple(map(float, point.split(","))) for point in Curve("r", "done", (5.0, 1.0, 3.0)).line.split()]
    assert points == [(0.0, 1.0), (50.0, 29.0), (100.0, 15.0)]
    assert Curve("r", "done", (2.0, 2.0)).line == "0.0,29.0 100.0,29.0"


def test_ctrl_c_counts_from_the_moment_the_address_is_told(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Told(io.StringIO):
        def flush(self) -> None:
            monkeypatch.undo()
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdout", Told())
    serve(project.root, lambda: project, 0)
    assert capsys.readouterr().out == "recount: the page has ended; what runs goes on\n"


@pytest.mark.more
def test_ctrl_c_ends_it_with_one_line(project: Project) -> None:
    command = [sys.executable, "-m", "recount", "status", "--serve", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=project.root
    ) as served:
        assert served.stdout is not None and served.stderr is not None
        assert re.match(r"http://127\.0\.0\.1:\d+/ shows what runs", served.stdout.readline())
        served.send_signal(signal.SIGINT)
        assert served.wait(30) == 0
        assert served.stdout.read() == "recount: the page has ended; what runs goes on\n" and served.stderr.read() == ""


@pytest.mark.more
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_open_page_renews_itself_and_axe_finds_nothing_serious(
    browser: Browser,  # noqa: F811
    project: Project,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    scheme: str,
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(server.address)
    page.locator("#paper-1 summary").click()
    record = Attempt.read(begun(project, "node7", 1))
    assert record.job == JOB
    note(project)
    log(project, "INFO density epoch 1: loss 3\nINFO density epoch 2: loss 2\n")
    page.get_by_text("density epoch 3/60").first.wait_for(timeout=20_000)
    assert page.locator("#paper-1").evaluate("details => details.open")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    violations = axe.Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in violations if v["impact"] in ("serious", "critical")] == []
    assert complaints == []
    page.close()
