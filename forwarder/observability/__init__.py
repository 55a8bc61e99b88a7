"""What an operator sees from outside: numbers for Prometheus, traces for OpenTelemetry.

Both are observers of exchanges (`exchange.py`): they are told when one begins and when it is over,
and cost nothing in between.
"""
