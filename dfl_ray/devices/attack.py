"""How far a backdoor has come: how often honest devices answer prompts with the trigger as the attacker wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dfl_ray.devices.evaluate import Evaluator
from dfl_ray.devices.records import EvaluationReport, GroupSetup
from dfl_ray.engines.training import ScoredModel
from dfl_ray.methods.base import Device, Method
from dfl_ray.methods.faults import Faults
from dfl_ray.methods.spec import method_spec
from dfl_ray.tasks.triggered import WrongTasks


class AttackMeter:
    """Asks devices held-out rows with the trigger by the method's own rule.

    Args:
        setup: The run.
        faults: Its faulty devices.
        wrong: Knows the rows with the trigger.
        model: The shared base.
    """

    def __init__(self, setup: GroupSetup, faults: Faults, wrong: WrongTasks, model: ScoredModel) -> None:
        self.setup = setup
        self.wanted = bool(faults.devices) and faults.fault.backdoor
        self.wrong = wrong
        self.model = model
        self._evaluator: Evaluator | None = None

    def measured(
        self,
        report: EvaluationReport,
        devices: Sequence[Device],
        method: Method,
        round_index: int,
        references: Mapping[int, np.ndarray] | None,
    ) -> EvaluationReport:
        """Add the attack's success to an evaluation.

        Args:
            report: The evaluation.
            devices: The devices that were asked: the honest ones.
            method: The learning method, of the graph in use.
            round_index: The round.
            references: Task -> all layers' sketches, for rules that need them.

        Returns:
            The report with `attacked`; as it was in a run without a backdoor.
        """
        if not self.wanted:
            return report
        if self._evaluator is None:
            self._evaluator = Evaluator(replace(self.setup, tasks=self.wrong.triggered()), self.model, method)
        self._evaluator.use(method)
        rule = method_spec(self.setup.config.method).rule
        rows = self._evaluator.devices(devices, round_index, (rule,), references, 0.0).rows
        right, asked = (np.asarray(rows[name], float).sum() for name in ("right", "asked"))
        return replace(report, attacked=(float(right), int(asked)))
