"""The report in a real browser: it opens from a file, draws, sorts and answers the pointer, with no
network."""

import json
import re
import subprocess

import pytest

from scalerl.fits.fit_all import fit_all
from scalerl.fits.records import Options

PROBE = """
<script>
const seen = {};
const rows = () => [...document.querySelectorAll("#fits tbody tr")].map(row => row.cells[1].textContent);
const heads = [...document.querySelectorAll("#fits th")], head = heads.find(th => th.textContent === "A");
seen.curves = document.querySelectorAll("#plot g").length;
seen.points = document.querySelectorAll("#plot circle").length;
seen.open = document.querySelectorAll('#plot circle[fill="#fff"]').length;
seen.path = document.querySelector("#plot g path:nth-child(2)").getAttribute("d").length;
seen.rows = rows();
head.click(); seen.rising = rows();
head.click(); seen.falling = rows();
const group = document.querySelector("#plot g");
const box = document.getElementById("plot").getBoundingClientRect();
const place = {clientX: box.left + box.width * .7, clientY: box.top + 50, bubbles: true};
group.dispatchEvent(new MouseEvent("mousemove", place));
seen.tip = document.getElementById("tip").textContent;
seen.tipShown = document.getElementById("tip").style.display;
seen.band = group.querySelector(".band").getAttribute("opacity");
document.querySelector("#fits tbody tr").click();
seen.afterHiding = document.querySelectorAll("#plot g").length;
seen.loaded = performance.getEntriesByType("resource").length;
const result = document.createElement("pre");
result.id = "result"; result.textContent = "RESULT" + JSON.stringify(seen) + "END";
document.body.appendChild(result);
</script></body>"""


@pytest.fixture
def report(tmp_path, points):
    points["run"] = points.run.replace({"high": "high <b>&"})
    points.to_csv(tmp_path / "p.csv", index=False)
    fit_all(tmp_path / "p.csv", tmp_path / "out", Options())
    return tmp_path / "out" / "report.html"


def test_page_is_self_contained_and_escaped(report):
    text = report.read_text()
    assert not re.search(r"(src|href)\s*=|@import|url\(|https?://(?!www\.w3\.org/2000/svg)", text)
    assert "high <b>&" not in re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.S)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert [run["key"] for run in data["runs"]] == ["loss/high <b>&", "loss/low"]
    assert "Ranking: loss" in text and "P(row&#x27;s ceiling is above column&#x27;s): loss" in text


def test_page_works_in_a_browser(report, browser, tmp_path):
    probe = tmp_path / "probe.html"
    probe.write_text(report.read_text().replace("</body>", PROBE))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += ["--virtual-time-budget=5000", "--dump-dom", probe.as_uri()]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<pre id="result">RESULT(.*?)END</pre>', page, re.S)
    assert found, page[-2000:]
    text = found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    seen = json.loads(text)
    assert seen["curves"] == 2 and seen["points"] == 48 and seen["open"] == 6 and seen["path"] > 100
    assert seen["rows"] == ["high <b>&", "low"]
    assert seen["rising"] == ["low", "high <b>&"] and seen["falling"] == ["high <b>&", "low"]
    assert seen["tip"].startswith("loss/high <b>&\n") and re.search(
        r": 0\.\d{4}  \(0\.\d{4} to 0\.\d{4}\)", seen["tip"]
    )
    assert seen["tipShown"] == "block" and seen["band"] == "0.15"
    assert seen["afterHiding"] == 1 and seen["loaded"] == 0


def test_run_names_cannot_break_the_page(tmp_path, points):
    names = ["{{data}}{{title}}", "<!--<script>"]
    points.assign(run=points.run.replace(dict(zip(["high", "low"], names, strict=True)))).to_csv(
        tmp_path / "p.csv"
    )
    fit_all(tmp_path / "p.csv", tmp_path / "out", Options())
    data = re.search(r'id="data">(.*?)</script>', (tmp_path / "out" / "report.html").read_text(), re.S)[1]
    assert "<" not in data and [run["key"] for run in json.loads(data)["runs"]] == [
        f"loss/{name}" for name in names
    ]


def test_alarms_are_in_the_report(tmp_path, write_run):
    folder = write_run(tmp_path / "sweep" / "loss-cispo-seed0")
    rows = [{"kind": "step", "step": step, "truncation_rate": 0.5} for step in range(1, 21)]
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    fit_all(tmp_path / "sweep", tmp_path / "out", Options())
    text = (tmp_path / "out" / "report.html").read_text()
    assert "<summary>Alarms</summary>" in text and "<td>truncation</td>" in text


def test_the_tests_of_best_policies_are_in_the_report(tmp_path, write_run):
    for seed, pass_rate in enumerate((0.4375, None)):
        folder = write_run(tmp_path / "sweep" / f"loss-cispo-seed{seed}")
        if pass_rate is not None:
            (folder / "best").mkdir()
            test = {"step": 90, "pass_rate": pass_rate, "standard_error": 0.03125, "num_prompts": 254}
            test |= {"samples_per_prompt": 8, "heldout_pass_rate": 0.5, "test_set": "data/test.parquet"}
            (folder / "best" / "test.json").write_text(json.dumps(test | {"pass_at_k": {"8": 0.7}}))
    fit_all(tmp_path / "sweep", tmp_path / "out", Options())
    text = (tmp_path / "out" / "report.html").read_text()
    table = re.search(r"on its test set</summary>(.*?)</table>", text, re.S)[1]
    assert table.count("<tr>") == 2, "the header and one run"
    assert ">0.4375</td>" in table and ">0.03125</td>" in table
