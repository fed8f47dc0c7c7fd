"""Starts the simulated provider and the gateway once, and counts for the closing line."""

import os

import pytest

from gateway import Gateway


@pytest.fixture(scope="session")
def running():
    with Gateway() as gateway:
        yield gateway


@pytest.fixture
def gateway(running):
    running.heal()
    yield running
    running.until_idle()


def pytest_sessionfinish(session):
    failed = session.testsfailed
    with open(os.environ["COUNTS"], "w") as counts:
        counts.write(f"{session.testscollected - failed} {failed}\n")
