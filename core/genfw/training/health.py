"""Monitors the logged rows of a training run, and decides what to do before a divergence spoils it.

Energy-based models tend to diverge in training (VAEBM's README says so, and its authors watch the energies by eye).
Here rules do the watching, and the run returns to its last healthy state with new random numbers and a smaller
learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

from genfw.interfaces.values import StateTree
from genfw.plugins.component import Settings
from genfw.plugins.validators import at_least, within

Action = Literal["none", "warn", "cut-lr", "rollback", "stop"]

#: Keys of a row that are not measurements.
_ROW_KEYS = frozenset({"stage", "name", "step", "time"})


@attrs.define(kw_only=True, eq=False, slots=False)
class HealthSettings(Settings):
    """The recipe's ``health:`` section: which rows are unhealthy, and what follows. On by default.

    The monitor reads the logged rows. It checks the scalars ``energy/gap`` (mean energy of negatives minus that of
    data), ``chain/drift`` (mean squared position over its expectation under the base) and ``chain/saturation`` (share
    of data values at the ends of their range), and that every value is finite.

    Arguments:
        enabled: Whether to monitor.
        action: What an unhealthy row leads to: ``rollback`` (to the last healthy checkpoint, learning rate cut),
            ``cut-lr``, ``warn`` or ``stop``.
        energy_gap: Largest absolute ``energy/gap`` in nats.
        gap_window: Consecutive logged rows beyond ``energy_gap`` that are unhealthy.
        chain_drift: Largest ``chain/drift``.
        saturation: Largest ``chain/saturation``.
        lr_factor: Factor on learning rates at every cut and rollback.
        rollbacks: Rollbacks in one stage before the run stops.
        stop_is_success: A stopped stage ends with its last healthy weights, and the run goes on instead of failing
            (VAEBM's stopping rule).
    """

    enabled: bool = True
    action: Literal["rollback", "cut-lr", "warn", "stop"] = "rollback"
    energy_gap: float = attrs.field(default=100.0, validator=at_least(0))
    gap_window: int = attrs.field(default=3, validator=at_least(1))
    chain_drift: float = attrs.field(default=25.0, validator=at_least(0))
    saturation: float = attrs.field(default=0.98, validator=at_least(0))
    lr_factor: float = attrs.field(default=0.3, validator=within(0, 1, "(]"))
    rollbacks: int = attrs.field(default=3, validator=at_least(0))
    stop_is_success: bool = False


@attrs.frozen
class Finding:
    """One unhealthy scalar of a row.

    Arguments:
        kind: ``non-finite``, ``energy-gap``, ``chain-drift`` or ``saturation``.
        key: The scalar.
        value: Its value.
        limit: Its limit.
    """

    kind: str
    key: str
    value: float
    limit: float = math.inf

    def __str__(self) -> str:
        if self.kind == "non-finite":
            return f"{self.key} is {self.value}"
        return f"{self.key} is {self.value:.4g}, past its limit of {self.limit:.4g}"


@attrs.frozen
class Verdict:
    """The monitor's decision on a row.

    Arguments:
        action: What to do now.
        findings: Every unhealthy scalar, new or not.
        reason: A sentence for the log, or empty.
        suspect: Whether the gap is past its limit, but not for long enough: such a row marks no checkpoint as healthy.
    """

    action: Action
    findings: tuple[Finding, ...]
    reason: str = ""
    suspect: bool = False

    @property
    def healthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


class Monitor:
    """Judges the rows of one stage, in order.

    Arguments:
        settings: The recipe's ``health:`` section.
    """

    def __init__(self, settings: HealthSettings) -> None:
        self.settings = settings
        #: Rollbacks of this stage so far.
        self.rollbacks = 0
        self._over = 0  # consecutive rows with too large a gap
        self._known: tuple[str, ...] = ()  # kinds of the last row's findings
        self._rest = 0  # rows until the learning rate may be cut again

    def judge(self, row: Mapping[str, Any]) -> Verdict:
        """Judge a row.

        A new kind of finding leads to a warning or a cut; a cut is repeated every ``gap_window`` rows while findings
        last. A smaller learning rate can't mend non-finite values, so ``cut-lr`` rolls back for them.

        Arguments:
            row: The logged row, with its values as floats.
        """
        if not self.settings.enabled:
            return Verdict("none", ())
        findings = self._findings(row)
        kinds = tuple(sorted({finding.kind for finding in findings}))
        new = set(kinds) - set(self._known)
        self._known, self._rest = kinds, max(self._rest - 1, 0)
        if not findings:
            return Verdict("none", (), suspect=self._over > 0)
        reason = "; ".join(str(finding) for finding in findings)
        action: Action = self.settings.action
        if action == "cut-lr" and "non-finite" in kinds:
            action = "rollback"
        if action == "warn" and not new:
            action = "none"
        if action == "cut-lr":
            if self._rest and not new:
                return Verdict("none", findings)
            self._rest = self.settings.gap_window
        if action == "rollback" and self.rollbacks >= self.settings.rollbacks:
            return Verdict("stop", findings, f"{reason}, after {self.rollbacks} rollback(s) had not cured it")
        return Verdict(action, findings, reason)

    def _findings(self, row: Mapping[str, Any]) -> tuple[Finding, ...]:
        limits = self.settings
        found = [
            Finding("non-finite", key, float(value))
            for key, value in row.items()
            if key not in _ROW_KEYS and isinstance(value, float) and not math.isfinite(value)
        ]
        gap = _number(row, "energy/gap")
        if gap is not None:
            self._over = self._over + 1 if abs(gap) > limits.energy_gap else 0
            if self._over >= limits.gap_window:
                found.append(Finding("energy-gap", "energy/gap", gap, limits.energy_gap))
        for kind, key, limit in (
            ("chain-drift", "chain/drift", limits.chain_drift),
            ("saturation", "chain/saturation", limits.saturation),
        ):
            value = _number(row, key)
            if value is not None and value > limit:
                found.append(Finding(kind, key, value, limit))
        return tuple(found)

    def state_dict(self) -> StateTree:
        """Everything the next verdict depends on."""
        return {"rollbacks": self.rollbacks, "over": self._over, "known": list(self._known), "rest": self._rest}

    def load_state_dict(self, state: StateTree) -> None:
        """Inverse of :meth:`state_dict`."""
        known: Sequence[str] = state["known"]
        self.rollbacks, self._over = int(state["rollbacks"]), int(state["over"])
        self._known, self._rest = tuple(known), int(state["rest"])


def _number(row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    return value if isinstance(value, float) and math.isfinite(value) else None
