"""OpenTelemetry for anybody's training loop.

`record` writes spans (needs the extra `trace`); `read` and `send` read them back and deliver them to an OTLP endpoint,
and need nothing but the standard library and filelock.
"""
