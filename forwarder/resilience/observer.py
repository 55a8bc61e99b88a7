"""Whoever wants to hear what is done for steadiness: metrics, or a test."""

from __future__ import annotations


class Observer:
    """Hears of everything and does nothing; override what is wanted.

    The methods are called in the middle of requests, and must neither wait nor raise.
    """

    def retried(self, upstream: str, reason: str) -> None:
        """``upstream`` is asked once more; ``reason`` is the code of the error, or its status."""

    def fell_back(self, upstream: str, to: str, reason: str) -> None:
        """A request goes from ``upstream``, which failed for this reason, on ``to`` another."""

    def breaker(self, upstream: str, state: str) -> None:
        """The breaker of ``upstream`` is now ``closed``, ``open`` or ``half_open``."""

    def refused(self, reason: str, upstream: str | None = None) -> None:
        """Nobody was asked, since the worker or ``upstream`` takes no more at present.

        ``reason`` is ``overloaded`` or ``upstream_unavailable``.
        """
