"""Workers on a Ray cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxnas.blackbox.workers import Slots, WorkerDied
from jaxnas.checks import check_at_least
from jaxnas.errors import RunError
from jaxnas.extras import how_to_install


@dataclasses.dataclass(frozen=True)
class on_ray:
    """Workers on Ray, for `executor=` of a black-box search: `executor=jaxnas.trials.on_ray(8, num_gpus=0.5)`.

    Needs the extra `ray`. Each worker is a Ray actor, which keeps what its evaluator has loaded or compiled. A trial
    that hangs or kills its worker costs no other, and the actors end with the driver. Without a Ray that is connected
    already (`ray.init`), `address` is connected to, or a local one started, and left again at the end.

    Args:
      workers: how many actors.
      num_cpus, num_gpus, resources: what each of them reserves, as in `ray.remote`. Ray hides other GPUs from it.
      runtime_env: modules, files and environment variables for the workers, as in `ray.remote`, such as
        `{"working_dir": "."}`.
      address: of a cluster, as in `ray.init`; None starts a local one.
      start_seconds: how long a worker may take to start; no cluster ever has resources that it lacks.
    """

    workers: int
    num_cpus: float = 1
    num_gpus: float = 0
    resources: Mapping[str, float] | None = None
    runtime_env: Mapping[str, Any] | None = None
    address: str | None = None
    start_seconds: float = 300

    def __post_init__(self) -> None:
        check_at_least(1, workers=self.workers)

    def __call__(self) -> Slots:
        """The executor.

        Raises:
          ImportError: without Ray.
        """
        try:
            import ray
        except ImportError:
            raise ImportError(f"jaxnas.trials.on_ray needs Ray: {how_to_install('ray')}.") from None
        started = not ray.is_initialized()
        if started:
            ray.init(address=self.address, include_dashboard=False, log_to_driver=False, logging_level="error")
        options: dict[str, Any] = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, "max_restarts": 0}
        options |= {} if self.resources is None else {"resources": dict(self.resources)}
        options |= {} if self.runtime_env is None else {"runtime_env": dict(self.runtime_env)}
        workers = [_Actor(ray, options, self.start_seconds) for _ in range(self.workers)]
        return Slots(workers, ray.shutdown if started else None)


class _Runner:
    """What an actor does."""

    def ready(self) -> None:
        """Answers once it runs."""

    def run(self, function: Callable, args: tuple) -> Any:
        return function(*args[0], **args[1])


class _Actor:
    """A Ray actor that runs one function after the other."""

    def __init__(self, ray: Any, options: dict[str, Any], start_seconds: float):
        self._ray, self._options, self._seconds = ray, options, start_seconds
        self._actor: Any = None

    def start(self) -> None:
        if self._actor is not None:
            return
        actor = self._ray.remote(_Runner).options(**self._options).remote()
        try:
            self._ray.get(actor.ready.remote(), timeout=self._seconds)
        except self._ray.exceptions.GetTimeoutError:
            self._ray.kill(actor)
            has = self._ray.cluster_resources()
            raise RunError(
                f"Ray has not started a worker with {self._options} in {self._seconds:g} seconds; its cluster has "
                f"{has}."
            ) from None
        except self._ray.exceptions.RayError as e:
            raise RunError(f"Ray cannot start a worker: {e!s:.1000}") from None
        self._actor = actor

    def run(self, function: Callable, args: tuple) -> Any:
        try:
            return self._ray.get(self._actor.run.remote(function, args))
        except self._ray.exceptions.RayTaskError as e:
            raise RuntimeError(str(e.cause)) from None
        except self._ray.exceptions.RayError as e:
            self._actor = None
            raise WorkerDied(f"Ray actor lost: {str(e).strip().splitlines()[0]:.300}") from None

    def kill(self) -> None:
        actor = self._actor
        if actor is not None:
            self._ray.kill(actor)

    def stop(self) -> None:
        if self._actor is not None:
            self._ray.kill(self._actor)
            self._actor = None
