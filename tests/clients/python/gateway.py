"""`seawall serve` in front of `seawall sim`, each a process of its own on a port of its own."""

import itertools
import json
import os
import pathlib
import subprocess
import tempfile
import time
import urllib.request

import anthropic

HERE = pathlib.Path(__file__).resolve().parent
BINARY = os.environ["SEAWALL_BIN"]
MODEL = "claude-sonnet-5-5"
# Longest wait for a state.
BOUND = 20.0


class Gateway:
    def __enter__(self):
        self._files = tempfile.TemporaryDirectory()
        self._processes = []
        self._numbers = itertools.count()
        # A key of its own gives each test breakers and budgets of its own.
        keys = [f"sk-python-{n}" for n in range(1000)]
        self._keys = iter(keys)
        scenario = self._write("scenario.toml", f"instant = true\nerror_latency = '0ms'\napi_keys = {json.dumps(keys)}\n")
        self.sim = self._start("sim", "--listen", "127.0.0.1:0", "--scenario", scenario)
        config = str(HERE.parent / "gateway.toml")
        self.url = self._start("serve", "--listen", "127.0.0.1:0", "--upstream", self.sim, "--config", config)
        return self

    def __exit__(self, *_):
        for process in self._processes:
            process.kill()
            process.wait()
            process.stdout.close()
        self._files.cleanup()

    def _write(self, name, text):
        path = pathlib.Path(self._files.name) / name
        path.write_text(text)
        return str(path)

    def _start(self, *args):
        log = pathlib.Path(self._files.name) / f"{args[0]}.log"
        with open(log, "w") as stderr:
            process = subprocess.Popen([BINARY, *args], stdout=subprocess.PIPE, stderr=stderr, text=True)
        self._processes.append(process)
        line = process.stdout.readline()
        address = line.strip().rpartition(" ")[2]
        assert address.startswith("http://"), f"{args[0]} said {line!r}: {log.read_text()}"
        return address

    def key(self):
        return next(self._keys)

    def prompt(self, text="hello"):
        """A message that no other test sends: the provider tells calls by their messages."""
        return [{"role": "user", "content": f"{text} {next(self._numbers)}"}]

    def ask(self, **more):
        return {"model": MODEL, "max_tokens": 200, "messages": self.prompt(), **more}

    def options(self, route=None, **options):
        options.setdefault("api_key", self.key())
        # A call that hangs fails its test, and no more.
        options.setdefault("timeout", BOUND)
        headers = dict(options.pop("default_headers", {}))
        if route:
            headers["x-seawall-route"] = route
        return {"base_url": self.url, "default_headers": headers, **options}

    def client(self, **options):
        return anthropic.Anthropic(**self.options(**options))

    def counted(self, **options):
        """A client, and the headers of every request it sends."""
        sent = []
        hooks = {"request": [lambda request: sent.append(request.headers)]}
        http_client = anthropic.DefaultHttpxClient(event_hooks=hooks)
        return self.client(http_client=http_client, **options), sent

    def _json(self, url, body=None):
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=BOUND) as answer:
            return json.load(answer)

    def heal(self):
        self._json(f"{self.sim}/_sim/reset", {})

    def fail(self, kind, **how):
        self.fail_all([{"kind": kind, **how}])

    def fail_all(self, faults):
        self._json(f"{self.sim}/_sim/faults", faults)

    def stats(self):
        return self._json(f"{self.sim}/_sim/stats")

    def attempts(self):
        return self.stats()["attempts"]

    def status(self):
        return self._json(f"{self.url}/_seawall/status")

    def until(self, holds, what):
        end = time.monotonic() + BOUND
        while not holds():
            assert time.monotonic() < end, what()
            time.sleep(0.002)

    def until_idle(self):
        """Waits until neither the provider nor the gateway works for anybody."""
        self.until(lambda: self.stats()["in_flight"] == 0, self.stats)
        self.until(lambda: self.status()["in_flight"] == 0, self.status)

    def until_busy(self, calls=1):
        self.until(lambda: self.stats()["in_flight"] == calls, self.stats)


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")
