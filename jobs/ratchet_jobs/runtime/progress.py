"""What a running stage tells the world: /progress as JSON for the operator, /metrics for Prometheus.

One small WSGI server, a thread per request; the recipe calls `ProgressBoard.report`, which keeps each step's numbers in
the stage's history, too. The names here are API: dashboards and alerts use them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, make_wsgi_app

from ratchet_api.stage import ETA_LIMIT_SECONDS, Progress
from ratchet_jobs.runtime.history import History

log = structlog.get_logger(__name__)

_LABELS = ("namespace", "run", "stage")
_SMOOTHING = 0.9

_OF_RL = {
    "avg_return": "Mean return of the last rollout's episodes.",
    "best_return": "Highest mean return of a rollout so far.",
    "accuracy": "Share of right answers among those drawn in the last rollout.",
    "policy_loss": "Policy loss of the last update.",
    "value_loss": "Value loss of the last update; for dqn the TD loss.",
    "entropy": "Mean entropy of the answers during the last update, in nats.",
    "approx_kl": "Approximate divergence of the last update from the policies that acted.",
    "clipfrac": "Share of answers whose probability ratio was clipped in the last update.",
    "kl": "Divergence of a generator's answers in the last rollout from the policy that it started from, in nats.",
    "kl_coef": "Weight of the penalty on that divergence.",
    "mean_tokens": "Mean tokens of a generator's answers in the last rollout.",
    "ended": "Share of a generator's answers in the last rollout that were not cut.",
    "empty": "Share of a generator's answers in the last rollout without any text.",
    "judged": "What held-out labels say of a generator's answers in the last rollout, by the judge made of them.",
    "margin": "What good answers of the last batch gained on bad ones, in units of the implicit reward.",
    "train_agreement": "Share of the last batch's judged answers that the policy told apart rightly.",
    "effective_sample_size": "How many answers of the policy's own the last rollout's logged ones are worth.",
    "explained_variance": "Share of the returns' variance that the value head explained.",
}
"""Gauges of the rl stage and their help texts."""
_CLIENT_SECONDS = 5.0
"""How long a client may take to say what it wants."""


class StageMetrics:
    """Gauges of one stage process, labelled with the object that it works for."""

    def __init__(self, *, namespace: str, run: str, stage: str) -> None:
        """Register the gauges in a registry of their own."""
        self.registry = CollectorRegistry()
        self._labels = {"namespace": namespace, "run": run, "stage": stage}
        self._gauges = {
            "step": self._gauge("ratchet_stage_step", "Optimizer steps or batches done."),
            "steps": self._gauge("ratchet_stage_steps", "Optimizer steps or batches in all."),
            "eta_seconds": self._gauge("ratchet_stage_eta_seconds", "Estimated seconds until the stage's loop ends."),
            "loss": self._gauge("ratchet_stage_loss", "Smoothed training loss."),
            "learning_rate": self._gauge("ratchet_stage_learning_rate", "Learning rate of the last step."),
            "grad_norm": self._gauge("ratchet_stage_grad_norm", "Gradient norm of the last step, before clipping."),
            "examples_per_second": self._gauge("ratchet_stage_examples_per_second", "Examples per second, smoothed."),
            **{name: self._gauge(f"ratchet_stage_{name}", text) for name, text in _OF_RL.items()},
        }
        self._tracking_failures = Counter(
            "ratchet_stage_tracking_failures",
            "Steps and calls that an experiment tracker did not take.",
            (*_LABELS, "tracker"),
            registry=self.registry,
        )
        self._reward = Gauge(
            "ratchet_stage_reward",
            "Mean of one component of the reward over the last rollout, before its weight.",
            (*_LABELS, "component"),
            registry=self.registry,
        )

        self._task_reward = Gauge(
            "ratchet_stage_task_reward",
            "Mean reward of the answers in one of several tasks over the last rollout.",
            (*_LABELS, "task"),
            registry=self.registry,
        )
        self._of_agents = Gauge(
            "ratchet_stage_agent",
            "What the gauge ratchet_stage_NUMBER would be of one of several agents alone; of its reward's components, "
            "reward/NAME.",
            (*_LABELS, "agent", "number"),
            registry=self.registry,
        )

    def set(self, name: str, value: float) -> None:
        """Set one gauge.

        Args:
            name: of the gauge; `reward/NAME` is that of a component of the reward, `task/NAME` that of a task, and
                `agent/AGENT/GAUGE` or `agent/AGENT/reward/NAME` that of one of several agents.
            value: to set.

        Raises:
            KeyError: no such gauge; add it above, with its help text.
        """
        kind, _, component = name.partition("/")
        if kind == "agent":
            agent, _, number = component.partition("/")
            self._of_agents.labels(**self._labels, agent=agent, number=number).set(value)
            return
        if kind == "reward" and component:
            self._reward.labels(**self._labels, component=component).set(value)
            return
        if kind == "task" and component:
            self._task_reward.labels(**self._labels, task=component).set(value)
            return
        self._gauges[name].labels(**self._labels).set(value)

    def count_tracking_failure(self, tracker: str) -> None:
        """Count one thing that a tracker did not take."""
        self._tracking_failures.labels(**self._labels, tracker=tracker).inc()

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, _LABELS, registry=self.registry)


class ProgressBoard:
    """The newest progress of the stage, and its smoothed loss, speed and time left."""

    def __init__(
        self, stage: str, metrics: StageMetrics, *, clock: Callable[[], float] = time.monotonic, silent: bool = False
    ) -> None:
        """Start at step 0 of 0.

        Args:
            stage: its name.
            metrics: whose gauges it sets.
            clock: seconds.
            silent: set no gauge, because another node of the stage tells the same numbers.
        """
        self.history = History()
        self.listener: Callable[[int, Mapping[str, float]], None] = lambda _step, _values: None
        """Told the numbers of every step, as they are."""
        self._stage = stage
        self._metrics = None if silent else metrics
        self._clock = clock
        self._lock = threading.Lock()
        self._now = Progress(stage=stage, step=0, steps=0)
        self._first: tuple[float, int] | None = None
        self._last: tuple[float, int] | None = None
        self._loss: float | None = None
        self._speed: float | None = None

    def report(
        self, step: int, steps: int, *, loss: float | None = None, examples: int | None = None, **gauges: float
    ) -> None:
        """Tell how far the loop is.

        Args:
            step: steps done.
            steps: steps in all.
            loss: of this step; shown smoothed.
            examples: examples of this step, for the speed.
            gauges: further gauges of StageMetrics by name.
        """
        values = gauges if loss is None else {"loss": loss, **gauges}
        self.history.add(step, values)
        self.listener(step, values)
        now = self._clock()
        if self._first is None or step < self._first[1]:
            self._first = (now, step)
        if loss is not None:
            self._loss = loss if self._loss is None else _SMOOTHING * self._loss + (1 - _SMOOTHING) * loss
            gauges["loss"] = self._loss
        if examples is not None and self._last is not None and now > self._last[0]:
            speed = examples / (now - self._last[0])
            self._speed = speed if self._speed is None else _SMOOTHING * self._speed + (1 - _SMOOTHING) * speed
            gauges["examples_per_second"] = self._speed
        self._last = (now, step)
        done = step - self._first[1]
        eta = min(round((now - self._first[0]) / done * (steps - step)), ETA_LIMIT_SECONDS) if done > 0 else None
        if eta is not None:
            gauges["eta_seconds"] = eta
        if self._metrics is not None:
            for name, value in {"step": step, "steps": steps, **gauges}.items():
                self._metrics.set(name, value)
        with self._lock:
            self._now = Progress(stage=self._stage, step=step, steps=steps, loss=self._loss, eta_seconds=eta)

    def current(self) -> Progress:
        """The newest progress."""
        with self._lock:
            return self._now


class _Quiet(WSGIRequestHandler):
    timeout = _CLIENT_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Polls are not worth a log line each."""


class _Server(ThreadingMixIn, WSGIServer):
    """Whoever connects and says nothing keeps neither the next client waiting nor the stage from ending."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or stayed silent is its own affair."""


class ProgressServer:
    """Serves the board and the metrics until closed."""

    def __init__(self, board: ProgressBoard, metrics: StageMetrics, *, host: str, port: int) -> None:
        """Bind and serve on a thread; port 0 takes any free one."""
        prometheus = make_wsgi_app(metrics.registry)

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            if environ["PATH_INFO"] == "/progress":
                start_response("200 OK", [("Content-Type", "application/json")])
                return [board.current().model_dump_json(by_alias=True, exclude_none=True).encode()]
            if environ["PATH_INFO"] == "/metrics":
                answer: Iterable[bytes] = prometheus(environ, start_response)
                return answer
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"paths: /progress /metrics\n"]

        try:
            self._server = make_server(host, port, app, server_class=_Server, handler_class=_Quiet)
        except OSError as error:  # a stage that nobody can watch is better than one that does not run
            log.warning("progress port is taken, serving on another", host=host, port=port, error=str(error))
            self._server = make_server(host, 0, app, server_class=_Server, handler_class=_Quiet)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="progress", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
