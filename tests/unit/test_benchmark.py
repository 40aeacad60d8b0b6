"""The benchmark's arithmetic: ratios within rounds, processor time of threads, verdicts."""

import os
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from bench import baselines, pairs, peers, procfs, report, scenarios, targets

RATIOS = st.lists(st.floats(0.01, 100), min_size=1, max_size=20)


def rounds(*rates: float, **more: float) -> pairs.Samples:
    return [{"round": number, "rate": rate, **more} for number, rate in enumerate(rates)]


def test_a_ratio_compares_figures_of_the_same_round() -> None:
    found = pairs.ratio(rounds(10, 40, 90), rounds(10, 20, 30), "rate")
    assert found.values == (1, 2, 3)
    assert (found.median, found.least, found.most) == (2, 1, 3)


def test_a_round_that_one_side_lacks_is_left_out() -> None:
    assert pairs.ratio(rounds(10, 40, 90), rounds(10, 20, 30)[1:], "rate").values == (2, 3)
    assert pairs.ratio(rounds(10, 40, 90)[:1], rounds(10, 20, 30), "rate").values == (1,)


def test_without_a_common_round_there_is_no_ratio() -> None:
    with pytest.raises(KeyError):
        pairs.ratio(rounds(1), rounds(1, 2)[1:], "rate")
    with pytest.raises(KeyError):
        pairs.ratio(rounds(1), rounds(1), "own_us")


def test_a_figure_of_nothing_is_no_divisor() -> None:
    assert pairs.ratio(rounds(10, 40), rounds(0, 20), "rate").values == (2,)


@given(RATIOS, st.floats(0.01, 100))
def test_a_higher_line_is_met_in_fewer_rounds_and_a_lower_one_in_more(values: list[float], line: float) -> None:
    ratio = pairs.Ratio(tuple(values))
    assert ratio.met(line, is_lower_better=False) >= ratio.met(line * 2, is_lower_better=False)
    assert ratio.met(line, is_lower_better=True) <= ratio.met(line * 2, is_lower_better=True)


@pytest.mark.parametrize(("above", "is_met"), [(9, True), (7, True), (6, False), (4, False)])
def test_seven_of_nine_rounds_must_meet_a_line(above: int, is_met: bool) -> None:
    ratio = pairs.Ratio((2.0,) * above + (0.5,) * (9 - above))
    assert ratio.met(1.0, is_lower_better=False) == above
    assert ratio.is_met(1.0, is_lower_better=False) is is_met


def test_turns_go_there_and_back() -> None:
    names = ["a", "b", "c"]
    assert [pairs.order(names, number) for number in range(3)] == [names, ["c", "b", "a"], names]


def test_names_of_processes_do_not_confuse_their_figures() -> None:
    fields = ["S", "7", *["0"] * 9, "150", "50", *["0"] * 30]
    assert procfs.parse_stat(f"1 (a) b (c d) {' '.join(fields)}") == (7, 200 / os.sysconf("SC_CLK_TCK"))


def test_time_of_a_thread_that_ended_counts_as_other_threads() -> None:
    before = procfs.usage(os.getpid())

    def spin() -> None:
        while time.thread_time() < 0.3:
            sum(range(1000))

    thread = threading.Thread(target=spin)
    thread.start()
    thread.join()
    used = procfs.usage(os.getpid()).since(before)
    each = used.per_message(1000)
    assert each["threads_us"] > 200
    assert each["threads_us"] == pytest.approx(each["own_us"] - each["main_thread_us"])
    assert each["pool_us"] == pytest.approx(each["cpu_us"] - each["own_us"])


def test_a_process_that_has_gone_is_told_apart() -> None:
    gone = 2**22 + 1  # beyond the highest process id
    with pytest.raises(ProcessLookupError):
        procfs.usage(gone)
    assert procfs.cpu_s([gone]) == 0
    assert not procfs.is_alive(gone)
    assert procfs.is_alive(os.getpid())


def results(hake: pairs.Samples, base: pairs.Samples) -> targets.Results:
    samples = {"wire": {"near": {"hake": hake, "hake@old": base}}}
    return {"settings": {"baselines": ["hake@old"]}, "samples": samples, "figures": {}}


def test_a_target_names_its_ratio_its_rounds_and_a_verdict() -> None:
    target = targets.Pair("CPU", 0.5, "wire", "near", targets.BASELINE, "own_us")
    run = results(rounds(*[1] * 9, own_us=4.0), rounds(*[1] * 9, own_us=10.0))
    assert target.wanted == "≤ 0.5 x"
    assert target.judge(run) == targets.Outcome("0.40 x (0.40 to 0.40)", "9 of 9", "met")


def test_ratios_over_tls_are_compared_with_those_without() -> None:
    plain, secure = ({"hake": rounds(rate), "sqs": rounds(1)} for rate in (50.0, 40.0))
    samples = {"consume": {"far": plain}, "consume_tls": {"far": secure}}
    run = {"settings": {"baselines": []}, "samples": samples, "figures": {}}
    found = [(target.name, target.judge(run).text) for target in targets.TARGETS if _is_measured(target, run)]
    assert ("  TLS over plain", "0.80 x") in found


def _is_measured(target: targets.Target, run: targets.Results) -> bool:
    try:
        target.judge(run)
    except KeyError:
        return False
    return True


def test_a_target_without_a_baseline_in_the_run_is_left_out() -> None:
    target = targets.Pair("CPU", 0.5, "wire", "near", targets.BASELINE, "own_us")
    run = results(rounds(1, own_us=4.0), rounds(1, own_us=10.0))
    run["settings"]["baselines"] = []
    with pytest.raises(KeyError):
        target.judge(run)


def test_baselines_stand_beside_our_own_in_a_report() -> None:
    assert peers.rank("hake@a1b6dd4") == peers.rank("hake")
    assert peers.label("hake@a1b6dd4") == "hake@a1b6dd4"
    assert set(peers.LABELS) == set(peers.NAMES)


def test_a_baseline_is_a_folder_with_or_without_a_name(tmp_path: Path) -> None:
    package = tmp_path / "old" / "kombu_hake"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    assert baselines.find(str(tmp_path / "old"), tmp_path) == ("hake@old", tmp_path / "old")
    assert baselines.find(f"before={tmp_path / 'old'}", tmp_path) == ("hake@before", tmp_path / "old")


def test_a_baseline_without_the_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no kombu_hake"):
        baselines.find(str(tmp_path), tmp_path)


def test_every_scenario_has_a_title_and_every_target_a_scenario() -> None:
    assert set(report.TITLES) == set(scenarios.PLAN)
    named = {target.scenario for target in targets.TARGETS if isinstance(target, targets.Pair)}
    assert named <= set(scenarios.PLAN)
