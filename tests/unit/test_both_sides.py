"""What proxy and switch each define is the same: neither container has the other's code."""

from proxy import finding, inner, route, server
from switch import keys, pod_plan, shared
from switch import route as switch_route


def test_the_switch_finds_a_proxy_and_a_proxy_a_pod_where_they_answer() -> None:
    assert (inner.PORT, server.STATUS) == (shared.PROXY_PORT, shared.PROXY_STATUS)
    assert (finding.PORT, finding.PATH) == (pod_plan.PORT, pod_plan.STATE)


def test_a_proxy_reads_the_files_that_the_switch_writes() -> None:
    assert (route.KEYS_FILE, route.ROUTE_FILE) == (keys.FILE, switch_route.FILE)


def test_a_proxy_takes_the_keys_that_the_switch_takes() -> None:
    assert route.TENANT == shared.TENANT
    assert route.DIGEST == keys.DIGEST
