"""Pages of the viewer in node and in a headless Chromium, where they are installed."""

import json
import re
import shutil
import subprocess

import pytest

BROWSERS = "chromium", "chromium-browser", "google-chrome", "chrome"
FLAGS = (
    *("--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--window-size=640,480", "--force-device-scale-factor=1", "--virtual-time-budget=4000"),
    "--dump-dom",
)
PROBE = """
<script>
(async () => {
  while (!jaxgenViewer.ready && !jaxgenViewer.error) await new Promise((r) => setTimeout(r, 20));
  const found = document.createElement("pre");
  found.id = "found";
  try { found.textContent = JSON.stringify(await (async () => { PROGRAM })()); }
  catch (fault) { found.textContent = JSON.stringify({fault: fault.message}); }
  document.body.append(found);
})();
</script>
</body>"""


def script_of(page, name):
    return re.search(rf'<script[^>]* id="{name}">(.*?)</script>', page, re.DOTALL)[1]


def scene_of(page):
    return json.loads(script_of(page, "scene"))


def in_node(page, program, given):
    """What a program returns that has the page's mathematics, and `given`."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    source = (
        script_of(page, "mathematics")
        + "\nconst given = JSON.parse(require('fs').readFileSync(0));"
        + f"\nconsole.log(JSON.stringify((() => {{ {program} }})()));"
    )
    done = subprocess.run(
        ["node", "-e", source],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def in_browser(page, program, folder):
    """What a program returns once the page is ready."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    file = folder / "page.html"
    file.write_text(page.replace("</body>", PROBE.replace("PROGRAM", program)), encoding="utf-8")
    command = [browser, *FLAGS, f"--user-data-dir={folder}/profile", file.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=120)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout.decode(), re.DOTALL)
    assert found, done.stdout.decode()[:500]
    return json.loads(found[1].replace("&amp;", "&").replace("&gt;", ">").replace("&lt;", "<"))
