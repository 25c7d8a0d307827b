"""The set checker: send numbered events through replicas that are killed, over a store that fails; then count.

    python -m bench.feedback.setcheck --events 1000000

An event that was acknowledged and is not in the log is lost; one in the log that nobody sent is a phantom; one that a
reader yields twice is a duplicate. All three must be 0, whatever happened on the way. Some senders give up on purpose,
so that there are events of which nobody knows whether they were stored: either is right, once.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.ending import end_as_by_ctrl_c
from bench.feedback.chaos import ChaosProxy, Odds
from bench.feedback.processes import NAMESPACE, POLICY, TOKEN, GatewayProcess
from ratchet_api.stage import StoreConfig
from ratchet_jobs.feedback_log.reader import LogReader
from ratchet_jobs.runtime.store import Store, open_store
from tests.contract.seaweed import ACCESS_KEY, BUCKET, SECRET_KEY, SeaweedServer

GIVE_UP = 0.002


@dataclass
class Outcome:
    """What was sent, what was promised, what is there.

    Attributes:
        sent: numbers of all events that were sent at least once.
        acknowledged: numbers of those that a gateway confirmed.
        lost, phantom, duplicates: what must be 0.
        kills: replicas that were killed.
        requests: by answer; 0 = no answer.
        faults: what the proxy did.
        stored_twice: events that are in the log more than once and were read once.
    """

    sent: set[int] = field(default_factory=set)
    acknowledged: set[int] = field(default_factory=set)
    lost: int = 0
    phantom: int = 0
    duplicates: int = 0
    kills: int = 0
    requests: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    stored_twice: int = 0
    segments: int = 0
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """True when the promise held."""
        return self.lost == self.phantom == self.duplicates == 0

    def __str__(self) -> str:
        """A few lines for people."""
        return (
            f"{len(self.sent):,} events sent, {len(self.acknowledged):,} acknowledged in {self.seconds:.0f} s; "
            f"{self.kills} replicas killed; {self.segments:,} segments; {self.stored_twice:,} stored twice, read once\n"
            f"answers {dict(sorted(self.requests.items()))}, store {dict(self.faults)}\n"
            f"lost {self.lost}, phantom {self.phantom}, duplicates {self.duplicates}"
        )


class Check:
    """One run of the checker.

    Args:
        folder: for keys and logs.
        endpoint: of the S3 server itself.
        events: how many.
        replicas: gateway processes.
        senders: threads that send.
        batch: events per request.
        seed: of every random choice.
        outage_seconds: how long the store is away, once.
    """

    def __init__(
        self,
        folder: Path,
        endpoint: str,
        *,
        events: int,
        replicas: int = 3,
        senders: int = 24,
        batch: int = 50,
        seed: int = 1,
        outage_seconds: float = 5.0,
    ) -> None:
        self._folder, self._endpoint, self._replicas = folder, endpoint, replicas
        self._senders, self._seed, self._outage = senders, seed, outage_seconds
        self._work: queue.SimpleQueue[range] = queue.SimpleQueue()
        for start in range(0, events, batch):
            self._work.put(range(start, min(start + batch, events)))
        self._lock, self._done = threading.Lock(), threading.Event()
        self._gateways: list[GatewayProcess] = []
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Send everything, then compare with the log."""
        began = time.monotonic()
        with ChaosProxy(self._endpoint, odds=Odds(), seed=self._seed) as proxy:
            environment = {"RATCHET_STORE_URI": f"s3://{BUCKET}/{NAMESPACE}", "RATCHET_STORE_ENDPOINT": proxy.url}
            settings = {"RATCHET_GATEWAY_PATIENCE_SECONDS": "5", "RATCHET_GATEWAY_DRAIN_SECONDS": "30"}
            self._gateways = [GatewayProcess(self._folder, environment, **settings) for _ in range(self._replicas)]
            try:
                self._drive(proxy)
            finally:
                for gateway in self._gateways:
                    gateway.stop()
            self.outcome.faults = proxy.seen
        self.outcome.seconds = time.monotonic() - began
        self._compare(
            open_store(StoreConfig(uri=environment["RATCHET_STORE_URI"], endpoint=self._endpoint), patience_seconds=30)
        )
        return self.outcome

    def _drive(self, proxy: ChaosProxy) -> None:
        """Send everything while replicas are killed."""
        for gateway in self._gateways:
            gateway.start()
        for gateway in self._gateways:
            gateway.wait_ready()
        killer = threading.Thread(target=self._kill_at_random, args=(proxy,))
        senders = [threading.Thread(target=self._send, args=(self._seed * 1000 + n,)) for n in range(self._senders)]
        for thread in (killer, *senders):
            thread.start()
        for thread in senders:
            thread.join()
        self._done.set()
        killer.join()

    def _kill_at_random(self, proxy: ChaosProxy) -> None:
        """SIGKILL one replica after another, each started anew; take the store away once in between."""
        chance = random.Random(self._seed)
        while not self._done.wait(0.2 + chance.random()):
            gateway = chance.choice(self._gateways)
            gateway.kill()
            self.outcome.kills += 1
            gateway.start()
            gateway.wait_ready(path="/healthz")
            if self.outcome.kills == 2:
                proxy.away = True
                self._done.wait(self._outage)
                proxy.away = False
        proxy.away = False

    def _send(self, seed: int) -> None:
        chance = random.Random(seed)
        while True:
            try:
                numbers = self._work.get_nowait()
            except queue.Empty:
                return
            with self._lock:
                self.outcome.sent.update(numbers)
            body = json.dumps({"events": [_event(number) for number in numbers]}).encode()
            status = 0
            while status != 200 and chance.random() > GIVE_UP:
                status = _post(chance.choice(self._gateways).url, body)
                with self._lock:
                    self.outcome.requests[status] += 1
                    if status == 200:
                        self.outcome.acknowledged.update(numbers)
                    elif status not in (0, 503):
                        raise RuntimeError(f"HTTP {status}: the checker sends nothing that may be refused")
                if status != 200:
                    time.sleep(0.05 + 0.2 * chance.random())

    def _compare(self, store: Store) -> None:
        reader = LogReader(store, NAMESPACE)
        found = Counter(int(event["tags"]["n"]) for event in reader.events())
        outcome = self.outcome
        outcome.lost = len(outcome.acknowledged - found.keys())
        outcome.phantom = len(found.keys() - outcome.sent)
        outcome.duplicates = sum(found.values()) - len(found)
        outcome.stored_twice, outcome.segments = reader.report.duplicates, reader.report.segments


def _event(number: int) -> dict[str, object]:
    return {
        "type": "rating",
        "rating": number % 5 + 1,
        "policy": POLICY,
        "subject": f"user-{number % 997}",
        "prompt": f"question {number}: where is my parcel, and when will it be here?",
        "response": "shipping",
        "tags": {"n": str(number)},
        "idempotencyKey": f"event-{number}",
    }


def _post(url: str, body: bytes) -> int:
    """Send one request; 0 when nobody answered."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/feedback", body, headers), timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def credentials() -> Mapping[str, str]:
    """Environment by which boto3 reaches the test's S3 server and reads nothing of the developer's own."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def main(arguments: Sequence[str]) -> int:
    """Run the checker against a SeaweedFS of its own; 1 when the promise did not hold."""
    end_as_by_ctrl_c()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--outage", type=float, default=30.0, help="seconds without a store")
    options = parser.parse_args(arguments)
    os.environ.update(credentials())
    with tempfile.TemporaryDirectory(prefix="setcheck-") as name:
        folder = Path(name)
        with SeaweedServer(folder) as server:
            check = Check(
                folder,
                server.endpoint,
                events=options.events,
                replicas=options.replicas,
                seed=options.seed,
                outage_seconds=options.outage,
            )
            outcome = check.run()
    print(outcome)
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
