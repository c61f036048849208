"""What came in the last hour on a cluster: what the proxies' logs say, and what was kept of those that have
gone."""

import base64
import contextlib
import json
from dataclasses import dataclass

from components.kubernetes.kubectl import ClusterError, RunKubectl, get, selector
from components.kubernetes.looked import is_ready, is_serving, kept_of, kept_patch
from components.kubernetes.objects import LIVE_CONFIG, name
from components.labels import Labels
from proxy.route import LOCALHOST
from switch.shared import PROXY_PORT
from traffic.busiest import KnownMinutes, by_minute
from traffic.load import HOUR, LoggedRequest
from traffic.log import requests

_ITSELF = f"http://{LOCALHOST}:{PROXY_PORT}"
"""A proxy, as seen from its pod."""


@dataclass(frozen=True)
class LastHour:
    """That of one stack, whose cluster is reached by `run`."""

    labels: Labels
    run: RunKubectl

    def look(self, now: float) -> KnownMinutes:
        """Its minutes; `now` is in seconds since the epoch. What has not ended yet counts as well.

        They are kept: where proxies are replaced, their logs go with them. Raises ClusterError where a log
        can't be read.
        """
        found, begin = list[LoggedRequest](), list[float]()
        of_proxies = selector(self.labels.project, self.labels.stack, "proxy")
        for pod in get(self.run, "pods", "--selector", of_proxies)["items"]:
            called, serves = pod["metadata"]["name"], is_serving(pod)
            if not serves and not is_ready(pod):  # one that was replaced is ready until it has ended
                continue
            # what has not ended is told by the proxy itself; one of an earlier version leaves that word out
            ask = f"python3 -m proxy.traffic {now - HOUR!r} {_ITSELF} | base64 -w 0"
            try:
                said = self.run(["exec", called, "--container", "proxy", "--", "sh", "-c", ask], "")
                its, begins = requests(base64.b64decode(said))
            except (ClusterError, OSError, ValueError) as error:
                if not serves:
                    continue  # it may have ended since
                raise ClusterError(
                    f"the log of {called} can't be read, so nobody knows whether the change fits: {error}"
                ) from None
            found += its
            if serves:
                begin.append(now if begins is None else begins)
        live = name(self.labels, LIVE_CONFIG)
        kept = kept_of(get(self.run, "configmap", live)) or KnownMinutes({}, now, now)
        seen = KnownMinutes(by_minute(found, now - HOUR, now), max(begin, default=now), now)
        known = seen.with_kept(kept, now - HOUR)
        patch = json.dumps(kept_patch(known))
        self.run(["patch", "configmap", live, "--type=merge", "--patch", patch], "")
        return known

    def keep(self, now: float) -> None:
        """Keeps it for the next change, before proxies may be replaced. Where that can't be done, less will
        be known then."""
        with contextlib.suppress(ClusterError):
            self.look(now)
