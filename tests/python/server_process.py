"""Starts a minimo server, or the one around the fake engine, for a test, and ends it."""
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import httpx

# One client for all: making one takes longer than most tests. No connection outlives its request.
http = httpx.Client(verify=False, timeout=30, limits=httpx.Limits(max_keepalive_connections=0))

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("MINIMO_BUILD", ROOT / "build"))
FAKE = BUILD / "tests" / "support" / "fake_server"
MINIMO = BUILD / "apps" / "minimo"


def flags_of(options):
    """{"max_queue": 3} -> ["--max-queue", "3"]; True: the flag alone; a list: the flag repeated."""
    flags = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            flags.append(flag)
        else:
            for item in value if isinstance(value, list) else [value]:
                flags += [flag, str(item)]
    return flags


class Server:
    """A running server. `port`, `url`, `model`; `log()` is what it wrote on standard error."""

    def __init__(self, command, log_path, env=None):
        self.log_path = log_path
        with open(log_path, "wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log,
                                            env={**os.environ, **(env or {})})
        self.port = None
        self.lines = []
        for raw in self.process.stdout:
            line = raw.decode()
            self.lines.append(line)
            found = re.search(r"listening on (?:\S*:)?(\d+)", line)
            if found:
                self.port = int(found.group(1))
                break
        assert self.port, f"{command} did not start: {self.log()}"
        self.url = f"http://127.0.0.1:{self.port}"

    def log(self):
        return self.log_path.read_text(errors="replace")

    def wait(self, what, timeout=10):
        """Waits until what() is true; returns it."""
        end = time.time() + timeout
        while time.time() < end:
            found = what()
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError(f"has not come to pass, the log:\n{self.log()[-4000:]}")

    def wait_log(self, pattern):
        """Waits until the log has a line that matches; returns the match."""
        return self.wait(lambda: re.search(pattern, self.log()))

    def metric(self, name, **labels):
        """The sum of a metric's samples with these labels."""
        from prometheus_client.parser import text_string_to_metric_families
        total = 0.0
        found = False
        for family in text_string_to_metric_families(http.get(self.url + "/metrics").text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    total += sample.value
                    found = True
        assert found, f"no metric {name} {labels}"
        return total

    def wait_idle(self, timeout=10):
        self.wait(lambda: self.metric("vllm:num_requests_running") + self.metric("vllm:num_requests_waiting") == 0, timeout)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def rss_bytes(self):
        for line in open(f"/proc/{self.process.pid}/status"):
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def stop(self):
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.terminate()
        try:
            return self.process.wait(timeout=60)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self.process.stdout.close()


def start_fake(log_path, model="nano-minimax-m2", **options):
    server = Server([str(FAKE), str(ROOT / "models" / model)] + flags_of(options), log_path)
    server.model = "fake"
    return server


def start_minimo(log_path, model="nano-minimax-m2", env=None, **options):
    server = Server([str(MINIMO), "serve", "--model", model, "--port", "0"] + flags_of(options), log_path, env)
    server.model = model
    return server
