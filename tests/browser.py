"""A real browser without a screen, where there is one."""

import html
import json
import re
import shutil
import subprocess

import pytest

CHROME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
NEEDS_A_BROWSER = pytest.mark.skipif(CHROME is None, reason="no browser here (chromium or google-chrome)")


def browse(address, folder, *options):
    """What the browser has made of a page."""
    assert CHROME
    command = [CHROME, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command += [f"--user-data-dir={folder}", "--virtual-time-budget=60000", *options, address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def found_in(page):
    """What a script of the page has written into ``<pre id="found">`` as JSON."""
    text = re.search(r'<pre id="found">(.*?)</pre>', page, re.DOTALL)
    assert text, page[-2000:]
    return json.loads(html.unescape(text[1]))
