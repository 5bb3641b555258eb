// The grid: many pictures at once, which are selected and given a class together.

const DRAGGED_FROM = 6;
const NETWORK = "the network";
const YOU = "you";

const pane = element("tiles");
const band = element("band");
const groupList = element("group");

// The pictures among which one can choose. One whose prediction is hidden has none here, and is
// among those of no class.
const believed = new Set(batch.images.map(({ predicted }) => predicted));
const groups = [
  { name: "without an answer", has: index => state.answers[index] === null },
  { name: "all images", has: () => true },
  ...batch.classes.filter(({ name }) => believed.has(name)).map(({ name }) => ({
    name, by: NETWORK, has: index => batch.images[index].predicted === name,
  })),
  ...batch.classes.map(({ name }, value) => ({
    name, by: YOU, has: index => state.answers[index] === value,
  })),
  { name: "skipped", by: YOU, has: index => state.answers[index] === SKIPPED },
];
const [left] = groups;
const membersOf = ({ has }) => [...batch.images.keys()].filter(has);

let group = left;
let selected = new Set();
let tiles = [];
let drag = null;
let wasDragged = false;

// ---- what is seen

// Only what is near the visible part has its picture: a thousand would fill the memory.
const near = new IntersectionObserver(changes => {
  for (const { target, isIntersecting } of changes) {
    const image = target.firstChild;
    if (isIntersecting) image.src = pictureOf(tiles.indexOf(target));
    else image.removeAttribute("src");
  }
}, { root: pane, rootMargin: "100%" });

function buildGrid() {
  tiles = batch.images.map((_, index) => {
    const [tile, image, said] = ["div", "img", "span"].map(kind => document.createElement(kind));
    tile.id = `tile-${index}`;
    tile.setAttribute("role", "option");
    image.alt = "";
    image.addEventListener("load", showPixels);
    tile.append(image, said);
    return tile;
  });
  pane.append(...tiles);
  tiles.forEach(tile => near.observe(tile));
  groupList.replaceChildren(...groups.map((one, position) => {
    one.option = document.createElement("option");
    one.option.value = position;
    return one.option;
  }));
}

function showGrid() {
  if (!tiles.length) buildGrid();
  const members = membersOf(group);
  const shown = new Set(members);
  selected = new Set([...selected].filter(index => shown.has(index)));
  if (!shown.has(state.current) && members.length) {
    state.current = members.find(index => index > state.current) ?? members.at(-1);
  }
  tiles.forEach((tile, index) => {
    const said = saidOf(index);
    tile.hidden = !shown.has(index);
    tile.lastChild.textContent = said;
    tile.setAttribute("aria-label", `Image ${index + 1}: ${said || "no answer"}`);
    tile.classList.toggle("cursor", index === state.current);
  });
  pane.setAttribute("aria-activedescendant", `tile-${state.current}`);
  for (const one of groups) {
    const count = membersOf(one).length;
    one.option.textContent = `${one.by ? `${one.by}: ` : ""}${one.name} (${count})`;
    one.option.hidden = one.option.disabled = !count && one !== group;
  }
  groupList.value = groups.indexOf(group);
  element("note").textContent = group.by === NETWORK
    ? `The network believes that these are “${group.name}”. It errs: look at each one.`
    : members.length ? "" : "There is none.";
  showSelected();
}

function showSelected() {
  tiles.forEach((tile, index) => tile.setAttribute("aria-selected", selected.has(index)));
  element("answer").textContent = `${selected.size || "Nothing is"} selected`;
}

// ---- which pictures

function choose(next) {
  group = next;
  selected.clear();
  pane.scrollTop = 0;
  go(membersOf(group)[0] ?? state.current);
}

function chooseBeside(by) {
  const full = groups.filter(one => one === group || membersOf(one).length);
  choose(full.at((full.indexOf(group) + by) % full.length));
}

const numColumns = () => getComputedStyle(pane).gridTemplateColumns.split(" ").length;

// The cursor goes on by so many pictures; what it passes is selected too, if it `selects`.
function move(by, selects) {
  const members = membersOf(group);
  const from = members.indexOf(state.current);
  const to = Math.min(Math.max(from + by, 0), members.length - 1);
  if (selects) selectFrom(state.current, members[to]);
  go(members[to] ?? state.current);
}

function selectFrom(one, other) {
  const [first, last] = [Math.min(one, other), Math.max(one, other)];
  for (const index of membersOf(group)) if (index >= first && index <= last) selected.add(index);
}

function toggle(index) {
  if (!selected.delete(index) && group.has(index)) selected.add(index);
}

function selectAll() {
  const members = membersOf(group);
  selected = new Set(selected.size < members.length ? members : []);
  showSelected();
}

// ---- by pointer

const tileAt = ({ target }) => tiles.indexOf(target.closest("[role=option]"));

pane.addEventListener("click", event => {
  const index = tileAt(event);
  if (index < 0 || wasDragged) return;
  if (event.shiftKey) selectFrom(state.current, index);
  else toggle(index);
  go(index);
});

pane.addEventListener("dblclick", event => tileAt(event) >= 0 && look({ enlarged: true }));

pane.addEventListener("pointerdown", event => {
  wasDragged = false;
  const isOnScrollBar = event.clientX - pane.getBoundingClientRect().left > pane.clientWidth;
  if (event.button !== 0 || !event.isPrimary || isOnScrollBar) return;
  drag = { event, from: inPane(event), before: selected };
});

pane.addEventListener("pointermove", event => {
  if (!drag) return;
  const { clientX, clientY } = drag.event;
  const isFar = Math.hypot(event.clientX - clientX, event.clientY - clientY) >= DRAGGED_FROM;
  if (wasDragged || isFar) drag.event = event;
  if (wasDragged || !isFar) return;
  wasDragged = true;
  pane.setPointerCapture(event.pointerId);
  sweep();
});

for (const end of ["pointerup", "pointercancel"]) {
  pane.addEventListener(end, () => {
    drag = null;
    band.hidden = true;
  });
}

function inPane({ clientX, clientY }) {
  const { left, top } = pane.getBoundingClientRect();
  return [clientX - left + pane.scrollLeft, clientY - top + pane.scrollTop];
}

// In each frame of a drag: what the band touches is selected too, and beyond an edge the grid scrolls.
function sweep() {
  if (!drag) return;
  const { top, bottom } = pane.getBoundingClientRect();
  const { clientY } = drag.event;
  pane.scrollTop += Math.min(clientY - top, 0) / 4 + Math.max(clientY - bottom, 0) / 4;
  const [[x0, x1], [y0, y1]] = [0, 1].map(
    axis => [drag.from[axis], inPane(drag.event)[axis]].sort((one, other) => one - other));
  Object.assign(band.style, {
    left: `${x0}px`, top: `${y0}px`, width: `${x1 - x0}px`, height: `${y1 - y0}px`,
  });
  band.hidden = false;
  const isTouched = ({ hidden, offsetLeft: x, offsetTop: y, offsetWidth: w, offsetHeight: h }) =>
    !hidden && x < x1 && x + w > x0 && y < y1 && y + h > y0;
  const touched = [...tiles.keys()].filter(index => isTouched(tiles[index]));
  selected = new Set([...drag.before, ...touched]);
  showSelected();
  requestAnimationFrame(sweep);
}

groupList.addEventListener("change", () => {
  choose(groups[groupList.value]);
  groupList.blur();
});
