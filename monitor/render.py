"""The monitor's files: what is scraped, the store's pages, the alert rules, and Grafana's dashboard. Pure."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from monitor.alerts import Alert, alerts
from monitor.panels import GROWTH, SPAN, Page, Panel, Query, pages
from monitor.watched import Watched

SCRAPE_SECONDS = 5
"""A change by hold can take ten seconds, and its steps are to be seen."""
EVALUATE_SECONDS = 15

SCRAPE, RULES, GRAFANA = "scrape.yml", "rules.yml", "grafana.json"
PAGES = "vmui"
"""Folder of the store's pages."""

STORE_SPAN = "4i"
"""The window of a rate on the store's own page: four times as far as two of its points are apart. So nothing
between them is left out, however long the time that is shown."""
STORE_GROWTH = "increase_prometheus"
GRAFANA_SPAN, GRAFANA_GROWTH = "$__rate_interval", "increase"

COLUMNS, HEIGHT = 24, 8
"""Of Grafana's grid: all of its columns, and the height of a panel."""
UID_LENGTH = 40


def files(watched: Watched) -> dict[str, str]:
    """Every file by its path below the monitor's folder."""
    return {
        SCRAPE: scrape(watched),
        RULES: rules(alerts(watched)),
        **{f"{PAGES}/{page.name}.json": vmui(page) for page in pages(watched)},
        GRAFANA: grafana(watched.stack, pages(watched)),
    }


def scrape(watched: Watched) -> str:
    """What is scraped: the switch, and what it says that runs."""
    switch = f"{watched.switch}:{watched.switch_port}"

    def running(job: str, port: int, role: str, kind: str = "") -> dict[str, Any]:
        query = f"role={role}{f'&kind={kind}' if kind else ''}&port={port}"
        return {"job_name": job, "http_sd_configs": [{"url": f"http://{switch}/targets?{query}"}]}

    vllm = {
        **running("vllm", watched.engine_port, "engine", "vllm"),
        # of its Python and its HTTP server nobody asks
        "metric_relabel_configs": [
            {"source_labels": ["__name__"], "regex": "vllm:.*", "action": "keep"},
        ],
    }
    jobs = [
        {
            "job_name": "switch",
            "static_configs": [{"targets": [switch], "labels": {"instance": watched.switch}}],
        },
        running("proxy", watched.proxy_port, "proxy"),
        *([running("gateway", watched.gateway_port, "gateway")] if watched.gateway else []),
        *([vllm] if watched.vllm else []),
    ]
    seconds = f"{SCRAPE_SECONDS}s"
    return _yaml(
        {
            "global": {
                "scrape_interval": seconds,
                "scrape_timeout": f"{SCRAPE_SECONDS - 1}s",
                "external_labels": {"stack": watched.stack},
            },
            "scrape_configs": jobs,
        }
    )


def rules(found: Sequence[Alert]) -> str:
    """The alert rules in the form of vmalert and Prometheus."""
    return _yaml(
        {
            "groups": [
                {
                    "name": "changeover",
                    "interval": f"{EVALUATE_SECONDS}s",
                    "rules": [
                        {
                            "alert": each.name,
                            "expr": each.expr,
                            "for": f"{each.seconds}s",
                            "labels": {"severity": each.severity},
                            "annotations": {"summary": each.says, "description": each.do},
                        }
                        for each in found
                    ],
                }
            ]
        }
    )


def vmui(page: Page) -> str:
    """A page of the store."""
    return _text(
        {
            "title": page.title,
            "rows": [
                {
                    "panels": [
                        {
                            "title": panel.title,
                            "description": panel.says,
                            "unit": panel.unit.text,
                            "expr": [in_store(query) for query in panel.queries],
                            "alias": [query.alias for query in panel.queries],
                            "width": 6,
                        }
                        for panel in page.panels
                    ]
                }
            ],
        }
    )


def in_store(query: Query) -> str:
    """A panel's query as it is put to the store."""
    return query.expr.replace(SPAN, STORE_SPAN).replace(GROWTH, STORE_GROWTH)


def uid(stack: str) -> str:
    """By what Grafana knows a dashboard: of at most 40 characters. Another stack's is another."""
    name = f"changeover-{stack}"
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name if len(name) <= UID_LENGTH else f"{name[: UID_LENGTH - 9]}-{digest}"


def grafana(stack: str, found: Sequence[Page]) -> str:
    """One dashboard with a row for each page, for `Import` in Grafana; it asks for the data source."""
    panels: list[Mapping[str, Any]] = []
    row = 0
    for page in found:
        panels.append(
            {
                "type": "row",
                "title": page.title,
                "collapsed": False,
                "id": len(panels) + 1,
                "gridPos": {"x": 0, "y": row, "w": COLUMNS, "h": 1},
                "panels": [],
            }
        )
        row += 1
        for number, panel in enumerate(page.panels):
            place = {"x": number % 2 * COLUMNS // 2, "y": row, "w": COLUMNS // 2, "h": HEIGHT}
            panels.append(_grafana_panel(panel, len(panels) + 1, place))
            row += HEIGHT if number % 2 or number == len(page.panels) - 1 else 0
    return _text(
        {
            "uid": uid(stack),
            "title": f"Changeover: {stack}",
            "tags": ["changeover"],
            "schemaVersion": 39,
            "editable": True,
            "refresh": "10s",
            "time": {"from": "now-30m", "to": "now"},
            "templating": {
                "list": [
                    {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}
                ]
            },
            "panels": panels,
        }
    )


def _grafana_panel(panel: Panel, id: int, place: Mapping[str, int]) -> Mapping[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "type": "timeseries",
        "id": id,
        "title": panel.title,
        "description": panel.says,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit.grafana, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": source,
                "expr": query.expr.replace(SPAN, GRAFANA_SPAN).replace(GROWTH, GRAFANA_GROWTH),
                "legendFormat": query.alias,
            }
            for number, query in enumerate(panel.queries)
        ],
    }


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=105)


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
