"""A real TensorBoard server, and a real browser without a window that looks at it."""

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

from selenium import webdriver
from selenium.common.exceptions import JavascriptException, StaleElementReferenceException

LIMIT = 120  # seconds, beyond which something is broken and not slow
# Nothing of the browser may go out into the net; WebGL, which the projector needs, is computed on the CPU.
SWITCHES = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --enable-unsafe-swiftshader --window-size=1280,800""".split()
# Elements and texts in the shadow trees of web components, which `querySelectorAll` and `innerText` do not enter.
DEEP = """
function deep(selector, root = document) {
  const found = [...root.querySelectorAll(selector)];
  for (const each of root.querySelectorAll('*'))
    if (each.shadowRoot) found.push(...deep(selector, each.shadowRoot));
  return found;
}
function seen(element) { return element.getClientRects().length > 0; }
function textOf(node) {
  if (node.nodeType === Node.TEXT_NODE) return node.data;
  if (node.nodeType !== Node.ELEMENT_NODE || /^(STYLE|SCRIPT|TEMPLATE)$/.test(node.tagName)) return '';
  return [node.shadowRoot, node].flatMap(each => each ? [...each.childNodes] : []).map(textOf).join(' ');
}
"""


@contextlib.contextmanager
def serve(log_dir):
    """A TensorBoard server of a folder: its address."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]  # which is free
    address, program = f"http://localhost:{port}", Path(sys.executable).with_name("tensorboard")
    command = [str(program), f"--logdir={log_dir}", f"--port={port}", "--host=localhost", "--reload_interval=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            runs = f"{address}/data/runs"
            until(lambda: server.poll() is not None or urlopen(runs).read() not in (b"", b"[]"), "an answer")
            assert server.poll() is None, server.stdout.read()
            yield address
        finally:
            server.terminate()


@contextlib.contextmanager
def browse(profile):
    """Chromium, a `selenium` driver, with a new profile in an empty folder."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for switch in [*SWITCHES, f"--user-data-dir={profile}"]:
        options.add_argument(switch)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(LIMIT)
    try:
        yield driver
    finally:
        driver.quit()


def until(happened, what):
    """Waits until a function returns something true, and returns that."""
    end = time.monotonic() + LIMIT
    while True:
        # While the server starts, and while the page is built.
        with contextlib.suppress(OSError, JavascriptException, StaleElementReferenceException):
            if found := happened():
                return found
        assert time.monotonic() < end, f"{what} did not come within {LIMIT} s"
        time.sleep(0.2)


class Board:
    """What a person sees on the pages of TensorBoard: the address of `serve`, in the driver of `browse`."""

    def __init__(self, driver, address):
        self.driver, self.address = driver, address

    def open(self, tab):
        self.driver.get(f"{self.address}/#{tab}")
        self.driver.refresh()  # a new fragment alone loads nothing

    def open_projector(self):
        """Goes to the projector, which is two frames deep, and waits until it shows points."""
        self.open("projector")
        for _ in range(2):
            [frame] = until(lambda: self.elements("iframe"), "a frame")
            self.driver.switch_to.frame(frame)
        self.wait_for(".numDataPoints", r"^[1-9]\d*$")

    def run(self, script, *arguments):
        """What a script returns, which may use `deep`, `seen` and `textOf`."""
        return self.driver.execute_script(DEEP + script, *arguments)

    def elements(self, selector):
        """All visible elements that match a CSS selector."""
        return self.run("return deep(arguments[0]).filter(seen);", selector)

    def texts(self, selector):
        """Their texts, each with those of its parts."""
        texts = self.run("return deep(arguments[0]).filter(seen).map(textOf);", selector)
        return [" ".join(text.split()) for text in texts]

    def wait_for(self, selector, pattern):
        """Waits until one of these texts matches, and returns that text."""
        return until(
            lambda: next((text for text in self.texts(selector) if re.search(pattern, text)), None),
            f"{pattern!r} in {selector}",
        )
