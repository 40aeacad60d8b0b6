"""The show: workers, partners and the page, until a signal ends it. One thread owns it all, and obeys the page."""

import argparse
import os
import socket
import sys
from collections.abc import Sequence

from show.stage.control import TOKEN_VARIABLE, URL_VARIABLE, Channel, Command
from show.stage.loopback import HOST, Refused, serve
from show.stage.partners import PARTNER_OF, PARTNERS_VARIABLE, Partners
from show.stage.processes import Child, Children, Clock, StageError
from show.stage.workers import Worker, Workers

#: The group that starts late, by a button.
LATECOMER = "fraud"
CONCURRENCY = 2
OPENS_WITHIN_S = 120.0
ACTIONS = ("start", "stop", "kill", "break", "mend")


def play(
    options: argparse.Namespace,
    groups: Sequence[str],
    lease_s: int,
    listening: socket.socket,
    children: Children,
    clock: Clock,
) -> None:
    """Returns by an exception only.

    Args:
        options: ``orders`` to place at the start, and ``pace`` of the work.
        lease_s: Visibility timeout, to be shown.
        listening: Where the page is to be.
    Raises:
        Interrupted: what ends a show.
        StageError: the web server has ended.
    """
    channel, partners = Channel(), Partners(options.pace)
    with serve(partners.answer) as partners_url, serve(channel.answer) as control_url:
        os.environ[PARTNERS_VARIABLE] = partners_url
        workers = Workers(children, groups, CONCURRENCY)
        for group in groups:
            if group != LATECOMER:
                workers.start(group)
        show = Show(groups, workers, partners, channel, lease_s)
        fd = listening.fileno()
        environment = {URL_VARIABLE: control_url, TOKEN_VARIABLE: channel.token}
        web = children.start("web", [sys.executable, "-m", "show.stage.web", str(fd)], keep_open=[fd], **environment)
        clock.wait_until(lambda: show.tick(web) and show.is_open(web), "the shop open", OPENS_WITHIN_S)
        show.has_opened = True
        say(f"the shop is open: http://{HOST}:{listening.getsockname()[1]}/  (Ctrl-C closes it)")
        if options.orders:
            children.start("storefront", [sys.executable, "manage.py", "place_orders", str(options.orders)])
        clock.wait_until(lambda: not show.tick(web), "the end of the show")


class Show:
    """Carries out what the page asks for."""

    def __init__(
        self, groups: Sequence[str], workers: Workers, partners: Partners, channel: Channel, lease_s: int
    ) -> None:
        self._lease_s = lease_s
        self._groups, self._workers, self._partners, self._channel = groups, workers, partners, channel
        self.has_opened = False
        #: Groups of which a worker is to be killed as soon as it is in the middle of a task.
        self._targets: set[str] = set()

    def is_open(self, web: Child) -> bool:
        """Whether the page is there, and the groups that are to be there from the start."""
        return "serving" in web.log_text() and all(worker.is_ready for worker in self._workers.all)

    def tick(self, web: Child) -> bool:
        """One round, ten a second; always True. Raises: StageError when there is no show without the page."""
        if web.ended():
            raise StageError(f"the web server ended with exit code {web.process.returncode}")
        self._workers.sweep(self._died)
        while command := self._channel.next():
            self._obey(command)
        for group in list(self._targets):
            self._kill_in_mid_task(group)
        groups = {group: self._state(group) for group in self._groups}
        self._channel.state = {"lease_s": self._lease_s, "groups": groups}
        return True

    def _obey(self, command: Command) -> None:
        try:
            if command.group not in self._groups or command.action not in ACTIONS:
                raise Refused(404, "no such button")
            command.said.set_result(getattr(self, f"_{command.action}")(command.group))
        except Refused as refused:
            command.said.set_exception(refused)
        except StageError as error:
            command.said.set_exception(Refused(409, str(error)))

    def _start(self, group: str) -> str:
        return f"{self._workers.start(group).name} starts."

    def _stop(self, group: str) -> str:
        worker = self._last(group)
        self._workers.stop(worker)
        return f"{worker.name} finishes what it has begun, and stops."

    def _kill(self, group: str) -> str:
        self._last(group)
        self._targets.add(group)
        return f"A worker of {group} will be killed in the middle of a task."

    def _break(self, group: str) -> str:
        self._partners.switch(PARTNER_OF[group], broken=True)
        return f"The handler of {group} fails from now on."

    def _mend(self, group: str) -> str:
        self._partners.switch(PARTNER_OF[group], broken=False)
        return f"The handler of {group} works again."

    def _last(self, group: str) -> Worker:
        workers = self._workers.of(group)
        if not workers:
            raise Refused(409, f"{group} has no worker.")
        return workers[-1]

    def _kill_in_mid_task(self, group: str) -> None:
        """Kill who is at work on what the partner is busy with, and start another in its place: a supervisor would."""
        from show.models import Step

        if not self._workers.of(group):
            self._targets.discard(group)
        at_work = self._partners.at_work(PARTNER_OF[group])
        if not at_work:
            return
        running = Step.objects.filter(group=group, state=Step.State.RUNNING, order__in=at_work)
        names = set(running.values_list("worker", flat=True))
        for worker in self._workers.of(group):
            if worker.is_at_work(names):
                self._workers.kill(worker)
                self._targets.discard(group)
                say(f"{worker.name} was killed in the middle of a task")
                self._workers.start(group)
                return

    def _died(self, worker: Worker) -> None:
        text = f"{worker.name} ended with exit code {worker.child.process.returncode}"
        if not self.has_opened:
            raise StageError(text)
        say(f"{text}: see {worker.child.log}")

    def _state(self, group: str) -> dict[str, object]:
        workers = [
            {"name": worker.name, "pid": worker.child.process.pid, "state": worker.state}
            for worker in self._workers.all
            if worker.group == group
        ]
        is_broken = self._partners.is_broken(PARTNER_OF[group])
        return {"workers": workers, "isTarget": group in self._targets, "isBroken": is_broken}


def say(text: str) -> None:
    print(text, flush=True)
