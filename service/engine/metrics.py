"""What is measured of an engine: counters, gauges and histograms.

Names follow Prometheus' conventions and, where vLLM measures the same, vLLM's names after the prefix. Labels take
values from closed lists only (models, operations, sites, error codes, routes), never what a client wrote.
"""

import time
from collections.abc import Mapping
from collections.abc import Sequence as Items
from typing import Any

from prometheus_client import Counter
from prometheus_client.metrics_core import Metric

from neurodial.control.errors import NeurodialError
from neurodial.service.engine.scheduler import Plan
from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.types import EngineStats, Failed, ModelInfo
from neurodial.service.instruments import LATENCIES, Instruments

_STEPS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)
_COMPILING = (0.00001, 0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)
_BATCHES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
_TOKENS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)


class EngineMetrics(Instruments):
    """What one engine measures. `begin` and `finish` are called on the engine's thread, the rest on any.

    Args:
        model: what the engine serves.
    """

    def __init__(self, model: ModelInfo) -> None:
        super().__init__({"model_name": model.id})
        self._started = self._finished = time.monotonic()
        self._written = 0  # tokens of the running rows before the step
        self._num_running = -1  # of the last step that nothing joined: only where that changes are rows counted anew
        self._num_rows = self._distinct = 0
        self._touched: dict[tuple[str, str], tuple[Counter, Counter, Counter]] = {}
        self._make_gauges(model)
        self._make_request_metrics()
        self._make_batch_metrics()
        self._make_control_metrics()

    def _make_gauges(self, model: ModelInfo) -> None:
        self._running = self.gauge("num_requests_running", "Sequences in the running batch.")
        self._waiting = self.gauge("num_requests_waiting", "Sequences that wait for a place in the batch.")
        self._rows = self.gauge("num_rows_running", "Rows of the running batch; a beam counts as a row.")
        self._cache = self.gauge("kv_cache_usage_perc", "Share of the cache that running rows reserve; 1 is all.")
        self._ready = self.gauge("engine_ready", "1 while the engine's thread is alive and moves, else 0.")
        self._age = self.gauge("engine_heartbeat_age_seconds", "Seconds since the engine's thread last showed life.")
        info = self.gauge("model_info", "Constant 1; its labels describe the model.", "architecture", "dtype", "device")
        info.labels(model.architecture, model.dtype, model.device).set(1)

    def _make_request_metrics(self) -> None:
        self._success = self.counter("request_success_total", "Requests served, by why they ended.", "finished_reason")
        self._failures = self.counter(
            "request_failures_total", "Requests refused or failed in the engine, by the error's code.", "code"
        )
        self._prompt_tokens = self.counter("prompt_tokens_total", "Prompt tokens read.")
        self._generation_tokens = self.counter("generation_tokens_total", "Tokens generated.")
        self._queued = self.histogram(
            "request_queue_time_seconds", "Time that a request waited for a place.", LATENCIES
        )
        self._first = self.histogram(
            "time_to_first_token_seconds", "Time from a request's arrival to its first token.", LATENCIES
        )
        self._e2e = self.histogram(
            "e2e_request_latency_seconds", "Time from a request's arrival to its end.", LATENCIES
        )
        self._prompts = self.histogram("request_prompt_tokens", "Prompt tokens of each request.", _TOKENS)
        self._outputs = self.histogram("request_generation_tokens", "Generated tokens of each request.", _TOKENS)

    def _make_batch_metrics(self) -> None:
        self._between = self.weighted("inter_token_latency_seconds", "Time between a row's tokens.", _STEPS)
        self._decode_rows = self.histogram("decode_batch_size", "Rows decoded together in one step.", _BATCHES)
        self._prefilled = self.histogram("prefill_batch_size", "Prompts read together in one step.", _BATCHES)
        self._step = self.histogram("step_duration_seconds", "Time of one step of the batch.", _STEPS)
        self._distinct_controls = self.histogram(
            "batch_distinct_controls", "Different lists of controls in one step.", (0.0, *_BATCHES)
        )

    def _make_control_metrics(self) -> None:
        by_site = "operation", "site"
        self._controlled = self.counter("controlled_requests_total", "Requests served that had controls.")
        self._by_site = self.counter(
            "control_requests_total", "Controls served, by operation and touched site.", *by_site
        )
        self._fired = self.counter("control_gate_firings_total", "Positions at which a control acted.", *by_site)
        self._asked = self.counter("control_gate_positions_total", "Positions at which a gate was asked.", *by_site)
        self._by_set = self.counter(
            "control_set_requests_total", "Controls served that named a neuron set.", "neuron_set"
        )
        self._compiling = self.histogram(
            "control_compile_seconds",
            "Time to check a request's controls and turn them into index tensors; next to none where remembered.",
            _COMPILING,
        )
        self._applying = self.histogram(
            "control_apply_seconds", "Time to put a request's controls into the running batch.", _COMPILING
        )

    def snapshot_of(self, stats: EngineStats, num_rows: int, cache_use: float) -> list[Metric]:
        """All metrics, with the gauges of this moment.

        Args:
            stats: how the engine is doing.
            num_rows: rows in use.
            cache_use: share of the cache that the running rows may come to need, 0 to 1.
        """
        self._running.set(stats.num_running)
        self._waiting.set(stats.num_waiting)
        self._rows.set(num_rows)
        self._cache.set(cache_use)
        self._ready.set(stats.state == "ready")
        self._age.set(stats.heartbeat_age_s)
        return self.snapshot()

    def refused(self, error: NeurodialError, count: int = 1) -> None:
        """Counts requests that were not admitted."""
        self._failures.labels(error.code).inc(count)

    def begin(self, plan: Plan) -> None:
        """Counts what a step is about to do."""
        self._started = time.monotonic()
        self._written = sum([len(s.ids) for s in plan.running])
        for sequence in plan.joining:
            self._queued.observe(self._started - sequence.arrived)
        if plan.joining or len(plan.running) != self._num_running:
            batch = (*plan.running, *plan.joining)
            self._distinct = len({id(s.prepared.plan) for s in batch if s.prepared.plan is not None})
            self._num_rows = sum([s.num_rows for s in plan.running])
        self._num_running = len(plan.running) if not plan.joining else -1

    def finish(self, plan: Plan) -> None:
        """Counts what a step has done, after its tokens have been delivered."""
        now = time.monotonic()
        written = sum([len(s.ids) for s in plan.running]) + sum([len(s.ids) for s in plan.joining]) - self._written
        if written:
            self.wrote(written)
        if plan.running:
            self._decode_rows.observe(self._num_rows)
            self._between.observe(now - self._finished, len(plan.running))
        if plan.running or plan.joining:
            self._step.observe(now - self._started)
            self._distinct_controls.observe(self._distinct)
        if plan.joining:
            self._prefilled.observe(len(plan.joining))
            self.joined(plan.joining, now)
        self._finished = now

    def wrote(self, tokens: int) -> None:
        """Counts generated tokens."""
        self._generation_tokens.inc(tokens)

    def joined(self, sequences: Items[Sequence], now: float) -> None:
        """Counts sequences whose prompts have been read."""
        for sequence in sequences:
            if sequence.prepared.plan is not None:
                self._compiling.observe(sequence.prepared.compile_s)
                self._applying.observe(sequence.apply_s)
            if not sequence.failed:
                self._prompt_tokens.inc(len(sequence.prepared.prompt_ids))
                if sequence.request.task == "generate":
                    self._first.observe(now - sequence.arrived)

    def ended(self, sequence: Sequence) -> None:
        """Counts a sequence whose last event was delivered."""
        end = sequence.end
        if end is None:
            return
        if isinstance(end, Failed):
            self._failures.labels(end.error.code).inc()
            return
        self._success.labels(end.reason).inc()
        self._e2e.observe(time.monotonic() - sequence.arrived)
        self._prompts.observe(end.prompt_tokens)
        if sequence.request.task == "generate":
            self._outputs.observe(end.completion_tokens)
        if controls := end.applied.get("controls"):
            self._controlled.inc()
            for report in controls:
                self._count_control(report)

    def _count_control(self, report: Mapping[str, Any]) -> None:
        if name := report.get("set"):
            self._by_set.labels(name.partition("@")[0]).inc()
        for site, counts in report.get("sites", {}).items():
            requests, fired, asked = self._site_counters(report["op"], site)
            requests.inc()
            fired.inc(counts["positions"])
            asked.inc(counts["seen"])

    def _site_counters(self, operation: str, site: str) -> tuple[Counter, Counter, Counter]:
        touched = operation, site
        if touched not in self._touched:
            requests, fired, asked = (m.labels(*touched) for m in (self._by_site, self._fired, self._asked))
            self._touched[touched] = requests, fired, asked
        return self._touched[touched]
