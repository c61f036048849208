"""`python -m components.kubernetes.change`: what the step of `pulumi up` does that changes which engine
serves on a cluster. It reads a `FlipPlan` and prints how it goes.

It is the cluster's own state that says how far a change is, and this process remembers nothing: where it is
killed, all pods go on as they are, and the next one goes on from there, to either engine. A lease keeps two
from doing so at once.
"""

import contextlib
import datetime
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from common import cache_root
from components.facts import fleet
from components.kubernetes.certificate import ChangeRecord
from components.kubernetes.flip import INSIST, Obstacle, refused
from components.kubernetes.hour import LastHour
from components.kubernetes.kubectl import (
    ClusterError,
    ClusterObject,
    Missing,
    RunKubectl,
    get,
    kubectl,
    selector,
    sender,
)
from components.kubernetes.looked import (
    FlipPlan,
    Lease,
    LiveConfigMap,
    edited,
    engines_with_pods,
    gpus_of,
    is_ready,
    lease_name,
    lease_object,
    lease_of,
    live_of,
    places_of,
    places_on,
    pods_words,
    read_plan,
    seen_of,
    takes_pods,
)
from components.kubernetes.nodes import Nodes, node_of
from components.kubernetes.objects import ENGINES, LIVE_CONFIG, name
from components.kubernetes.pods import NODE, WAITS
from components.kubernetes.rolling import DeploymentSeen, Seen, failed, reached, steps
from components.kubernetes.settings import KubernetesSettings
from components.labels import Labels, label
from components.plan import STOP_GRACE
from traffic.load import HOUR

LOOK_SECONDS = 1.0
RENEW_SECONDS, LEASE_SECONDS = 5.0, 20
PATIENCE_SECONDS = 120
"""So long a cluster may give no answer in the middle of a change."""
REFUSALS = ("(Forbidden)", "(Invalid)", "(BadRequest)")
"""In what `kubectl` says where the API server will say the same again."""
UNREACHABLE = "the cluster does not answer"
TAIL = 15
"""Lines that are shown of what a pod wrote last."""


_Said = TypeVar("_Said")


class Taken(ClusterError):
    """Another update changes the stack."""


def live_words(run: RunKubectl, labels: Labels, now: float) -> str:
    """How many pods each engine is to have now, which change was left, and what else the proxies are told
    that they should not be, as a person may have changed it; UNREACHABLE where the cluster does not say it.

    A change that was killed may have left every pod as it was, and the next update has to end it all the
    same.
    """
    try:
        found = get(run, "deployments,pods", "--selector", selector(labels.project, labels.stack))["items"]
        try:
            live = live_of(get(run, "configmap", name(labels, LIVE_CONFIG)))
        except Missing:  # it is made anew before the engines are looked at, and says what it says at first
            live = LiveConfigMap(service=name(labels, ENGINES))
    except ClusterError:
        return UNREACHABLE
    replicas = {deployment: each.replicas for deployment, each in seen_of(found, now).items()}
    return fleet(pods_words(replicas), edited(live, name(labels, ENGINES), engines_with_pods(found)))


def look(run: RunKubectl, pods: str, now: float) -> None:
    """Has these pods see at once what they are told: their nodes look every minute, and where a pod
    changes."""
    told = f"{label('told')}={now:.0f}"
    run(["annotate", "pods", "--selector", pods, told, "--overwrite"], "")


@dataclass
class ClusterChange:
    """One change, from the first look to the last. `clock` is in seconds since the epoch, and may be set
    meanwhile; `steady` only goes on, and is not this machine's time of day."""

    plan: FlipPlan
    run: RunKubectl
    insist: bool = False
    """Whether it begins whatever comes meanwhile."""
    nodes: Callable[[], None] = lambda: None
    """Comes back once every node has its weights. Raises ClusterError where one gets none."""
    clock: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    say: Callable[[str], None] = lambda line: print(line, flush=True)
    keep: Callable[[Mapping[str, str]], None] = lambda files: None
    """Keeps the files of the certificate, by name."""
    record: ChangeRecord | None = None
    """What goes into it."""

    def __post_init__(self) -> None:
        self.holder = secrets.token_hex(6)
        self._lease = Lease("", 0, "")
        self._held = (0.0, 0.0)
        self._began = (self.clock(), self.steady())
        self._said = ""
        self.settings = KubernetesSettings(
            hosts=self.plan.hosts,
            at_once=self.plan.at_once,
            context=self.plan.context,
            namespace=self.plan.namespace,
        )
        self.hour = LastHour(Labels(project=self.plan.project, stack=self.plan.stack), self.run)

    @property
    def now(self) -> float:
        """Seconds since the epoch, as this machine had it when the change began: two of them are as far apart
        as it took, whatever is done to the clock meanwhile."""
        at, steady = self._began
        return at + self.steady() - steady

    def flip(self) -> int:
        """Brings the stack to the plan, or back. The exit status."""
        if not self.insist and self.begins(self.live()):
            if why := self.away():
                raise ClusterError(why.text)
            self.bring()  # before the lease, which would end meanwhile: this takes nothing from what serves
        self.take()
        try:
            status = self._flip()
        except ClusterError:
            self.release()
            raise
        self.release()
        return status

    def _flip(self) -> int:
        plan, live, seen = self.plan, self.live(), self.seen()
        if plan.to not in seen:
            raise ClusterError(f"there is no Deployment {plan.to}. Nothing was changed.")
        proven = live.active == plan.to
        if reached(seen, plan.to, plan.hosts) and not live.to:
            self.hour.keep(self.now)
            ended = live.ended(plan.to, plan.engine)
            if (live, live.service) == (ended, plan.service):
                self.say(f"{plan.engine} serves from {plan.hosts} hosts: there is nothing to change.")
                return 0
            self.patiently(lambda: self.tell(ended))
            self.say(f"{plan.engine} serves from {plan.hosts} hosts: the proxies are told so again.")
            return 0
        # what has begun goes on, to either engine
        why = None if live.to and plan.to in (live.to, live.active) else self.away()
        if self.begins(live):
            why = why or self.lacking() or self.too_busy(live)
        if why:
            if not self.insist:
                raise ClusterError(why.text)
            self.say(f"{INSIST} is set, so it begins all the same: {why.reason}.")
        others = any(each.replicas for name, each in seen.items() if name != plan.to)
        old = live.preferred if live.active else ""
        record = ChangeRecord(plan.stack, old, plan.engine, plan.hosts, plan.at_once, self.now)
        self.record = record
        self.patiently(lambda: self.tell(live.begun(plan.to, flip=others)))
        before = None if live.to else seen.get(live.active)  # else another update has taken pods from it
        lost: tuple[str, str] | None = None
        try:
            lost = self.roll(plan.to, proven=proven)
            if lost is None:
                self.hour.keep(self.now)
                self.patiently(lambda: self.tell(live.ended(plan.to, plan.engine)))
                self.say(f"{plan.engine} serves from {plan.hosts} hosts.")
                self.keep(record.files("committed", self.now))
                return 0
            status = self.back(live, before, *lost)
        except ClusterError as error:
            why_left = str(error) if lost is None else f"{lost[0]}: {lost[1]}. {error}"
            self.keep(record.files("left", self.now, why_left))
            raise
        self.keep(record.files("failed", self.now, f"{lost[0]}: {lost[1]}"))
        return status

    def begins(self, live: LiveConfigMap) -> bool:
        """Whether nothing of this change has been done yet. One that has begun goes on, whatever is wrong
        with nodes and traffic. What another change has left behind does not count."""
        return bool(live.active and self.plan.to not in (live.active, live.to))

    def bring(self) -> None:
        """Has nodes get what they have lost since the step ran that brings it: else a pod of the change would
        wait on one for what nobody brings."""
        try:
            self.nodes()
        except ClusterError as error:
            said = str(error)
            with contextlib.suppress(ClusterError):
                if more := self.lacking():
                    said = f"{said}\n{more.text}"
            raise ClusterError(said) from None

    def lacking(self) -> Obstacle | None:
        """Which nodes lack weights, or images to fetch them; None: none does.

        An engine's image that has gone from a node since then is not noticed, and its next pod pulls it.
        """
        plan, of_nodes = self.plan, selector(self.plan.project, self.plan.stack, "weights")
        pods = self.get("pods", "--selector", of_nodes)["items"]
        nodes = sorted(node_of(pod) for pod in pods if not is_ready(pod))
        if not nodes:
            return None
        return Obstacle(
            f"these nodes lack weights, or images to fetch them: {', '.join(nodes)}",
            f"What a node's pod does: kubectl --namespace {plan.namespace} describe pods --selector "
            f"{of_nodes}. One that is deleted comes again, and fetches what is missing. To change the engine "
            f"all the same, with hosts that may not come back: {INSIST}=1 pulumi up",
        )

    def away(self) -> Obstacle | None:
        """Which nodes take no pods now, where the hosts don't fit the others; None: they do.

        A pod would wait for a place in vain, and so would that of before, which had it.
        """
        plan = self.plan
        try:
            places = self.places(plan.to)
        except Missing:
            return None  # which is said where it is looked for
        if places >= plan.hosts:
            return None
        nodes = self.nodes_of_stack()
        names = ", ".join(sorted(each["metadata"]["name"] for each in nodes if not takes_pods(each)))
        return Obstacle(
            f"the stack's nodes have places for {places} of {plan.hosts} engines now, and these take none: "
            f"{names or 'there is no other'}",
            f"How they are: kubectl get nodes --selector {NODE}={plan.stack}. Have them take pods again "
            f"(kubectl uncordon NAME), add others (kubectl label node NAME {NODE}={plan.stack}), or have "
            "fewer hosts (pulumi config set hosts N). To change the engine all the same, with hosts that may "
            f"not come back: {INSIST}=1 pulumi up",
        )

    def nodes_of_stack(self) -> list[ClusterObject]:
        """The nodes that have the stack's label."""
        found: list[ClusterObject] = self.get("nodes", "--selector", f"{NODE}={self.plan.stack}")["items"]
        return found

    def places(self, engine: str) -> int:
        """For how many pods of this Deployment the nodes have a place that take pods now."""
        gpus = gpus_of(self.get("deployment", engine))
        return sum(places_on(each, gpus) for each in self.nodes_of_stack() if takes_pods(each))

    def too_busy(self, live: LiveConfigMap) -> Obstacle | None:
        """Why the change must not begin now; None: it may."""
        places = places_of(self.get("deployments", "--selector", self.mine)["items"])
        if live.active not in places:
            return None  # nothing serves
        try:
            known = self.hour.look(self.now)
        except ClusterError as error:
            return Obstacle(str(error), f"To change all the same: {INSIST}=1 pulumi up")
        if known.since > self.now - HOUR:
            at = datetime.datetime.fromtimestamp(known.since, datetime.UTC)
            self.say(f"What came before {at:%H:%M} UTC is not known in full: the proxies' logs begin then.")
        return refused(known.busiest, self.settings, places[live.active], places[self.plan.to])

    def back(self, live: LiveConfigMap, before: DeploymentSeen | None, pod: str, why: str) -> int:
        """Brings back what served, since a new pod won't serve. `before` is how that was when the change
        began; None: it is not known. The exit status."""
        plan = self.plan
        said = [f"{plan.engine} does not serve: {pod}: {why}.", *self.last_words(pod)]
        for line in said:
            self.say(line)
        seen = self.patiently(self.seen)
        if live.active == plan.to:
            serve = sum(each.serving for each in seen.values())
            self.say(
                f"{serve} hosts serve. What does not stays as it is, so that you can look at it. Then run: "
                "pulumi up"
            )
            return 1
        if live.active not in seen:
            self.say(
                "There is nothing that served before. What there is stays as it is, so that you can look at "
                "it. Then run: pulumi up"
            )
            return 1
        self.say(f"What served before comes back on every host: {live.active}")
        # as many as before: also where the change was to have fewer, and they served, or more
        hosts = (before and min(before.replicas, max(plan.hosts, before.serving))) or plan.hosts
        # and no more than have a place: one that serves may be on a node that takes no pods
        hosts = min(hosts, max(plan.hosts, self.patiently(partial(self.places, live.active))))
        self.settings = replace(self.settings, hosts=hosts, at_once=max(1, min(plan.at_once, hosts - 1)))
        if (lost := self.roll(live.active, proven=True)) is not None:
            serve = sum(each.serving for each in self.patiently(self.seen).values())
            self.say(
                f"It does not come back on every host: {lost[0]}: {lost[1]}. {serve} hosts serve. "
                "`pulumi up` tries it again."
            )
            return 1
        self.patiently(lambda: self.tell(live.begun("", flip=False)))
        how, then = "", f"{live.preferred} goes on serving"
        if before and before.replicas == hosts:
            how, then = ", as before", "it changes nothing"
        self.say(
            f"{live.preferred} serves from {hosts} hosts{how}. Nothing was lost. `pulumi up` tries the "
            f"change again; with the settings of before {then}."
        )
        return 1

    def roll(self, to: str, *, proven: bool) -> tuple[str, str] | None:
        """Goes on until `to` has all pods; else the pod of it that won't serve, and why."""
        first = True
        while True:
            ended, lost = self.patiently(partial(self._turn, to, proven=proven, first=first))
            if ended:
                return lost
            first = False
            self.sleep(LOOK_SECONDS)

    def _turn(self, to: str, *, proven: bool, first: bool) -> tuple[bool, tuple[str, str] | None]:
        """One look, and what follows from it: whether it has ended, and with which pod that won't serve."""
        seen = self.seen()
        self._progress(seen, to)
        if reached(seen, to, self.settings.hosts):
            return True, None
        lost = failed(seen, to, self.plan.load, proven=proven)
        if lost and not first:
            return True, next(iter(lost.items()))
        self._anew(lost)
        for each in steps(seen, to, self.settings, proven=proven):
            self.run(["scale", f"deployment/{each.deployment}", f"--replicas={each.replicas}"], "")
        return False, None

    def patiently(self, do: Callable[[], _Said]) -> _Said:
        """What this comes to, once the cluster answers; the lease is kept meanwhile. Raises Taken, and
        ClusterError where the answer is a refusal, or after PATIENCE_SECONDS without one."""
        silent: float | None = None
        while True:
            try:
                self.renew()
                return do()
            except Taken:
                raise
            except ClusterError as error:
                if any(each in str(error) for each in REFUSALS):
                    raise
                silent = self.steady() if silent is None else silent
                if self.steady() - silent > PATIENCE_SECONDS:
                    raise ClusterError(
                        f"the cluster gave no answer for {PATIENCE_SECONDS} s: {error}. All pods go on as "
                        "they are. Once it answers, run: pulumi up"
                    ) from None
            self.sleep(LOOK_SECONDS)

    def _anew(self, lost: Mapping[str, str]) -> None:
        """Has others take the place of pods that had failed before this began: what made them fail may have
        been put right. They serve nobody, so nothing is waited for."""
        for pod, why in lost.items():
            self.say(f"Another pod takes the place of {pod}: {why}")
            self.run(["delete", "pod", pod, "--wait=false", f"--grace-period={STOP_GRACE}"], "")

    def _progress(self, seen: Seen, to: str) -> None:
        serve = sum(each.serving for each in seen.values())
        if self.record is not None:
            self.record.saw(self.now, seen[self.plan.to].serving, serve)
        said = f"{seen[to].serving} of {self.settings.hosts} hosts have {to}; {serve} serve"
        if said != self._said:
            self._said = said
            self.say(said)

    # what the cluster says and is told

    def get(self, *words: str) -> Any:
        return get(self.run, *words)

    @property
    def proxies(self) -> str:
        return selector(self.plan.project, self.plan.stack, "proxy")

    @property
    def mine(self) -> str:
        return selector(self.plan.project, self.plan.stack)

    def seen(self) -> Seen:
        return seen_of(self.get("deployments,pods", "--selector", self.mine)["items"], self.now)

    def live(self) -> LiveConfigMap:
        return live_of(self.get("configmap", self.plan.live))

    def tell(self, live: LiveConfigMap) -> None:
        """Tells the proxies what `live` says, and has them look at once."""
        patch = json.dumps(live.patch(self.plan.service))
        self.run(["patch", "configmap", self.plan.live, "--type=merge", "--patch", patch], "")
        look(self.run, self.proxies, self.now)

    def last_words(self, pod: str) -> list[str]:
        """What gate and engine of a pod wrote last; before its engine has begun, what that waits for."""
        engine = self._log(pod, "engine") or self._log(pod, WAITS)
        return [*self._log(pod, "gate"), *engine] or ["  (no log of it can be read)"]

    def _log(self, pod: str, container: str) -> list[str]:
        words = ["logs", pod, "--container", container, f"--tail={TAIL}"]
        for which in (["--previous"], []):  # of the run that failed, where it was started again
            with contextlib.suppress(ClusterError):
                said = self.run([*words, *which], "")
                return [f"  {container}: {line}" for line in said.splitlines()]
        return []

    # one at a time

    @property
    def _lease_name(self) -> str:
        return lease_name(self.plan.stack)

    def take(self) -> None:
        """Waits for a change that nobody follows any more, and raises Taken where somebody does.

        A lease that is held runs out once nobody has renewed it for so long while this looks on.
        """
        first, since = None, self.steady()
        while True:
            try:
                lease = lease_of(self.get("lease", self._lease_name))
            except Missing:
                lease = Lease("", 0, "")
            if not lease.holder or (lease.version == first and self.steady() - since >= lease.seconds):
                self._lease = lease
                return self._hold()
            if first is not None and lease.version != first:
                raise Taken(
                    f"another `pulumi up` changes the stack {self.plan.stack}, and this one has changed "
                    "nothing. Once that has ended, run: pulumi up"
                )
            if first is None:
                first, since = lease.version, self.steady()
                self.say(
                    "A change of this stack has begun and not ended. Whether anybody still follows it shows "
                    f"in {lease.seconds:.0f} s."
                )
            self.sleep(LOOK_SECONDS)

    def renew(self) -> None:
        """Keeps the lease. Raises Taken where another one has it.

        A machine that was asleep may not have counted that as time, and its clock shows it.
        """
        steady, clock = self._held
        if self.steady() - steady >= RENEW_SECONDS or not 0 <= self.clock() - clock < RENEW_SECONDS:
            self._hold()

    def release(self) -> None:
        """Lets the next one begin at once. One who can't has its lease run out."""
        with contextlib.suppress(ClusterError):
            if self._lease.holder == self.holder:
                free = lease_object(
                    self._lease_name, self.plan, "", self.clock(), LEASE_SECONDS, self._lease.version
                )
                self.run(["replace", "--filename", "-", "--output", "json"], json.dumps(free))

    def _hold(self) -> None:
        version, held = self._lease.version, (self.steady(), self.clock())
        wanted = lease_object(self._lease_name, self.plan, self.holder, self.clock(), LEASE_SECONDS, version)
        verb = "replace" if version else "create"
        try:
            said = self.run([verb, "--filename", "-", "--output", "json"], json.dumps(wanted))
        except ClusterError as error:
            if "(Conflict)" in str(error) or "(AlreadyExists)" in str(error):
                there = lease_of(self.get("lease", self._lease_name))
                if there.holder == self.holder:  # what it was told before, and did not answer in time
                    self._lease, self._held = there, held
                    return
                raise Taken(
                    f"another `pulumi up` has begun to change the stack {self.plan.stack}, and this one "
                    "leaves it to that. Once that has ended, run: pulumi up"
                ) from None
            raise
        self._lease, self._held = lease_of(json.loads(said)), held


def _keep(folder: Path, files: Mapping[str, str]) -> None:
    """What can't be kept is no reason for a change to have failed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
    except OSError as error:
        print(f"the certificate can't be written: {error}", file=sys.stderr)


def main(words: Sequence[str], environment: Mapping[str, str], text: str) -> int:
    """With the word `look`, the proxies of PROJECT and STACK, in NAMESPACE and CONTEXT, see what they are
    told; with `seen` it is said which pods there are to be. Else the plan in `text` is carried out. The exit
    status."""
    try:
        if words == ["look"]:
            run = kubectl(environment["NAMESPACE"], environment["CONTEXT"])
            look(run, selector(environment["PROJECT"], environment["STACK"], "proxy"), time.time())
            print("The proxies look at what they are told.")
            return 0
        if words == ["seen"]:
            run = kubectl(environment["NAMESPACE"], environment["CONTEXT"])
            labels = Labels(project=environment["PROJECT"], stack=environment["STACK"])
            print(live_words(run, labels, time.time()))
            return 0
        plan = read_plan(text)
        where = (plan.namespace, plan.context)
        run, keep = kubectl(*where), partial(_keep, Path("certificates", plan.stack))
        nodes = Nodes(plan.nodes, run, sender(*where), cache_root() / "models")
        change = ClusterChange(plan, run, insist=bool(environment.get(INSIST)), nodes=nodes.bring, keep=keep)
        return change.flip()
    except (ClusterError, ValueError, KeyError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ, sys.stdin.read()))
