"""Promoters at work at the same time, and who watches the aliases meanwhile."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from conftest import REPOSITORY

from devopsgpt_pipeline.registry.gate import judge_challenger
from devopsgpt_pipeline.tracking.client import CHAMPION, connect, version_of_alias

MARGIN = 0.001
# A promoter in a process of its own: says when it is ready, then waits for a line.
JUDGE = """
import sys
from pathlib import Path
from devopsgpt_model.token_bins import TokenBins
from devopsgpt_pipeline.registry.gate import judge_challenger
from devopsgpt_pipeline.tracking.client import connect
client = connect(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
bins = TokenBins.open(Path(sys.argv[2]))
verdict = judge_challenger(client, bins, Path(sys.argv[3]), margin=0.001)
print(verdict.challenger, verdict.champion)
"""


class Watch:
    """Reads the champion's alias all the time. seen: each champion when it was new; None where
    there was none"""

    def __init__(self, url):
        self.seen, self._ended = [], threading.Event()
        self._thread = threading.Thread(target=self._look, args=(url,))

    def _look(self, url):
        client, ended = connect(url), False
        while not ended:
            # and one look more, which no change before the end escapes
            ended = self._ended.wait(0.005)
            now = version_of_alias(client, CHAMPION)
            if [now] != self.seen[-1:]:
                self.seen.append(now)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()


class Judges:
    """Promoters that run the whole gate, each told to begin. How it ended: (challenger, champion)
    or an error's text"""

    def __init__(self, url, yardstick, lock):
        self.url, self.arguments, self.lock = url, (yardstick, lock), lock

    @contextmanager
    def threads(self):
        with ThreadPoolExecutor() as pool:
            yield lambda: pool.submit(self._judge).result

    def _judge(self):
        verdict = judge_challenger(connect(self.url), *self.arguments, margin=MARGIN)
        return verdict.challenger, verdict.champion

    @contextmanager
    def processes(self, count=2):
        bins, lock = self.arguments
        command = [sys.executable, "-c", JUDGE, self.url, str(bins.folder), str(lock)]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        waiting = [subprocess.Popen(command, cwd=REPOSITORY, **pipes) for _ in range(count)]
        all_of_them = list(waiting)
        try:
            assert [process.stdout.readline() for process in waiting] == ["ready\n"] * count
            yield lambda: self._begin(waiting.pop())
        finally:
            for process in all_of_them:
                process.kill()
                process.communicate()

    def _begin(self, process):
        process.stdin.write("go\n")
        process.stdin.flush()

        def result():
            return tuple(process.communicate(timeout=60)[0].split())

        result.process = process
        return result
