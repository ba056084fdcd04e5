"""Kombu's Redis transport, mended in one place.

A worker that is busy when Redis goes away notices only when it acknowledges its message. Kombu then counts the message as
still being worked on; a worker that takes one at a time (ours) waits for that one to end, and never asks Redis for another,
nor finds that it has to connect again. Here the message counts as done: the next question fails and the worker reconnects.
"""

from __future__ import annotations

from kombu.transport import redis


class QoS(redis.QoS):
    """The messages that this worker has in hand."""

    def ack(self, delivery_tag: str) -> None:
        """Forget a message, here in any case, there if Redis answers."""
        try:
            super().ack(delivery_tag)
        except BaseException:
            self._quick_ack(delivery_tag)
            raise


def mend() -> None:
    """Have this process's Redis channels use it, those for Sentinel too."""
    redis.Channel.QoS = QoS
