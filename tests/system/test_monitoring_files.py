# SPDX-License-Identifier: Apache-2.0
"""Debian's own Prometheus takes our rules, our dashboard's queries, and the page's examples."""

import json
import re

from harness.daemon import ROOT
from system.machine import CHECKOUT, Machine

RULES = f"{CHECKOUT}/packaging/prometheus"
DASHBOARD = ROOT / "packaging" / "grafana" / "cowd.json"
PAGE = ROOT / "MONITORING.md"


def test_prometheus_takes_what_we_have_for_it(bare_machine: Machine) -> None:
    """Seen to fail with a bracket missing in each of rules, dashboard and page."""
    machine = bare_machine
    machine.run("apt", "install", "--yes", "--no-install-recommends", "prometheus")
    machine.run(
        "promtool", "check", "rules", "--lint=all", "--lint-fatal", f"{RULES}/cowd.rules.yml"
    )
    machine.run("promtool", "test", "rules", f"{RULES}/cowd.rules.test.yml")
    page = PAGE.read_text()
    asked = read_dashboard_queries() + re.findall(r"```promql\n(.*?)```", page, re.DOTALL)
    assert len(asked) > 15
    # JSON is YAML.
    rules = [{"record": f"asked:{number}", "expr": query} for number, query in enumerate(asked)]
    machine.write("/tmp/asked.yml", json.dumps({"groups": [{"name": "asked", "rules": rules}]}))
    machine.run("promtool", "check", "rules", "/tmp/asked.yml")
    [example] = re.findall(r"```yaml\n(# prometheus\.yml\n.*?)```", page, re.DOTALL)
    machine.write("/tmp/prometheus.yml", example)
    machine.write(
        "/etc/prometheus/cowd.rules.yml",
        (ROOT / "packaging/prometheus/cowd.rules.yml").read_text(),
    )
    [hosts] = re.findall(r"`(- targets: .*?)`", page)
    machine.write("/etc/prometheus/cowd/hosts.yml", hosts)
    machine.run("promtool", "check", "config", "/tmp/prometheus.yml")


def read_dashboard_queries() -> list[str]:
    """Return what the dashboard asks, with a value for what Grafana puts in."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [query.replace("$__rate_interval", "5m") for query in queries]
