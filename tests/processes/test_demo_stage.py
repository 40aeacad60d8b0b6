"""Parts of the demo's stage, without a show."""

import sys
import threading
from types import SimpleNamespace

import pytest
from support.demo import DEMO_PROJECT


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(DEMO_PROJECT))
    from show.stage import broker, control, loopback, partners, processes, workers

    return SimpleNamespace(
        broker=broker, control=control, loopback=loopback, partners=partners, processes=processes, workers=workers
    )


def test_commands_wait_for_the_owner_and_bring_back_its_answer(stage, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = stage.control.Channel()
    channel.state = {"groups": {}}
    with stage.loopback.serve(channel.answer) as url:
        monkeypatch.setenv(stage.control.URL_VARIABLE, url)
        monkeypatch.setenv(stage.control.TOKEN_VARIABLE, channel.token)
        assert stage.control.ask("/state") == {"groups": {}}
        obeyed = threading.Event()

        def obey() -> None:
            while not (command := channel.next()):
                assert not obeyed.wait(0.01)
            assert (command.action, command.group) == ("start", "email")
            command.said.set_exception(stage.loopback.Refused(409, "no room"))

        owner = threading.Thread(target=obey)
        owner.start()
        with pytest.raises(stage.loopback.Refused, match="no room"):
            stage.control.ask("/do", action="start", group="email")
        owner.join()


def test_the_control_channel_obeys_nobody_without_the_token(stage, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = stage.control.Channel()
    with stage.loopback.serve(channel.answer) as url:
        monkeypatch.setenv(stage.control.URL_VARIABLE, url)
        monkeypatch.setenv(stage.control.TOKEN_VARIABLE, "guessed")
        for path, body in (("/do", {"action": "kill", "group": "email"}), ("/state", {})):
            with pytest.raises(stage.loopback.Refused, match="wrong token"):
                stage.control.ask(path, **body)
    assert channel.next() is None


def test_a_stage_that_is_gone_is_said(stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage.loopback.serve(lambda *_: {}) as url:
        pass
    monkeypatch.setenv(stage.control.URL_VARIABLE, url)
    monkeypatch.setenv(stage.control.TOKEN_VARIABLE, "any")
    with pytest.raises(stage.loopback.Refused, match="the stage does not answer"):
        stage.control.ask("/state")


def test_the_rating_agency_is_busy_for_every_fourth_order_and_longer_for_every_twelfth(stage) -> None:
    partners = stage.partners.Partners(pace=0)

    def refusals(order: int) -> list[int]:
        found: list[int] = []
        while True:
            try:
                partners.answer(f"/rating/{order}", None, {})
                return found
            except stage.loopback.Refused as refused:
                found.append(refused.status)

    assert {order: found for order in range(1, 13) if (found := refusals(order))} == {4: [503], 8: [503], 12: [503] * 2}


def test_a_broken_partner_refuses_until_it_is_mended(stage) -> None:
    partners = stage.partners.Partners(pace=0)
    partners.switch("mail", broken=True)
    with pytest.raises(stage.loopback.Refused) as refused:
        partners.answer("/mail/1", None, {})
    assert refused.value.status == 422
    assert partners.answer("/ledger/1", None, {})["order"] == 1
    partners.switch("mail", broken=False)
    assert partners.answer("/mail/1", None, {})["order"] == 1
    assert partners.at_work("mail") == []


def test_a_group_has_three_workers_at_most_and_no_name_comes_twice(stage, tmp_path, monkeypatch) -> None:
    idle = [sys.executable, "-c", "import time; time.sleep(600)"]
    start = stage.processes.Children.start
    monkeypatch.setattr(
        stage.processes.Children, "start", lambda self, name, command, **more: start(self, name, idle, **more)
    )
    with stage.processes.Children(tmp_path, tmp_path) as children:
        workers = stage.workers.Workers(children, ["email"], concurrency=1)
        first, second, third = (workers.start("email") for _ in range(3))
        with pytest.raises(stage.processes.StageError, match="3 workers, which is the most"):
            workers.start("email")
        workers.kill(second)
        assert workers.start("email").name == "email-4"
        assert first.is_at_work(["email-1@here"])
        assert not first.is_at_work(["email-11@here"])
        died: list[str] = []
        third.child.process.kill()
        third.child.process.wait()
        workers.sweep(lambda worker: died.append(worker.name))
        assert died == ["email-3"]
        assert [worker.name for worker in workers.all] == ["email-1", "email-4"]


@pytest.mark.parametrize(
    ("url", "lease_s"),
    [("hake://?region=eu-west-1", 10), ("hake://?region=eu-west-1&visibility_timeout=30", 30)],
)
def test_the_lease_of_the_show_is_that_of_the_url_if_it_says(stage, monkeypatch, url: str, lease_s: int) -> None:
    monkeypatch.setenv("SHOP_BROKER_URL", "")
    assert stage.broker.lease_s(stage.broker._in_use(url, 10)) == lease_s
