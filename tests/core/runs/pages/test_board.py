"""The board: the report of a run on loopback, which tells when it has changed."""

import http.client
import urllib.error
import urllib.request

import pytest

from genfw.errors import RunError
from genfw.runs.directory import RunDirectory, Status
from genfw.runs.pages.board import Board


@pytest.fixture
def board(tmp_path):
    run_dir = RunDirectory.create(tmp_path, "tiny", "genfw: 1\nname: tiny\n")
    run_dir.write_status(Status("running", "elbo", 3))
    run_dir.append_metrics({"stage": 0, "name": "elbo", "step": 1, "time": 0.1, "loss": 3.0})
    run_dir.append_metrics({"stage": 0, "name": "elbo", "step": 2, "time": 0.2, "loss": 2.0})
    served = Board(run_dir.path)
    served.start()
    yield served
    served.close()


def get(board, path=""):
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(board.url + path, timeout=10) as answer:
        return answer.read().decode()


def test_a_board_follows_its_run(board):
    page, stamp = get(board), get(board, "stamp")
    assert f'data-stamp="{stamp}"' in page
    assert "connect-src 'self'" in page
    assert "[2,2]" in page
    assert get(board, "stamp") == stamp
    board.run_dir.append_metrics({"stage": 0, "name": "elbo", "step": 3, "time": 0.3, "loss": 1.5})
    assert get(board, "stamp") != stamp
    assert "[3,1.5]" in get(board)


def test_a_board_answers_to_its_own_name_alone(board):
    port = int(board.url.rstrip("/").rpartition(":")[2])
    for host, status in (("evil.example", 403), (f"localhost:{port}", 200), (f"127.0.0.1:{port}", 200)):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/stamp", headers={"Host": host})
        assert connection.getresponse().status == status
        connection.close()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(board, "resolved.yaml")


def test_a_board_needs_a_run(tmp_path):
    with pytest.raises(RunError, match="not a run directory"):
        Board(tmp_path)
