from __future__ import annotations

import json
import os
import re
import subprocess
from html import unescape

import pytest

from ldm_engine.rendering.gallery import page
from ldm_engine.rendering.gallery.page import write_gallery
from ldm_engine.rendering.places import open_storage

RECORD = {
    "path": "images/aa/x.png", "prompt": "p", "negative_prompt": "", "seed": 7, "sha256": "0",
    "num_inference_steps": 5, "guidance_scale": 2.0, "eta": 0.0, "height": 64, "width": 64,
    "precision": "fp32", "row": 1, "extra": {}, "seconds": {"loop": 1},
}  # fmt: skip


def _write(tmp_path, outcomes, failures=(), edited=()):
    storage = open_storage(str(tmp_path), "run")
    storage.prepare()
    fingerprint = {"bundle": "</script>", "threads": 2, "x": 1, "precision": "fp32"}
    write_gallery(storage, iter(outcomes), iter(failures), fingerprint, "/b", edited)
    parts = []
    for path in sorted((tmp_path / "gallery").glob("0*.js")):
        parts.append(json.loads(re.fullmatch(r"addImages\((.*)\);\n", path.read_text())[1]))
    facts = re.search(r"const FACTS = (\{.*\});", (tmp_path / "index.html").read_text())
    return parts, json.loads(facts[1])


def test_the_data_lie_in_parts(tmp_path):
    parts, facts = _write(tmp_path, ({**RECORD, "id": f"i{i}"} for i in range(4321)))
    assert [len(part) for part in parts] == [2000, 2000, 321]
    assert (facts["parts"], facts["isCut"]) == (3, False)
    assert facts["recipe"] == {"bundle": "</script>", "threads": 2}
    assert parts[2][-1]["id"] == "i4320"
    assert parts[0][0].keys() == RECORD.keys() - {
        "negative_prompt",
        "sha256",
        "extra",
        "seconds",
    } | {"id"}


def test_a_large_run_is_shown_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MAX_IMAGES", 3000)
    parts, facts = _write(tmp_path, ({**RECORD, "id": f"i{i}"} for i in range(3001)))
    assert sum(map(len, parts)) == 3000
    assert facts["isCut"]


def test_prompts_are_never_markup(tmp_path):
    hostile = "</script><script>alert(1)</script>\u2028\u202e"
    parts, _ = _write(tmp_path, [{**RECORD, "id": hostile, "prompt": hostile}])
    assert parts[0][0]["prompt"] == hostile
    html = (tmp_path / "index.html").read_text()
    assert "innerHTML" not in html
    assert hostile not in html
    assert html.count("</script>") == 1
    assert (tmp_path / "gallery" / "000.js").read_bytes().isascii()


def test_nothing_is_written_for_no_images(tmp_path):
    storage = open_storage(str(tmp_path), "run")
    storage.prepare()
    write_gallery(storage, iter([]), iter([]), {}, "/b")
    assert not (tmp_path / "index.html").exists()


def test_failures_and_what_was_edited_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MAX_FAILURES", 2)
    records = [{**RECORD, "id": "a"}, {**RECORD, "id": "b", "path": "images/bb/b.png"}]
    failures = [{"row": i, "id": None, "error": "<b>", "settings": "00"} for i in range(3)]
    parts, facts = _write(tmp_path, records, failures, {"images/bb/b.png"})
    assert [entry.get("edited") for entry in parts[0]] == [None, True]
    assert facts["precision"] == "fp32"
    text = (tmp_path / "gallery" / "run.js").read_text()
    run = json.loads(re.fullmatch(r"setRun\((.*)\);\n", text)[1])
    assert run["failures"] == [{"row": i, "error": "<b>"} for i in range(2)]
    assert (run["areFailuresCut"], run["bundlePath"]) == (True, "/b")
    _write(tmp_path, records)
    assert '"failures": []' in (tmp_path / "gallery" / "run.js").read_text()


#: Types and clicks as a person does, and puts what is then seen into the document.
DRIVE = """<script>
const seen = [], key = name => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", { key: name, bubbles: true }));
const count = () => at("count").textContent;
setTimeout(() => {
  document.querySelector("#grid button").focus();
  key("ArrowRight");
  seen.push(document.activeElement.nextElementSibling.textContent);
  at("search").value = "second"; search(); seen.push(count());
  at("search").value = ""; at("filter").value = "edited"; search(); seen.push(count());
  document.querySelector("#grid button").click(); seen.push(at("again").textContent);
  seen.push(commandFor({ member: "x.png", path: "a.tar", image: "b c.png" }));
  at("dialog").close(); location.hash = "#failures";
}, 500);
setTimeout(() => {
  seen.push(count(), at("failures").textContent, String(at("grid").hidden));
  document.body.replaceChildren(element("pre", JSON.stringify(seen)));
}, 1000);
</script></body>"""


@pytest.mark.skipif(os.environ.get("LDM_ENGINE_SKIP_BROWSER") == "1", reason="said so")
def test_the_page_in_a_browser(tmp_path):
    name = "images/b's/b.png"
    outcomes = [{**RECORD, "id": "1", "prompt": "first"}]
    outcomes.append({**RECORD, "id": "2", "prompt": "second", "path": name})
    _write(tmp_path, outcomes, [{"row": 3, "id": "x", "error": "<i>"}], {name})
    html = (tmp_path / "index.html").read_text()
    (tmp_path / "driven.html").write_text(html.replace("</body>", DRIVE))
    found = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--virtual-time-budget=5000", "--dump-dom",
         (tmp_path / "driven.html").as_uri()],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    seen = json.loads(unescape(re.search("<pre>(.*)</pre>", found)[1]))
    quoted = f"'{tmp_path}/images/b'\\''s/b.png'"
    assert seen == [
        "second", "1 of 2 images", "1 of 2 images",
        f"ldm-engine generate /b --from-image {quoted}",
        f"tar -xf {tmp_path}/a.tar x.png && "
        "ldm-engine generate /b --from-image x.png --image 'b c.png'",
        "1 failure", "x (row 3) <i>", "true",
    ]  # fmt: skip
