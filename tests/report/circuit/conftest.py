"""A browser for each file of tests, and two graphs to look at; without a browser these tests are skipped."""

from __future__ import annotations

from pathlib import Path

import pytest
from circuit_browser import BROWSER, DRIVER, Page
from circuit_graphs import random_graph
from selenium import webdriver


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    if not (BROWSER and DRIVER):
        pytest.skip("no Chrome or Chromium with its chromedriver is installed")
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "force-device-scale-factor=1"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    folder = str(tmp_path_factory.mktemp("downloads"))
    started.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": folder})
    started.downloads = Path(folder)
    yield started
    started.quit()


@pytest.fixture
def page(driver, tmp_path):
    opened = Page(driver, tmp_path)
    yield opened
    assert opened.complaints() == []  # no error, no warning and no breach of the policy in any test


@pytest.fixture(scope="module")
def graph():
    return random_graph(40, 120)


@pytest.fixture(scope="module")
def large():
    return random_graph(400, 5200)
