"""Observability: JSON logs, Prometheus metrics, OpenTelemetry traces, captured requests.

Metrics, traces and captures implement `RequestObserver`, which is notified when a request starts
and when it completes.
"""
