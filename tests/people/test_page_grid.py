"""The grid of the page: many pictures at once, which are selected and get a class together."""

import pytest

from tests.support.labelling import ANIMALS, HEADER, LARGE, images

PREDICTED = ("cat", "cat", "dog", None, "cat", "dog", None, "cat")
EIGHT = [
    (request._replace(predicted=name or "", probability="0.9" if name else ""), *others)
    for (request, *others), name in zip(images(8), PREDICTED, strict=True)
]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


class Grid:
    """The grid of a page, as a person sees it; images have the numbers of the batch, from 0."""

    def __init__(self, opened):
        self.opened, self.page, self.keys = opened, opened.page, opened.keys
        self.keys("Escape")

    def tile(self, number):
        return self.page.locator(f"#tile-{number}")

    def numbers(self, selector=""):
        tiles = self.page.locator(f"[role=option]{selector}:visible")
        return tiles.evaluate_all("all => all.map(one => Number(one.id.slice(5)))")

    def selected(self):
        assert self.opened.text("answer").startswith(("Nothing", f"{len(self.marked())} "))
        return self.marked()

    def marked(self):
        return self.numbers("[aria-selected=true]")

    def said(self):
        return [self.tile(number).inner_text() for number in self.numbers()]

    def choose(self, name):
        options = self.page.locator("#group option").all_text_contents()
        (label,) = (text for text in options if text.rsplit(" (", 1)[0] == name)
        self.page.locator("#group").select_option(label=label)

    def choices(self):
        return self.page.locator("#group option:not([disabled])").all_text_contents()

    def drag(self, one, other):
        boxes = [self.tile(number).bounding_box() for number in (one, other)]
        self.page.mouse.move(boxes[0]["x"] - 2, boxes[0]["y"] + 10)
        self.page.mouse.down()
        self.page.mouse.move(boxes[1]["x"] + 20, boxes[1]["y"] + 20, steps=3)
        self.page.mouse.up()


@pytest.fixture
def grid(labelling):
    return lambda *arguments, **options: Grid(labelling(*arguments, **options))


def test_a_key_or_a_name_gives_the_class_to_all_that_is_selected(grid):
    shown = grid(images=EIGHT)
    shown.choose("all images")
    shown.keys("1")
    assert shown.said() == [""] * 8  # nothing was selected
    for number in (1, 4, 1, 6):  # the second click takes image 1 back
        shown.tile(number).click()
    assert shown.selected() == [4, 6]
    shown.keys("2")
    assert shown.said() == ["", "", "", "", "dog", "", "dog", ""]
    assert shown.selected() == []
    shown.tile(0).click()
    shown.tile(2).click(modifiers=["Shift"])
    shown.keys(*"bird", "Enter")
    assert shown.said()[:3] == ["bird"] * 3
    shown.tile(3).click()
    shown.opened.button("skip").click()
    shown.tile(4).click()
    shown.keys("Delete")
    expected = [("bird", ""), ("bird", ""), ("bird", ""), ("", "yes"), ("dog", "")]
    numbers = (0, 1, 2, 3, 6)
    rows = [[f"a/{n}.png", f"{n:064x}", *said] for n, said in zip(numbers, expected, strict=True)]
    assert shown.opened.saved() == [HEADER, *rows]


def test_a_drag_selects_what_it_touches_and_what_was_selected_stays(grid):
    shown = grid(images=EIGHT, viewport={"width": 600, "height": 900})  # five in a row
    shown.tile(7).click()
    shown.drag(1, 3)
    assert shown.selected() == [1, 2, 3, 7]
    shown.drag(0, 6)
    assert shown.selected() == [0, 1, 2, 3, 5, 6, 7]
    assert not shown.page.locator("#band").is_visible()
    shown.keys("Escape")
    assert shown.selected() == []
    shown.tile(2).click()
    assert shown.selected() == [2]


def test_a_drag_beyond_the_edge_scrolls_the_grid(grid):
    shown = grid(images=images(100), viewport={"width": 700, "height": 700})
    shown.page.mouse.move(*(shown.tile(0).bounding_box()[side] for side in "xy"))
    shown.page.mouse.down()
    shown.page.mouse.move(650, 690, steps=3)
    shown.page.wait_for_selector("#tile-99[aria-selected=true]")
    shown.page.mouse.up()
    assert shown.selected() == [*range(100)]


def test_the_grid_is_used_by_keyboard_alone(grid):
    shown = grid(images=EIGHT, viewport={"width": 600, "height": 900})  # five in a row
    shown.keys("Space", "ArrowDown", "Shift+ArrowRight", "Space")
    assert shown.selected() == [0, 5]
    shown.keys("Space", "Shift+ArrowLeft")
    assert shown.selected() == [0, 5, 6]
    shown.keys("3", "Control+a")
    assert shown.selected() == [1, 2, 3, 4, 7]
    shown.keys("Control+a")
    assert shown.selected() == []
    shown.keys("Control+a", "1", "Escape")
    assert shown.opened.text("note") == "There is none."
    assert shown.choices() == [
        *("without an answer (0)", "all images (8)"),
        *("the network: cat (4)", "the network: dog (2)", "you: cat (5)", "you: bird (3)"),
    ]
    shown.keys("PageUp")
    assert shown.numbers() == [0, 5, 6]
    shown.keys("PageDown")
    assert shown.numbers() == [*range(8)]
    shown.keys("PageDown")
    assert shown.numbers() == [0, 1, 4, 7]


def test_pictures_are_grouped_by_what_the_network_believes_only_on_demand_and_it_is_said(grid):
    shown = grid(images=EIGHT)
    assert shown.numbers() == [*range(8)] and shown.opened.text("note") == ""
    shown.choose("the network: dog")
    assert shown.numbers() == [2, 5]
    assert shown.opened.text("note").startswith("The network believes that these are “dog”.")
    shown.choose("the network: cat")
    assert shown.numbers() == [0, 1, 4, 7]
    shown.keys("Control+a", "2")
    assert shown.said() == ["dog"] * 4  # and stay, unlike among those without an answer
    shown.choose("without an answer")
    assert shown.numbers() == [2, 3, 5, 6]
    assert shown.opened.text("note") == ""
    without = grid(images=images(2, said=("", "")))
    assert without.choices() == ["without an answer (2)", "all images (2)"]


def test_a_picture_is_enlarged_without_its_prediction_and_an_answer_leads_back(grid):
    shown = grid(images=EIGHT)
    shown.choose("the network: dog")
    shown.tile(5).dblclick()
    opened = shown.opened
    assert (opened.place(), opened.text("prediction")) == (6, "")
    assert not shown.page.locator("#many").is_visible()
    opened.keys("ArrowLeft")  # the one before of this group
    assert opened.place() == 3
    opened.keys("?")
    assert opened.text("prediction") == "Predicted: dog, 90 %"
    opened.keys("3")
    assert (shown.numbers(), shown.said()) == ([2, 5], ["bird", ""])
    shown.keys("ArrowRight", "Space", "Enter")
    assert (opened.place(), opened.text("prediction")) == (6, "")
    shown.keys("Escape")
    assert shown.selected() == [5]
    opened.button("single").click()
    opened.keys("1")  # one after the other, from here
    assert (opened.place(), opened.text("progress")) == (7, "2 labelled, 0 skipped, 6 left")


def test_a_class_is_given_only_to_what_is_seen(grid):
    shown = grid(images=EIGHT)
    shown.keys("Control+a")
    shown.choose("the network: dog")
    assert shown.selected() == []
    shown.keys("Space")
    shown.choose("the network: cat")
    shown.keys("1")
    assert shown.opened.text("progress") == "0 labelled, 0 skipped, 8 left"
    shown.choose("all images")
    shown.keys("Control+a", "1")
    shown.choose("the network: dog")
    shown.keys("Control+z")  # which selects them again
    assert shown.selected() == [2, 5]
    shown.keys("3")
    assert shown.opened.text("progress") == "2 labelled, 0 skipped, 6 left"


def test_fingers_select_by_taps_and_sweeps_and_scroll(grid):
    shown = grid(images=images(60), **PHONE)
    finger = shown.opened.context.new_cdp_session(shown.page)

    def sweep(one, other):
        """A finger goes from one tile to another."""
        ends = []
        for number in (one, other):
            box = shown.tile(number).bounding_box()
            ends.append((box["x"] + 20, box["y"] + 20))
        for step in range(9):
            point = [first + (last - first) * step / 8 for first, last in zip(*ends, strict=True)]
            send("touchMove" if step else "touchStart", *point)
        shown.page.wait_for_timeout(200)  # or the grid would go on to scroll, and eat the next tap
        send("touchEnd")

    def send(kind, *point):
        points = [dict(zip("xy", point, strict=True))] if point else []
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    shown.tile(1).tap()
    assert shown.selected() == [1]
    sweep(3, 5)
    assert shown.selected() == [1, 3, 4, 5]
    sweep(3, 0)
    shown.opened.wait_for("document.getElementById('tiles').scrollTop > 50")
    assert shown.selected() == [1, 3, 4, 5]
    shown.opened.button("dog").tap()
    assert shown.opened.text("progress") == "4 labelled, 0 skipped, 56 left"


def test_a_telephone_has_grid_classes_skip_and_save_in_reach(grid):
    names = [*ANIMALS, "a" * 100, *(f"class {number}" for number in range(100))]
    shown = grid(names, [*images(30, LARGE)], **PHONE)
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert shown.page.evaluate("document.documentElement.scrollHeight") <= 844
    assert shown.tile(0).is_visible()
    for name in ("dog", "clear", "skip", "save labels", "single", "undo", "select all"):
        box = shown.opened.button(name).bounding_box()
        assert box["height"] >= 44
        assert box["y"] >= 0 and box["y"] + box["height"] <= 844


def test_only_pictures_near_what_is_seen_are_loaded(grid):
    shown = grid(images=images(1000))
    shown.page.wait_for_selector("#tile-0 img[src]")
    assert shown.page.locator("#tiles img[src]").count() < 200
    shown.keys("Control+a")
    shown.page.locator("#tiles").evaluate("grid => grid.scrollTo(0, grid.scrollHeight)")
    shown.page.wait_for_selector("#tile-999 img[src]")
    shown.page.wait_for_selector("#tile-0 img:not([src])", state="attached")
    assert len(shown.selected()) == 1000


def test_a_thousand_pictures_of_a_hundred_classes_are_selected_without_waiting(labelling):
    opened = labelling([f"class {n}" for n in range(100)], images(1000, LARGE))
    milliseconds = opened.page.evaluate(
        """async () => {
            const press = (key, held = {}) => document.body.dispatchEvent(
                new KeyboardEvent("keydown", {key, bubbles: true, ...held}));
            const seen = () => new Promise(done =>
                requestAnimationFrame(() => requestAnimationFrame(done)));
            const timed = async action => {
                const start = performance.now();
                action();
                await seen();
                return performance.now() - start;
            };
            const shown = await timed(() => press("Escape"));
            const [select, answer] = [[], []];
            for (let count = 0; count < 5; count++) {
                document.getElementById("tile-" + 200 * count).click();
                const last = document.getElementById("tile-" + (200 * count + 199));
                const shift = {bubbles: true, shiftKey: true};
                select.push(await timed(() => last.dispatchEvent(new MouseEvent("click", shift))));
                answer.push(await timed(() => press("2")));
            }
            return [shown, Math.min(...select), Math.min(...answer)];  // without other work
        }"""
    )
    assert opened.text("progress") == "1000 labelled, 0 skipped, 0 left"
    assert milliseconds[0] < 2000
    assert max(milliseconds[1:]) < 500
