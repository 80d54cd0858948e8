"""Measure AMQP 0-9-1 brokers side by side: throughput, latency, memory and stops.

The load generator is independent of any broker's code and of any client library: it uses the
standard library alone, checks every octet that comes back, and is measured itself, against a sink
that does no broker's work.
"""
