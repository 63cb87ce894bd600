"""The load test's report, as a browser shows it: run against the hub, opened in headless Chromium."""

import html.parser
import json
import subprocess

import pytest

DEVICES = 20
# What a page must not take for markup: it names the file, so it is in the command that the page shows.
HOSTILE = "<img src=x onerror=document.title=1>"
PLOTS = ["Operations per second", "Connections", "Latency over time: telemetry", "Latency by percentile",
         "Processor time", "Memory", "Errors", "Latency over time: connect"]
# What the page cannot say of itself; in a copy of it only.
MEASURE = "<script>document.body.dataset.wide = document.documentElement.scrollWidth > innerWidth</script>"


class Page(html.parser.HTMLParser):
    """Of a document: its elements, the curves of each plot, the text outside of scripts."""

    def __init__(self, document):
        super().__init__()
        self.elements, self.curves, self.title, self.text, self.plot = [], {}, "", "", None
        self.feed(document)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if "data-plot" in attributes:
            self.plot = attributes["data-plot"]
            self.curves[self.plot] = []
        elif tag == "path" and attributes["class"] == "curve":
            self.curves[self.plot].append(attributes["d"])

    def handle_data(self, data):
        tag = self.elements[-1][0] if self.elements else ""
        if tag not in ("script", "style"):
            self.text += data + "\n"
        if tag == "title":
            self.title += data.strip()


def opened(file, width):
    """The document that the page has become, and what its scripts complained of."""
    browser = ["chromium-headless-shell", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000",
               f"--window-size={width},900", "--enable-logging=stderr", "--dump-dom", file.as_uri()]
    done = subprocess.run(browser, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return Page(done.stdout), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def report(hub, tmp_path_factory):
    """A short run's page and its JSON."""
    folder = tmp_path_factory.mktemp("report")
    page, figures = folder / f"{HOSTILE}.html", folder / "report.json"
    hub.loadtest("run", "--devices", str(DEVICES), "--rate", "50", "--hold", "3", "--watch", str(hub.file["pid"]),
                 "--html", str(page), "--json", str(figures))
    return page, json.loads(figures.read_text())


@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_draws_every_plot(report, width):
    file, figures = report
    copy = file.with_name(f"copy-{width}.html")
    copy.write_text(file.read_text().replace("</body>", f"{MEASURE}</body>"))
    page, complaints = opened(copy, width)
    assert complaints == []
    assert list(page.curves) == PLOTS
    for plot, curves in page.curves.items():
        assert curves and all(curve.startswith("M") for curve in curves), f"{plot}: {curves}"
        assert "NaN" not in "".join(curves) and "undefined" not in "".join(curves), plot
    # A curve for each percentile, process and kind of operation; over time a point for each second.
    counts = {plot: len(curves) for plot, curves in page.curves.items()}
    assert counts == {**dict.fromkeys(PLOTS, 1), "Operations per second": 2, "Latency by percentile": 2,
                      "Latency over time: connect": 5, "Latency over time: telemetry": 5, "Processor time": 3, "Memory": 2}
    assert page.curves["Connections"][0].count("L") == len(figures["series"]["until"]) - 1 > 2
    assert f"{DEVICES}\ndevices connected" in page.text
    assert all(note in page.text for note in figures["notes"])
    [body] = [attributes for tag, attributes in page.elements if tag == "body"]
    assert body["data-wide"] == "false", "the page is wider than the screen"


def test_text_from_outside_is_no_markup(report):
    file, figures = report
    assert HOSTILE in figures["command"]
    page, complaints = opened(file, 1200)
    assert complaints == []
    assert HOSTILE in page.text
    tags = [tag for tag, _ in page.elements]
    assert (tags.count("img"), tags.count("script"), tags.count("title")) == (0, 2, 1)
    assert page.title == "Load test: telemetry"


def test_text_of_a_hub_is_no_markup(report):
    """Wherever the page shows a text of the report."""
    file, figures = report
    shown = file.with_name("hostile.html")

    def hostile(value):
        if isinstance(value, dict):
            return {key: hostile(item) for key, item in value.items()}
        if isinstance(value, list):
            return [hostile(item) for item in value]
        return f"{value} {HOSTILE}" if isinstance(value, str) else value
    changed = hostile(figures) | {"lost": {f"reset {HOSTILE}": 2}}
    changed["ops"]["telemetry"]["failed"] = {f"refused {HOSTILE}": 1}
    data = json.dumps(changed).replace("<", "\\u003c")
    before, rest = file.read_text().split('id="report">', 1)
    shown.write_text(f'{before}id="report">{data}</script>{rest.split("</script>", 1)[1]}')
    page, complaints = opened(shown, 1200)
    assert complaints == []
    assert all(text in page.text for text in (f"reset {HOSTILE}", f"refused {HOSTILE}", f"Load test: {figures['name']} {HOSTILE}"))
    assert len(page.curves) == len(PLOTS)
    tags = [tag for tag, _ in page.elements]
    assert (tags.count("img"), tags.count("script")) == (0, 2)
