"""The end of the cluster without weights: no test after this one can use it."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.deploy.serve.asking import complete, envelope, health, read_stream, reversed_words, wait_until, words
from tests.deploy.serve.serving import Server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_stopping_lets_running_requests_end_and_refuses_new_ones(fake_cluster: Server) -> None:
    """SIGTERM while a long request and a stream run; then no process is left."""
    server = fake_cluster
    with ThreadPoolExecutor(4) as pool:
        long, stream = pool.submit(complete, server, words(250)), pool.submit(read_stream, server, words(250))
        wait_until(lambda: health(server)["engines"]["fake"]["num_running"] == 2)
        stopping = pool.submit(server.terminate)
        while (refused := complete(server, "hello")).status_code == 200:
            time.sleep(0.1)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert "shutting down" in envelope(refused)["message"]
        assert long.result().json()["choices"][0]["text"] == reversed_words(words(250))
        assert stream.result() == (reversed_words(words(250)), {})
        stopping.result()
    assert server.process.returncode == 0
    wait_until(lambda: not server.relatives(), 30)
