"""What the HTML says, read by a parser; a browser reads it in test_browser.py."""

import base64
import hashlib
import itertools
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from slimsight.compress.errors import RunError
from slimsight.deploy.report.html import RunPage, read_page, render_comparison, render_run, write_run

_VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Tags with their attributes, texts by the tag that holds them, and whether everything is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self._open[-1] not in ("style", "script"):
            self.texts.append((self._open[-1], " ".join(data.split())))

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def text(self) -> str:
        return " ".join(text for _, text in self.texts).replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture
def html(newest_page: RunPage) -> str:
    return render_run(newest_page)


def test_the_verdict_comes_first(html: str) -> None:
    page = Page(html)
    titles = [text for tag, text in page.texts if tag == "h2"]
    assert titles[0] == "Verdict"
    assert titles == [
        "Verdict", "Original, slim and dynamic", "Accuracy and cost", "Channels kept", "What was frozen, and why",
        "How gates learned", "What the model looks at", "Choices per image", "Exactness and parity", "Latency",
        "Stages", "How to reproduce",
    ]  # fmt: skip
    assert "✗ FAILED 1 of 2 checks." in page.text
    assert "at most 20.56 M 20.50 M ✓ passed" in page.text


def test_figures_of_every_section_are_there(html: str) -> None:
    text = Page(html).text
    for said in (
        "41.12 M 20.50 M 49.9 % kept 19.10 M on average",
        "88.41 % 87.90 % -0.51 points 85.50 %",
        "speed-up 1.56x [1.51x, 1.61x] 0.407 ms (2.00x)",
        "9 of 16",
        "slim/model.onnx onnxruntime fp32 7 4.2e-06 1.1e-06 100.00 % ✓ passed",
        "centre moved by, px 1.200 0.010 4,990",
        "3 of the original model are constant; 7 of the slim model are constant",
        "This one beats all of them.",
        "3 min 20 s, reused",
        "slimsight run newest/recipe.yaml --out newest-again",
        "pip install torch==2.15.0",
        "0.814 ms 0.850 ms 1.23 ms",
    ):
        assert said in text, said


def test_markup_in_fields_comes_out_as_text(html: str, newest_page: RunPage) -> None:
    page = Page(html)
    both = render_comparison([newest_page, newest_page])
    for parsed in (page, Page(both)):
        assert len(parsed.of("script")) == 1
        assert all("onerror" not in attributes for _, attributes in parsed.tags)
        assert "<script>window.hacked=1</script>" in parsed.text
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.of("img"))
    assert {image["alt"].partition(":")[0] for image in page.of("img")} == {
        "Explanations side by side (image, original, slim)",
        "Explanations that drifted side by side (image, original, slim)",
    }


def test_nothing_but_our_own_style_and_script_is_let_in(html: str) -> None:
    (policy,) = [meta["content"] for meta in Page(html).of("meta") if meta.get("http-equiv")]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert " style=" not in html  # the policy would refuse it
    outside = re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*", html) + re.findall(r"url\(", html)
    assert outside == []


@pytest.mark.parametrize("which", ["newest", "oldest", "both"])
def test_headings_links_charts_and_tables_are_accessible(
    newest_page: RunPage, oldest_page: RunPage, which: str
) -> None:
    pages = {"newest": newest_page, "oldest": oldest_page}
    page = Page(render_comparison([*pages.values()]) if which == "both" else render_run(pages[which]))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    named = [attributes[key] for _, attributes in page.tags for key in ("aria-labelledby", "aria-describedby")
             if attributes.get(key)]  # fmt: skip
    links = [link["href"].removeprefix("#") for link in page.of("a")]
    assert links[0] == "main"
    assert {*links, *named} <= set(ids)
    charts = [svg for svg in page.of("svg") if svg.get("class") == "chart"]
    assert charts
    assert all(svg["role"] == "img" and svg["aria-labelledby"] and svg["aria-describedby"] for svg in charts)
    assert all(svg["aria-hidden"] == "true" for svg in page.of("svg") if svg.get("class") != "chart")
    assert len(page.of("caption")) == len(page.of("table"))
    assert all(head["scope"] in ("row", "col") for head in page.of("th"))
    assert all(image["alt"] for image in page.of("img"))


def test_what_an_old_report_lacks_is_said_in_words(oldest_page: RunPage) -> None:
    text = Page(render_run(oldest_page)).text
    for said in (
        "No latency: nothing was timed in this run",
        "This report does not say which channels were kept",
        "Nothing: channels could be removed from all 12 groups.",
        "The curves were not kept by the version that learned these gates",
        "This run has no explainer",
        "No parity: nothing was exported",
        "Nothing was timed in this run.",
        "This report does not say how long its stages took.",
        "This report does not say which versions it was made with.",
        "There is no recipe.yaml beside this report.",
    ):
        assert said in text, said
    assert "None" not in text


def test_an_old_run_shows_its_one_picture_smaller(content: dict[str, Any], to_folder: Callable[..., Path]) -> None:
    root = to_folder("old", content)
    for file in (root / "panels").iterdir():
        file.unlink()
    Image.new("RGB", (1600, 800), "red").save(root / "saliency.png")
    page = read_page(root)
    (picture,) = page.explained
    assert (picture.width, picture.height, picture.strip) == (1280, 640, None)
    text = Page(render_run(page)).text
    assert "No pictures of the worst drifts are beside this report" in text
    assert "kept no distribution of the times" in text
    assert "Drift was not compared map by map" in text


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("panels/drifted.json", "{}", "run 'slimsight run' again to draw them anew"),
        ("panels/drifted-01.webp", "no picture", "is not an image"),
        ("recipe.yaml", "a: [", "recipe.yaml"),
    ],
)
def test_broken_files_are_named(newest_page: RunPage, tmp_path: Path, file: str, text: str, said: str) -> None:
    (tmp_path / "newest" / file).write_text(text)
    with pytest.raises(RunError, match=said):
        read_page(tmp_path / "newest")


def test_a_folder_without_a_report_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist; give the folder of a run"):
        read_page(tmp_path / "nowhere")
    with pytest.raises(RunError, match="the run has not finished; run 'slimsight run' to complete it"):
        write_run(tmp_path)


def test_report_json_can_be_given_itself(newest_page: RunPage, tmp_path: Path) -> None:
    path = write_run(tmp_path / "newest" / "report.json")
    assert path == tmp_path / "newest" / "report.html"
    assert path.read_text(encoding="utf-8") == render_run(newest_page)


def test_a_run_that_went_on_without_its_explainer_says_so_first(
    content: dict[str, Any], to_folder: Callable[..., Path]
) -> None:
    del content["saliency"]
    why = "the selector's masks are no better than centred ones"
    content["explainer"] = {"kind": "rbf", "used": False, "reason": why, "stage": "selector"}
    content["gates"] |= {"steer": "none", "steer_asked": "rbf", "converged": False}
    content["verdict"]["notes"] = [f"The gates were NOT steered by explanations: {why}."]
    page = render_run(read_page(to_folder("unsteered", content)))
    assert (
        f"The gates were NOT steered by explanations: {why}.".replace("'", "&#39;")
        in page[: page.index('id="verdict"')]
    )
    text = Page(page).text
    assert f"The run went on without its explainer (rbf), so its areas are not compared: {why}." in text
    assert "channels were selected by their scores as they were; give the gates more steps" in text


def test_an_explainer_is_judged_at_equal_areas_where_they_were_measured(
    content: dict[str, Any], to_folder: Callable[..., Path]
) -> None:
    content["saliency"]["selector"] |= {
        "kl_centred": 0.5,  # larger masks show more of the image
        "kl_centred_same_area": 0.91,
        "kl_random_same_area": 1.02,
        "gain_centred": 0.17,
        "gain_centred_error": 0.012,
    }
    text = Page(render_run(read_page(to_folder("equal", content)))).text
    beaten = "At the same area this one beats masks at the centre by 0.170 \N{PLUS-MINUS SIGN} 0.012 nats"
    assert f"{beaten} (paired by image), and masks anywhere." in text
    content["saliency"]["selector"]["kl_random_same_area"] = 0.7
    text = Page(render_run(read_page(to_folder("worse", content)))).text
    assert "This one does NOT beat masks of the same areas anywhere." in text


def test_controls_that_the_explainer_does_not_beat_are_named(
    content: dict[str, Any], to_folder: Callable[..., Path]
) -> None:
    content["saliency"]["selector"]["kl_centred"] = 0.7
    text = Page(render_run(read_page(to_folder("weak", content)))).text
    assert "This one does NOT beat masks of the same sizes at the centre." in text
