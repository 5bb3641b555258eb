"""The page for labelling, as a person uses it: opened from disk, in a real browser."""

import re

import pytest

from tests.support.browser import wait_until_ready
from tests.support.labelling import ANIMALS, FOUR, HEADER, images
from tod.people.page import page

HOSTILE = (
    *("=ten", 'a,"b"', "a,b", "line\nbreak", "line\rbreak", "<script>window.hacked=1</script>"),
    *("&lt;", " led by a blank", "followed by a blank "),
)


def test_a_batch_is_labelled_by_keys_alone(labelling):
    opened = labelling()
    assert opened.page.title() == "Batch 7: which class?"
    assert opened.text("progress") == "0 labelled, 0 skipped, 4 left"
    assert opened.text("file") == "a/0.png"
    opened.keys("1", "b", "i", "Enter", "-", "3")
    assert opened.text("progress") == "3 labelled, 1 skipped, 0 left"
    assert "save labels" in opened.text("message")
    assert opened.place() == 4
    expected = [("cat", ""), ("bird", ""), ("", "yes"), ("bird", "")]
    rows = [[f"a/{n}.png", f"{n:064x}", *said] for n, said in enumerate(expected)]
    assert opened.saved() == [HEADER, *rows]
    assert opened.file_name == "labels_batch7.csv"
    assert "Saved as labels_batch7.csv." in opened.text("message")


def test_an_answer_can_be_changed_and_taken_back(labelling):
    opened = labelling()
    opened.keys("1", "2", "ArrowLeft", "ArrowLeft")
    assert (opened.place(), opened.pressed()) == (1, ["cat"])
    opened.keys("3")  # and stays, so that it can be seen
    assert (opened.place(), opened.text("answer")) == (1, "Answer: bird")
    opened.keys("ArrowRight", "ArrowRight", "-", "ArrowLeft")
    assert opened.pressed() == ["skip"]
    opened.keys("Delete")
    assert (opened.place(), opened.pressed()) == (3, [])
    opened.button("back").click()
    opened.button("clear").click()
    assert opened.text("answer") == "No answer yet"
    assert opened.saved() == [HEADER, ["a/0.png", f"{0:064x}", "bird", ""]]


def test_after_the_last_image_come_those_that_were_left_out(labelling):
    opened = labelling()
    opened.keys("ArrowLeft")
    assert opened.place() == 1
    opened.keys("ArrowRight", "1", "1", "ArrowRight", "ArrowRight")
    assert opened.place() == 4
    opened.keys("1")
    assert (opened.place(), opened.text("message")) == (1, "")


def test_a_name_is_typed_as_far_as_it_takes(labelling):
    opened = labelling(["Zebra", "cat", "caterpillar", "Car", "zebu", "red fox", "red-eye"])
    opened.keys("c", "a")
    cats = ["cat", "caterpillar", "Car"]
    assert (opened.shown_classes(), opened.text("match")) == (cats, "Enter: cat")
    opened.keys("1", "Enter")  # Zebra's digit, which the typed name has ruled out
    assert (opened.place(), opened.text("match")) == (1, "No class has this in its name.")
    opened.keys("Backspace", "R")
    assert (opened.shown_classes(), opened.place()) == (["Car"], 1)  # not before Enter
    opened.keys("Backspace", "x", "Enter")
    assert (opened.shown_classes(), opened.place()) == ([], 1)
    opened.keys("Escape")
    assert len(opened.shown_classes()) == 7
    opened.keys(*"ZEBU", "Enter", *"red ", "Enter", *"red-", "Enter", "c", "4")
    assert opened.names() == ["zebu", "red fox", "red-eye", "Car"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # By any part; one that begins so comes before.
        (
            ["Vulpes vulpes", "Canis lupus", "lupine"],
            {"lup": "lupine", "lupus": "Canis lupus", "s VUL": "Vulpes vulpes"},
        ),
        # One in full comes before that, and one to the letter before all.
        (
            ["bobcat", "caterpillar", "Cat", "cat"],
            {"cat": "cat", "Cat": "Cat", "ca": "caterpillar", "CAT": "Cat"},
        ),
        # Of the digits, 1 begins 10 to 12; the others are their own classes' shortcuts.
        (
            [*map(str, range(13)), "lane 2", "lane 4", "left"],
            {"1": "1", "12": "12", "lane 2": "lane 2"},
        ),
        (["lane 2", "lane 4"], {"lane 2": "lane 2"}),  # whose keys are 1 and 2
    ],
)
def test_a_typed_name_is_the_class_that_it_fits_best(labelling, names, expected):
    opened = labelling(names)
    for place, (text, name) in enumerate(expected.items(), start=1):
        assert opened.place() == place
        opened.keys(*text)
        assert opened.text("match") == f"Enter: {name}"
        opened.keys("Enter")
    opened.keys(*["0"] * ("0" in names))
    assert opened.names() == [*expected.values(), *["0"] * ("0" in names)]


def test_keys_that_are_held_down_have_modifiers_or_are_an_input_methods_answer_nothing(labelling):
    opened = labelling()
    opened.keys("Alt+1", "Meta+2", "Control+3")
    opened.page.evaluate(
        """document.body.dispatchEvent(
            new KeyboardEvent("keydown", {key: "1", bubbles: true, isComposing: true}))"""
    )
    assert opened.text("progress") == "0 labelled, 0 skipped, 4 left"
    for _ in range(3):
        opened.page.keyboard.down("1")
    assert opened.place() == 2


def test_buttons_work_by_pointer_and_by_keyboard_and_leave_the_keys_free(labelling):
    opened = labelling()
    opened.button("dog").click()
    opened.keys("Enter")  # presses nothing: the button is no longer in focus
    assert opened.place() == 2
    opened.button("cat").focus()
    opened.keys("Enter", "3")
    assert opened.place() == 4
    opened.button("cat").focus()
    opened.keys(*"bi", "Enter")
    assert opened.names() == ["dog", "cat", "bird", "bird"]
    opened.button("back").focus()
    opened.keys("Space")
    assert opened.place() == 3
    reached = set()
    for _ in range(12):
        opened.keys("Tab")
        reached.add(opened.page.evaluate("document.activeElement.textContent"))
    assert {"cat1", "skip-", "save labelsCtrl+S"} <= reached


def test_a_reload_loses_nothing_and_a_second_file_has_a_name_of_its_own(labelling):
    opened = labelling()
    opened.keys("2", "-", "ArrowRight")
    opened.reload()
    assert opened.place() == 4
    assert opened.text("progress") == "1 labelled, 1 skipped, 2 left"
    opened.page.close()
    opened.open()
    opened.keys("3")
    assert [row[2:] for row in opened.saved()[1:]] == [["dog", ""], ["", "yes"], ["bird", ""]]
    opened.reload()
    assert "Saved as labels_batch7.csv." in opened.text("message")
    assert opened.text("progress") == "2 labelled, 1 skipped, 1 left"
    opened.keys("1")
    assert "Saved" not in opened.text("message")
    opened.reload()
    assert opened.questions == []
    assert len(opened.saved(opened.button("save labels").click)) == 5
    assert opened.file_name == "labels_batch7_2.csv"
    for _ in range(2):
        assert "Saved as labels_batch7_2.csv." in opened.text("message")
        opened.reload()


def test_two_tabs_of_one_batch_share_their_answers_and_those_of_another_do_not(labelling, tmp_path):
    opened = labelling()
    first = opened.page
    opened.keys("1")
    opened.open()
    opened.keys("2")
    first.get_by_text("2 labelled").wait_for()
    for key in ("ArrowRight", "3"):
        first.keyboard.press(key)
    opened.page.get_by_text("3 labelled").wait_for()
    assert opened.names() == ["cat", "dog", "bird"]
    (tmp_path / "batch.html").write_text(page(8, ANIMALS, FOUR), encoding="utf-8")
    opened.open()
    assert opened.text("progress") == "0 labelled, 0 skipped, 4 left"


@pytest.mark.parametrize(
    "script",
    [
        "Storage.prototype.setItem = () => { throw new DOMException('', 'QuotaExceededError'); }",
        "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException(''); }})",
    ],
)
def test_a_browser_that_keeps_nothing_is_told_of_and_used(labelling, script):
    opened = labelling(script=script)
    assert "only while the page is open" in opened.text("unkept")
    opened.keys("1", "2")
    assert opened.names() == ["cat", "dog"]
    assert opened.page.locator("#unkept").is_visible()
    # Without the file, these answers would be lost.
    opened.reload()
    assert opened.questions == []
    opened.keys("1")
    opened.reload()
    assert opened.questions == ["beforeunload"]


@pytest.mark.parametrize("is_known", [True, False])
def test_the_page_asks_for_what_is_kept_only_when_the_browser_answers_it(labelling, is_known):
    script = "LockManager.prototype.query = () => new Promise((...both) => { window.told = both; })"
    opened = labelling(script=script, is_ready=False)
    assert opened.page.evaluate("localStorage.length") == 0
    opened.keys("1")
    opened.page.evaluate(f"told[{int(not is_known)}]()")  # also where it refuses to
    wait_until_ready(opened.page)
    assert opened.text("progress") == "0 labelled, 0 skipped, 4 left"
    assert opened.page.evaluate("localStorage.length") == 1
    assert not opened.page.locator("#unkept").is_visible()


def test_names_are_text_and_come_back_to_the_letter(labelling):
    file = "".join(HOSTILE) + "/\u2028</script>&{}"
    opened = labelling(HOSTILE, images(len(HOSTILE), file=file))
    assert opened.shown_classes() == list(HOSTILE)
    assert opened.page.locator("#file").text_content() == file.format(0)
    opened.keys(*"123456789")
    rows = [[file.format(n), f"{n:064x}", name, ""] for n, name in enumerate(HOSTILE)]
    assert opened.saved() == [HEADER, *rows]
    assert opened.page.evaluate("window.hacked") is None


def test_the_file_is_quoted_where_it_must_be_and_bytes_that_are_no_utf8_are_replaced(labelling):
    opened = labelling(["=ten", "b c"], images(2, file="día \udcff{}"))
    opened.keys("1", "2")
    opened.saved()
    lines = opened.lines.splitlines(keepends=True)
    assert [re.sub(r",[0-9a-f]{16},[-:.\dTZ]+\n$", "", line) for line in lines] == [
        "file,sha256,class,skipped,annotator,updated_at\n",
        f"día \ufffd0,{0:064x},=ten,",
        f"día \ufffd1,{1:064x},b c,",
    ]


def test_the_prediction_is_hidden_until_asked_for_and_there_is_none_of_an_audit(labelling):
    diverged = images(1, said=("tabby", "nan"))
    opened = labelling(images=[*images(2, said=("tabby", "0.834")), *images(1, said=()), *diverged])
    body = opened.page.locator("body")
    assert "tabby" not in body.inner_text()
    opened.keys("?")
    assert opened.text("prediction") == "Predicted: tabby, 83 %"
    opened.keys("ArrowRight")
    assert "tabby" not in body.inner_text()
    opened.button("prediction").click()
    assert opened.text("prediction") == "Predicted: tabby, 83 %"
    opened.keys("ArrowRight")
    assert not opened.text("prediction")
    opened.keys("?")
    assert "No prediction is shown" in opened.text("prediction")
    opened.keys("ArrowRight", "?")
    assert opened.text("prediction") == "Predicted: tabby"
    opened.keys("ArrowLeft")
    assert "tabby" not in body.inner_text()
    without_any = labelling(images=images(1, said=()))
    assert not without_any.page.locator("#reveal").is_visible()
    without_any.keys("?")
    assert (without_any.text("prediction"), without_any.text("typed")) == ("", "")


def test_the_page_runs_and_loads_nothing_that_is_not_its_own(labelling):
    opened = labelling()
    refused = opened.page.evaluate(
        """() => {
            const refused = [];
            document.addEventListener("securitypolicyviolation", event => {
                refused.push(event.effectiveDirective);
            });
            const [script, image] = ["script", "img"].map(kind => document.createElement(kind));
            script.textContent = "window.hacked = 1";
            image.src = "http://127.0.0.1:9/x.png";
            image.setAttribute("onerror", "window.hacked = 2");
            image.setAttribute("style", "color: red");
            document.body.append(script, image);
            return new Promise(done => setTimeout(() => done(refused.sort()), 200));
        }"""
    )
    assert refused == ["img-src", "script-src-attr", "script-src-elem", "style-src-attr"]
    assert opened.page.evaluate("window.hacked") is None
    opened.complaints.clear()


def test_the_files_of_one_browser_are_one_persons_and_say_when(labelling):
    opened = labelling()
    other = labelling(script="Object.defineProperty(navigator, 'locks', {value: undefined})")
    for each in (opened, other):  # one that has no locks will do
        each.keys("1", "2")
        assert each.names() == ["cat", "dog"]
    header, (person, first), (same, second) = opened.told
    assert header == ["annotator", "updated_at"]
    assert person == same and first <= second
    assert other.told[1][0] != person
    opened.keys("ArrowLeft", "ArrowLeft", "3")
    opened.saved()
    assert opened.told[2] == [person, second]
    assert opened.told[1][0] == person and opened.told[1][1] > second
