"""Metrics: counted in plain dicts and lists, read as text by Prometheus or by callback.

counting    a sink that counts events
measuring   what is no event: settlements, commands, the lease, limits
process     what the process costs: time, memory, files, garbage
family      the series of one metric
registry    what was counted, here and in the processes below
exemplars   sampled traces, for the buckets of a histogram
rendering   as the text of Prometheus, or OpenMetrics
table       which metrics there are

`Registry.read` is the public reading: it yields every series with its name, kind, unit, labels and value, or buckets.
Nothing here needs another package.
"""

from __future__ import annotations

from actorwork.telemetry.metrics.registry import Reading as Reading, Registry as Registry
from actorwork.telemetry.metrics.table import Metric as Metric
