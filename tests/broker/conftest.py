from tests.broker.kit import nats_server

__all__ = ["nats_server"]
