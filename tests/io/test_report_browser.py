"""The page of a run in a real browser: what colours its tokens can be chosen, and nothing runs off a phone."""

import pytest

from lqlm.io.report.page import write_report
from tests.browser import NEEDS_A_BROWSER, browse, found_in
from tests.io.test_report import PANELS, lines, run  # noqa: F401  (a fixture)

# Beside the page's own policy nothing of this would run: the policy is taken out of the copy that is looked at.
PROBE = """<pre id="found"></pre><script>
const shades = () => [...document.querySelectorAll(".t")].map(t => getComputedStyle(t).backgroundColor);
const found = {wide: document.documentElement.scrollWidth - innerWidth, by: {},
               charts: [...document.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().width)};
for (const button of document.querySelectorAll('input[name="by"]')) { button.click(); found.by[button.id] = shades(); }
document.getElementById("found").textContent = JSON.stringify(found);
</script>"""


@NEEDS_A_BROWSER
@pytest.mark.usefixtures("run")
def test_the_page_in_a_browser(run, tmp_path_factory):  # noqa: F811
    page = run / "report.html"
    write_report(run, page, PANELS)
    text = page.read_text()
    assert text.count("Content-Security-Policy") == 1
    probed = run / "probed.html"
    probed.write_text(text.replace("Content-Security-Policy", "none").replace("</body>", f"{PROBE}</body>"))
    profile = tmp_path_factory.mktemp("profile")
    found = found_in(browse(probed.as_uri(), profile, "--window-size=390,800", "--dump-dom"))
    assert found["wide"] <= 0 and found["charts"] and min(found["charts"]) > 100
    clear = "rgba(0, 0, 0, 0)"
    assert found["by"].keys() == {"by-r", "by-a", "by-p"}
    ratio, advantage, own = (found["by"][f"by-{key}"] for key in "rap")
    assert ratio[0].startswith("rgba(40, 110, 220") and ratio[1].startswith("rgba(220, 60, 50") and ratio[2] == clear
    assert all(shade.startswith("rgba(220, 60, 50") for shade in advantage)
    assert own[0] != own[1] and own[2] == clear
