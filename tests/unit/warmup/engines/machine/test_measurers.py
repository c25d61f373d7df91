"""Which replicas may measure for a recorded one."""

from __future__ import annotations

from ray_warmup.warmup.engines.machine.measurers import Measurer, measurers
from ray_warmup.warmup.engines.machine.phases import EnginePhase
from tests.unit.warmup.engines.machine.driver import Driver, Node


def test_the_other_starts_of_the_class_measure_while_its_engine_is_recorded() -> None:
    """One per node, numbered from 1, with the bundles of their devices; nobody before and after."""
    driver = Driver(num_nodes=3, per_node=2, tensor=2)
    driver.until(EnginePhase.PROBING)
    assert list(measurers(driver.machine.run)) == []
    driver.until(EnginePhase.RECORDING)
    assert list(measurers(driver.machine.run)) == [
        Measurer(recorder=0, recorder_process=0, launcher=2, process=0, replica=1, bundles=(2, 3)),
        Measurer(recorder=0, recorder_process=0, launcher=4, process=0, replica=2, bundles=(4, 5)),
    ]
    driver.until(EnginePhase.CAPTURING)
    assert list(measurers(driver.machine.run)) == []


def test_a_node_of_another_device_measures_nothing() -> None:
    """It is of another class, which is recorded by itself."""
    driver = Driver(num_nodes=2, nodes={"01" * 28: Node(device="H200")})
    driver.until(EnginePhase.RECORDING)
    assert list(measurers(driver.machine.run)) == []


def test_a_launcher_that_is_replaced_measures_once_it_is_there() -> None:
    """As another process, with which an exchange begins anew; so does the one that records."""
    driver = Driver(num_nodes=2)
    driver.until(EnginePhase.RECORDING)
    driver.take(driver.machine.died(1, "killed", driver.now))
    assert list(measurers(driver.machine.run)) == []
    driver.take(driver.machine.replaced(driver.infos[1], driver.now))
    (found,) = measurers(driver.machine.run)
    assert (found.launcher, found.process) == (1, 1)
    driver.take(driver.machine.died(0, "killed", driver.now))
    assert list(measurers(driver.machine.run)) == []
    driver.take(driver.machine.replaced(driver.infos[0], driver.now))
    (found,) = measurers(driver.machine.run)
    assert (found.recorder, found.recorder_process, found.launcher, found.process) == (1, 1, 0, 1)
