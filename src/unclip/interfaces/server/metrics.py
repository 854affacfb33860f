"""Numbers for Prometheus: who waits, what runs, how long it takes, what is refused."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Metrics:
    """The numbers of one server; also the scheduler's observer."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter(
            "unclip_requests", "Requests that were answered", ["endpoint", "status"], registry=own
        )
        self.refusals = Counter(
            "unclip_refusals", "Requests that were refused", ["reason"], registry=own
        )
        self.seconds = Histogram(
            "unclip_request_seconds", "From a request's head to the end of its answer",
            ["endpoint"], buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self.queue_seconds = Histogram(
            "unclip_queue_seconds", "That an image waited", buckets=_SECONDS, registry=own
        )
        self.compute_seconds = Histogram(
            "unclip_compute_seconds", "That images took which were computed at once",
            buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self.together = Histogram(
            "unclip_batch_images", "Images that were computed at once",
            buckets=(1, 2, 4, 8, 16, 32, 64), registry=own,
        )  # fmt: skip
        self.images = Counter("unclip_images", "Images that were made", registry=own)

    def watch(self, waiting: Callable[[], int], running: Callable[[], int]) -> None:
        """Ask the scheduler whenever somebody asks for the numbers."""
        for name, what, ask in (
            ("waiting", "Requests that wait", waiting), ("running", "Requests that run", running),
        ):  # fmt: skip
            Gauge(f"unclip_requests_{name}", what, registry=self.registry).set_function(ask)

    def waited(self, seconds: float) -> None:
        self.queue_seconds.observe(seconds)

    def computed(self, items: int, seconds: float) -> None:
        self.images.inc(items)
        self.together.observe(items)
        self.compute_seconds.observe(seconds)

    def answered(self, endpoint: str, status: int, seconds: float, reason: str | None) -> None:
        """A request is over."""
        self.requests.labels(endpoint, str(status)).inc()
        self.seconds.labels(endpoint).observe(seconds)
        if status >= 400:
            self.refusals.labels(reason or str(status)).inc()

    def text(self) -> bytes:
        """As Prometheus reads them."""
        return generate_latest(self.registry)
