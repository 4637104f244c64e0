import pytest

from genfw.training.health import HealthSettings, Monitor

NAN, INF = float("nan"), float("inf")


def verdicts(rows, **settings):
    monitor = Monitor(HealthSettings(**settings))
    return [monitor.judge(row) for row in rows]


def actions(rows, **settings):
    return [verdict.action for verdict in verdicts(rows, **settings)]


def gaps(*values):
    return [{"stage": 0, "name": "x", "step": 1, "time": INF, "energy/gap": value} for value in values]


def test_a_healthy_row_leads_to_nothing():
    (verdict,) = verdicts([{"stage": 0, "step": 5, "loss": 1.0, "energy/gap": -3.0, "chain/drift": 1.1}])
    assert verdict.healthy
    assert verdict.action == "none"


def test_a_wide_gap_must_last():
    assert actions(gaps(500.0, 500.0, -500.0)) == ["none", "none", "rollback"]
    assert actions(gaps(500.0, 500.0, 1.0, 500.0, 500.0)) == ["none"] * 5
    assert [verdict.suspect for verdict in verdicts(gaps(500.0, 500.0, 1.0, 500.0))] == [True, True, False, True]
    assert actions(gaps(99.0, 99.0, 99.0, 99.0)) == ["none"] * 4


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_any_value_that_is_not_finite_is_ill_at_once(value):
    (verdict,) = verdicts([{"stage": 0, "step": 1, "time": 1.0, "loss/whatever": value}])
    assert verdict.action == "rollback"
    assert "loss/whatever" in verdict.reason


@pytest.mark.parametrize(("key", "fine", "ill"), [("chain/drift", 24.0, 26.0), ("chain/saturation", 0.9, 0.99)])
def test_drift_and_saturation(key, fine, ill):
    found = verdicts([{key: fine}, {key: ill}])
    assert [verdict.action for verdict in found] == ["none", "rollback"]
    assert key in found[1].reason
    assert f"{ill:g}" in found[1].reason


def test_after_its_rollbacks_a_stage_stops():
    monitor = Monitor(HealthSettings(rollbacks=2))
    seen = []
    for rollbacks in range(4):
        monitor.rollbacks = rollbacks
        seen.append(monitor.judge({"loss": NAN}).action)
    assert seen == ["rollback", "rollback", "stop", "stop"]


def test_a_warning_is_given_when_an_illness_begins():
    rows = [{"chain/drift": value} for value in (99.0, 99.0, 1.0, 99.0)]
    found = verdicts(rows, action="warn")
    assert [verdict.action for verdict in found] == ["warn", "none", "none", "warn"]
    assert [verdict.healthy for verdict in found] == [False, False, True, False]


def test_the_learning_rate_is_cut_again_while_the_illness_lasts():
    rows = [{"chain/drift": 99.0}] * 7
    assert actions(rows, action="cut-lr", gap_window=3) == [
        "cut-lr",
        "none",
        "none",
        "cut-lr",
        "none",
        "none",
        "cut-lr",
    ]
    assert actions([{"loss": NAN}], action="cut-lr") == ["rollback"]


def test_stop_and_off():
    assert actions([{"loss": NAN}], action="stop") == ["stop"]
    (verdict,) = verdicts([{"loss": NAN}], enabled=False)
    assert verdict.action == "none"
    assert verdict.healthy


@pytest.mark.parametrize("action", ["rollback", "cut-lr", "warn", "stop"])
def test_a_restored_monitor_judges_like_one_that_never_stopped(action):
    rows = gaps(500.0, 500.0, 500.0, 500.0, 1.0, 500.0, 500.0, 500.0)
    for cut in range(len(rows)):
        first, straight = (Monitor(HealthSettings(action=action, gap_window=2)) for _ in range(2))
        for row in rows[:cut]:
            first.judge(row)
            straight.judge(row)
        second = Monitor(HealthSettings(action=action, gap_window=2))
        second.load_state_dict(first.state_dict())
        assert [second.judge(row) for row in rows[cut:]] == [straight.judge(row) for row in rows[cut:]]
