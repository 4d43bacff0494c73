# SPDX-License-Identifier: Apache-2.0
"""From processes to the monitoring that people already run.

Runs as whoever exports, without privilege; the daemon and the kernel decide what that user may see.
`scraper` asks, within a budget, and adds up by group; what comes out is a `Scrape` of `figures`,
which `prometheus`, `influx` and `otlp` each write in their own form. None of these tells a pid or
an address.
"""
