# SPDX-License-Identifier: Apache-2.0
"""Rules, dashboard and the page on monitoring: they name what is exported, and say what to do.

That Prometheus takes them is tried in tests/system/test_monitoring_files.py.
"""

import json
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from cowd.exporters import looks
from cowd.exporters.config import ExportConfig, parse_config
from cowd.exporters.figures import STATES
from cowd.exporters.influx import format_lines
from cowd.exporters.prometheus import write_textfile
from prometheus_client.parser import text_string_to_metric_families
from unit.client.exporters.made_up import SCRAPE

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "packaging" / "prometheus" / "cowd.rules.yml"
RULE_TESTS = RULES.with_name("cowd.rules.test.yml")
DASHBOARD = ROOT / "packaging" / "grafana" / "cowd.json"
MANIFEST = ROOT / "packaging" / "kubernetes" / "cowd.yaml"
PAGE = ROOT / "MONITORING.md"
MANUAL = ROOT / "packaging" / "man" / "cowctl-export.1.rst"
SETTINGS = ROOT / "packaging" / "exporter.toml"
OF_OTHERS = {"node_textfile_mtime_seconds"}
"""Metrics of node_exporter."""
GRID_COLUMNS = 24
pytestmark = pytest.mark.pypi


def read_yaml(text: str) -> Any:
    """Return what is in a document."""
    import yaml

    return yaml.safe_load(text)


def read_rules() -> list[dict[str, Any]]:
    """Return all rules."""
    return [rule for group in read_yaml(RULES.read_text())["groups"] for rule in group["rules"]]


def read_alerts() -> dict[str, dict[str, Any]]:
    """Return the alerts by name."""
    return {rule["alert"]: rule for rule in read_rules() if "alert" in rule}


def read_panels() -> list[dict[str, Any]]:
    """Return what the dashboard shows, headings left out."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in panels if panel["type"] != "row"]


def read_snippets(language: str) -> list[str]:
    """Return the page's examples in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def read_rows(heading: str) -> list[list[str]]:
    """Return the cells of a table of the page, whose heading begins so."""
    [table] = re.findall(
        rf"^\| {heading} \|.*\n\|-.*\n((?:\|.*\n)+)", PAGE.read_text(), re.MULTILINE
    )
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]


def read_words(cell: str) -> set[str]:
    """Return what stands as code in a cell."""
    return set(re.findall(r"`(\S+)`", cell))


def read_table() -> dict[str, set[str]]:
    """Return the labels of each metric that the page explains."""
    return {name.strip("`"): read_words(labels) for name, labels, _ in read_rows("metric")}


def read_exported() -> set[str]:
    """Return the names that the page explains, and those that a histogram has besides."""
    names = set(read_table())
    histograms = {name for name in names if name.endswith("duration_seconds")}
    return names | {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}


def iter_expressions() -> Iterator[str]:
    """Yield all PromQL that there is."""
    for rule in read_rules():
        yield rule["expr"]
    for panel in read_panels():
        for target in panel["targets"]:
            yield target["expr"]
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        yield variable.get("definition", "")
    yield from read_snippets("promql")


def find_metrics(expression: str) -> set[str]:
    """Return the metrics in it, those that rules have made left out."""
    return set(re.findall(r"(?<![\w:])(?:cowd|node)_\w+(?![\w:])", expression))


@pytest.fixture
def exported(tmp_path: Path) -> dict[str, set[str]]:
    """Return the labels of each metric that Prometheus gets."""
    written = tmp_path / "cowd.prom"
    write_textfile(written, SCRAPE)
    labels = defaultdict(set)
    for family in text_string_to_metric_families(written.read_text()):
        for sample in family.samples:
            name = family.name if family.type == "histogram" else sample.name
            labels[name] |= sample.labels.keys()
    return labels


def test_page_explains_what_is_exported(exported: dict[str, set[str]]) -> None:
    """All of it, nothing else, and with its labels."""
    assert exported == read_table()


def test_manual_page_lists_what_is_exported(exported: dict[str, set[str]]) -> None:
    listed = re.findall(r"\*\*(cowd_\w+)\*\*", MANUAL.read_text())
    assert sorted(listed) == sorted(exported)


def test_page_has_the_names_and_units_of_opentelemetry(exported: dict[str, set[str]]) -> None:
    from cowd.exporters.otlp import make_metrics

    rows = [[cell.strip("`") for cell in row] for row in read_rows("Prometheus")]
    assert {name: unit for _, name, unit in rows} == {
        metric.name: metric.unit for metric in make_metrics(SCRAPE, 0)
    }
    assert {name for name, _, _ in rows} == exported.keys() - {"cowd_build_info"}


def test_page_has_the_names_of_telegraf() -> None:
    from line_protocol_parser import parse_line

    sent, told = defaultdict(set), defaultdict(set)
    for line in map(parse_line, format_lines(SCRAPE).splitlines()):
        sent[line["measurement"], "tags"].update(line["tags"])
        sent[line["measurement"], "fields"].update(line["fields"])
    measurement = ""
    for first, tags, fields in read_rows("measurement"):
        measurement = first.strip("`") or measurement
        told[measurement, "tags"] |= read_words(tags)
        told[measurement, "fields"] |= read_words(fields)
    assert told == sent


def test_tables_fit_a_terminal() -> None:
    assert [
        line for line in PAGE.read_text().splitlines() if line[:1] == "|" and len(line) > 80
    ] == []


def test_what_processes_and_pairs_count_as_is_told() -> None:
    process, pair = f"{looks._PAGES_PER_PROCESS:,}", f"{looks._PAGES_PER_PAIR:,}"
    for path in PAGE, SETTINGS:
        text = re.sub(r"\s(# )?", " ", path.read_text())
        assert f"each process counts as {process} pages more" in text, path
        assert re.search(rf"[Ee]ach pair (counts )?as {pair} pages more", text), path
    assert looks._LOOKS_PER_COMPARISON == 4
    assert "a page of two processes counts as four" in text


def test_expressions_name_what_is_exported() -> None:
    used = set().union(*map(find_metrics, iter_expressions()))
    assert used <= read_exported() | OF_OTHERS
    assert len(used) > 10


def test_expressions_name_what_rules_have_recorded() -> None:
    recorded = {rule["record"] for rule in read_rules() if "record" in rule}
    named = {
        name
        for expression in iter_expressions()
        for name in re.findall(r"\b[a-z_]+:[a-z_]+:[a-z]+\b", expression)
    }
    assert named <= recorded


def test_states_are_those_that_there_are() -> None:
    told = re.search(r"^States are (.*?)\(cowd", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert told
    assert re.findall(r"`(\w+)`", told[1]) == list(STATES)
    named = {
        state
        for expression in iter_expressions()
        for state in re.findall(r'state!?="(\w+)"', expression)
    }
    assert named <= set(STATES)


def test_alerts_say_what_to_do() -> None:
    for name, alert in read_alerts().items():
        assert set(alert["annotations"]) == {"summary", "description"}, name
        assert alert["labels"]["severity"] in {"info", "warning"}, name
        assert alert["for"], name


def test_every_alert_is_tried_both_ways() -> None:
    """Each has a test of its own name, where it does not fire at first, and then it alone does."""
    tests = {test["name"]: test for test in read_yaml(RULE_TESTS.read_text())["tests"]}
    assert set(read_alerts()) <= set(tests)
    for name in read_alerts():
        looks = [
            look["exp_samples"]
            for look in tests[name]["promql_expr_test"]
            if look["expr"] == 'ALERTS{alertstate="firing"}'
        ]
        assert looks[0] == [], name
        fired = {sample["labels"] for samples in looks for sample in samples}
        assert fired, name
        assert all(f'alertname="{name}"' in labels for labels in fired), name
        assert all('instance="sick"' in labels for labels in fired), name


def test_dashboard_can_be_read() -> None:
    """Every panel has a title, says what it shows and in which unit, and asks something."""
    for panel in read_panels():
        assert panel["title"], panel
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
    for panel in read_panels():
        if "_bytes{" in panel["targets"][0]["expr"] and "/" not in panel["targets"][0]["expr"]:
            assert panel["fieldConfig"]["defaults"]["unit"] in {"bytes", "binBps"}, panel["title"]


def test_dashboard_is_bound_to_no_data_source() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [*read_panels(), *dashboard["templating"]["list"][1:]]
    sources = {json.dumps(one["datasource"], sort_keys=True) for one in asked}
    assert sources == {'{"type": "prometheus", "uid": "${datasource}"}'}
    assert dashboard["templating"]["list"][0]["name"] == "datasource"


def test_panels_stand_side_by_side() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= GRID_COLUMNS, panel["title"]
    for one, other in combinations(panels, 2):
        assert not overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    """Tell whether two panels have a place in common."""
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


def test_settings_of_the_examples_hold() -> None:
    """The exporter would start with them."""
    [example, of_forks, *others] = read_snippets("toml")
    assert parse_config(example).groups
    assert parse_config(of_forks).fork
    for other in others:
        assert tomllib.loads(other)["inputs"]
    import yaml

    [settings] = [
        one["data"]["exporter.toml"]
        for one in yaml.safe_load_all(MANIFEST.read_text())
        if one["kind"] == "ConfigMap"
    ]
    assert parse_config(settings).groups[-1] == ExportConfig().groups[-1]


def test_examples_in_yaml_can_be_read() -> None:
    prometheus, collector = map(read_yaml, read_snippets("yaml"))
    assert [job["job_name"] for job in prometheus["scrape_configs"]] == ["cowd"]
    [pipeline] = collector["service"]["pipelines"].values()
    assert set(pipeline["receivers"]) == set(collector["receivers"])
    assert set(pipeline["exporters"]) == set(collector["exporters"])
