"""What is left of a batch: undo, the summary, the pace; and a closer look at a picture."""

from tests.support.labelling import LARGE, images

TWENTY = images(20)


def test_the_last_ten_answers_are_undone_one_by_one(labelling):
    opened = labelling(images=TWENTY)
    assert not opened.button("undo").is_enabled()
    opened.keys(*["1"] * 11)
    opened.keys("ArrowLeft", "3", "Delete", "Control+z")
    assert (opened.place(), opened.pressed()) == (11, ["bird"])
    opened.keys("Control+z")
    assert (opened.place(), opened.pressed()) == (11, ["cat"])
    opened.reload()
    for _ in range(8):
        opened.button("undo").click()
    opened.keys("Control+z")  # which is one too many
    assert (opened.place(), opened.text("progress")) == (4, "3 labelled, 0 skipped, 17 left")
    assert opened.names() == ["cat"] * 3


def test_what_was_given_to_many_is_undone_at_once(labelling):
    opened = labelling(images=TWENTY)
    opened.keys("2", "Escape", "Control+a", "1", "Control+z")
    assert opened.text("progress") == "1 labelled, 0 skipped, 19 left"
    assert opened.text("answer") == "19 selected"  # for the right class
    opened.keys("3")
    assert opened.names() == ["dog"] + ["bird"] * 19


def test_an_undone_answer_is_not_saved_yet_and_a_typed_name_is_not_undone(labelling):
    opened = labelling()
    opened.keys("1", "2")
    assert opened.names() == ["cat", "dog"]
    opened.keys(*"bi", "Control+z")
    assert opened.text("progress") == "2 labelled, 0 skipped, 2 left"
    opened.keys("Escape", "Control+z")
    assert opened.text("message") == ""
    assert opened.names() == ["cat"]


def test_the_first_without_an_answer_is_one_key_away(labelling):
    opened = labelling(images=TWENTY)
    opened.keys("1", "ArrowRight", "1", "1", "Home")
    assert opened.place() == 2
    opened.keys("1")
    opened.button("first left").click()
    assert opened.place() == 5
    opened.keys("Escape", "Control+a", "1", "Escape")
    assert not opened.button("first left").is_enabled()
    opened.keys("Home")
    assert opened.text("progress") == "20 labelled, 0 skipped, 0 left"


def test_a_summary_comes_before_the_file_and_leads_to_what_it_counts(labelling):
    opened = labelling(images=images(7))
    opened.keys("Control+s")
    assert opened.text("message") == "No image has an answer yet: there is nothing to save."
    opened.keys("1", "3", "3", "-", "Control+s")
    assert opened.text("totals").startswith("3 labelled, 1 skipped, 3 left")
    counts = opened.page.locator("#counts button").all_text_contents()
    assert counts == ["without an answer (3)", "cat (1)", "bird (2)", "skipped (1)"]
    opened.keys("2")  # answers nothing behind it
    focused = opened.page.evaluate(
        """() => {
            const escape = {key: "Escape", bubbles: true, cancelable: true};
            document.activeElement.dispatchEvent(new KeyboardEvent("keydown", escape));
            return document.activeElement.id;
        }"""
    )
    assert focused == ""  # or Enter, at once, would press the button of what is closed
    opened.keys("Enter")
    assert "Saved" not in opened.text("message")
    opened.keys("Control+s")
    opened.page.locator("#counts").get_by_role("button", name="bird").click()
    seen = opened.page.locator("[role=option]:visible")
    assert seen.evaluate_all("all => all.map(one => one.id)") == ["tile-1", "tile-2"]
    opened.keys("Control+a", "2")
    assert len(opened.saved(lambda: opened.keys("Control+s"))) == 5
    assert opened.names() == ["cat", "dog", "dog", ""]


def test_answers_a_minute_are_those_of_the_last_minutes(labelling):
    opened = labelling(images=TWENTY)
    opened.page.clock.install()
    opened.keys("1")
    for _ in range(4):
        opened.page.clock.fast_forward(6_000)
        opened.keys("1")
    assert opened.text("pace") == ""  # too early to tell
    opened.page.clock.fast_forward(6_000)
    opened.keys("-")
    assert opened.text("pace").endswith(" 10 a minute")
    opened.page.clock.fast_forward(20 * 60_000)  # a break
    opened.keys("1")
    assert opened.text("pace") == ""
    opened.page.clock.fast_forward(60_000)
    opened.keys("Escape", "Shift+ArrowRight", "Shift+ArrowRight", "2")
    assert opened.text("pace").endswith(" 3 a minute")


def enlargement(opened):
    """How often the picture is enlarged, and the place in it, of 1, that is seen in the middle."""
    return opened.page.evaluate(
        """() => {
            const [seen, frame] = ["picture", "frame"].map(
                id => document.getElementById(id).getBoundingClientRect());
            const middle = (start, size, from, of) => (start + size / 2 - from) / of;
            return [seen.width / frame.width,
                middle(frame.x, frame.width, seen.x, seen.width),
                middle(frame.y, frame.height, seen.y, seen.height)]
                .map(value => Math.round(1000 * value) / 1000);
        }"""
    )


def test_wheel_double_click_and_keys_zoom_and_the_next_picture_is_whole(labelling):
    opened = labelling(images=images(4, LARGE))
    mouse, box = opened.page.mouse, opened.page.locator("#frame").bounding_box()
    corner = (box["x"] + 1, box["y"] + 1)
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert enlargement(opened) == [1, 0.5, 0.5]
    mouse.move(*corner)
    mouse.wheel(0, -500)
    opened.page.wait_for_selector("#frame.enlarged")
    scale, x, y = enlargement(opened)
    assert 2 < scale < 4 and x < 0.25 and y < 0.25  # what was under the pointer stays there
    mouse.move(*middle)
    mouse.down()
    mouse.move(middle[0] - 5000, middle[1] - 5000)
    mouse.up()
    assert [enlargement(opened)[axis] > 0.75 for axis in (1, 2)] == [True, True]
    mouse.move(*middle)
    mouse.wheel(0, 5000)
    opened.page.wait_for_selector("#frame:not(.enlarged)")
    assert enlargement(opened) == [1, 0.5, 0.5]
    mouse.dblclick(*middle)
    assert enlargement(opened)[0] == 3
    mouse.dblclick(*middle)
    assert enlargement(opened)[0] == 1
    opened.keys("ArrowUp", "ArrowUp", "Shift+ArrowLeft", "Shift+ArrowUp")
    scale, x, y = enlargement(opened)
    assert (opened.place(), scale) == (1, 2.25)
    assert x < 0.45 and y < 0.45
    opened.keys("ArrowDown")
    assert enlargement(opened)[0] == 1.5
    opened.keys("1")
    assert enlargement(opened) == [1, 0.5, 0.5]
    opened.keys("ArrowUp", "Escape")
    assert enlargement(opened)[0] == 1 and not opened.page.locator("#many").is_visible()


def test_two_fingers_zoom_the_picture_and_one_scrolls_the_page(labelling):
    phone = {"viewport": {"width": 390, "height": 500}, "has_touch": True, "is_mobile": True}
    opened = labelling(images=images(2, LARGE), **phone)
    box = opened.page.locator("#frame").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    hand = opened.context.new_cdp_session(opened.page)

    def touch(*steps):
        for number, points in enumerate((*steps, [])):
            kind = "touchMove" if number else "touchStart"
            places = [{"x": x + a, "y": y + b, "id": n} for n, (a, b) in enumerate(points)]
            event = {"type": kind if points else "touchEnd", "touchPoints": places}
            hand.send("Input.dispatchTouchEvent", event)

    touch(*([(-apart, -apart), (apart, apart)] for apart in range(20, 61, 10)))
    assert 2.5 < enlargement(opened)[0] < 3.5
    assert opened.page.evaluate("[scrollY, visualViewport.scale]") == [0, 1]
    touch(*([(0, -10 * step)] for step in range(6)))  # moves the enlarged picture
    assert enlargement(opened)[2] > 0.55
    assert opened.page.evaluate("scrollY") == 0
    opened.keys("1")
    touch(*([(0, 50 - 20 * step)] for step in range(6)))
    opened.wait_for("scrollY > 20")
    assert enlargement(opened)[0] == 1
