import itertools

import pytest

import server_process

_numbers = itertools.count()


@pytest.fixture(scope="session")
def logs(tmp_path_factory):
    return tmp_path_factory.mktemp("logs")


def _starter(start, logs):
    servers = []

    def make(*args, **options):
        server = start(logs / f"server-{next(_numbers)}.log", *args, **options)
        servers.append(server)
        return server

    return make, servers


def _end(servers):
    for server in servers:
        server.stop()


@pytest.fixture
def make_fake(logs):
    """make_fake(max_queue=3, ...) starts a server around the fake engine for one test."""
    make, servers = _starter(server_process.start_fake, logs)
    yield make
    _end(servers)


@pytest.fixture(scope="module")
def fake(logs):
    make, servers = _starter(server_process.start_fake, logs)
    yield make()
    _end(servers)


@pytest.fixture
def make_minimo(logs):
    """make_minimo("nano-mimo-v2-flash", max_num_seqs=4, ...) starts `minimo serve` for one test."""
    make, servers = _starter(server_process.start_minimo, logs)
    yield make
    _end(servers)


@pytest.fixture(scope="module", params=["nano-minimax-m2", "nano-mimo-v2-flash"])
def minimo(request, logs):
    make, servers = _starter(server_process.start_minimo, logs)
    yield make(request.param)
    _end(servers)
