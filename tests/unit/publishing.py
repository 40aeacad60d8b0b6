"""A process that declares and publishes, without kombu."""

from collections.abc import Callable
from typing import Any

from fakes import AdviceAtOnce, make_settings

from kombu_hake.amqp.bindings import Binding
from kombu_hake.publish.dispatch import Dispatcher
from kombu_hake.publish.limits import Limits
from kombu_hake.publish.publisher import Publisher
from kombu_hake.publish.routes import QueueTarget, Routes
from kombu_hake.topology.spec import QueueSpec
from kombu_hake.topology.topology import Topology


class Process:
    """What one process knows."""

    def __init__(
        self, clients: Any, *, advice: Any = AdviceAtOnce, clock: Callable[[], float] | None = None, **options: Any
    ) -> None:
        settings = make_settings(**options)
        self.topology = Topology(clients, settings, clock=clock or clients.clock)
        self.advice = advice
        self.routes = Routes(self.topology, settings, advice.ask)
        self.publisher = Publisher(clients, Limits(settings, self.topology))
        self.dispatcher = Dispatcher(self.topology, self.routes, self.publisher, settings)

    def declare(self, queue: str, *bindings: Binding, **arguments: Any) -> None:
        self.topology.declare_queue(QueueSpec(queue, arguments=arguments))
        for binding in bindings:
            self.topology.declare_exchange(binding.exchange, binding.exchange_type)
            self.topology.bind(queue, binding)

    def targets(self, exchange: str, routing_key: str, *, mandatory: bool = False) -> list[str]:
        found = self.routes.resolve(exchange, routing_key, mandatory=mandatory)
        return [f"queue {t.queue}" if isinstance(t, QueueTarget) else f"topic {t.exchange}" for t in found]

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes | str = b"hello",
        *,
        headers: Any = None,
        mandatory: bool = False,
        **properties: Any,
    ) -> None:
        message = {
            "body": body,
            "content-type": "text/plain",
            "content-encoding": "utf-8",
            "headers": headers or {},
            "properties": {"delivery_info": {}, **properties},
        }
        self.dispatcher.publish(message, exchange, routing_key, mandatory=mandatory)
