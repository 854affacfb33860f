"""The images API on Ray Serve: replicas that come and go with the requests (extra `ray`).

    serve run unclip.serving.ray_app:app model=/models/mine max_replicas=4 api_key_file=/keys

Each replica is the application of `unclip serve` with a scheduler of its own, and answers a full
queue as that does: 429, OpenAI's envelope, and a Retry-After that follows from its pace. Ray Serve
must not do it instead, whose answer is a 503: so a replica takes far more requests than its queue
has places (`max_ongoing_requests`), and refuses the rest itself, in a millisecond. Only where not
even that helps, or no replica is up yet, requests wait in Ray's proxy, as many as a replica takes;
what is beyond gets a 429 with a Retry-After too, in Ray's own words.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from unclip.device.ray_cluster import share_of
from unclip.lazy import imported

if TYPE_CHECKING:
    from ray.serve import Application

REPLICA = "unclip.interfaces.server.replica:Replica"
"""What a replica does; named, as HTTP lies above this."""
NAME = "unclip"
_BEFORE_REPLICAS = 5  # seconds after which a request is worth sending again to full proxies


def app(arguments: Mapping[str, Any]) -> "Application":
    """An application for `serve run`, `serve.run` or the `import_path` of a Serve config.

    Args:
        arguments: those of `unclip serve` by their names with underscores, as text or values,
            without host and port, which are Ray Serve's own; and `min_replicas`, `max_replicas`.

    Raises:
        ValueError: one of them is unknown or wrong, or Ray Serve is not there.
    """
    try:
        import ray
        from ray import serve
        from ray.serve.config import AutoscalingConfig, BackpressureConfig
    except ImportError as error:
        raise ValueError(
            f"Ray Serve needs a package that is not there ({error.name}): pip install 'unclip[ray]'"
        ) from None
    kind = imported(REPLICA)
    options = kind.options(arguments)
    resources = cast(Any, ray).cluster_resources() if ray.is_initialized() else {}
    mine = share_of(options.device, resources)
    together = options.together(mine.gpus > 0)
    scaling = AutoscalingConfig(
        min_replicas=options.min_replicas, max_replicas=options.max_replicas,
        target_ongoing_requests=max(2, together),
    )  # fmt: skip
    deployment: Any = serve.deployment(
        serve.ingress()(kind),
        name=NAME,
        ray_actor_options={"num_cpus": 1, "num_gpus": mine.gpus},
        max_ongoing_requests=options.most_requests,
        max_queued_requests=options.most_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=_BEFORE_REPLICAS),
        autoscaling_config=scaling,
        graceful_shutdown_timeout_s=options.timeout,
        max_constructor_retry_count=1,
    )
    return cast("Application", deployment.bind(dict(arguments), mine.device))
