// The picture of the single view, and how far it is enlarged.

const LARGEST_ZOOM = 8;
const LARGE = 3;

const picture = element("picture");
const frame = element("frame");
const zoom = { scale: 1, x: 0, y: 0 };
const fingers = new Map();
let shown = null;

const pictureOf = index => element(`picture-${index}`).textContent;

// A small picture is enlarged by its pixels, which are all that the network sees.
const showPixels = ({ target }) => target.classList.toggle(
  "small", Math.max(target.naturalWidth, target.naturalHeight) <= batch.largest_small_side);

function showPicture(index) {
  if (index === shown) return;
  shown = index;
  picture.src = pictureOf(index);
  enlarge(1);
}

// To a scale, about a point of the window that stays where it is: else the middle.
function enlarge(scale, clientX, clientY) {
  const { left, top, width, height } = frame.getBoundingClientRect();
  const [x, y] = [(clientX ?? left + width / 2) - left - width / 2,
    (clientY ?? top + height / 2) - top - height / 2];
  const before = zoom.scale;
  zoom.scale = Math.min(Math.max(scale, 1), LARGEST_ZOOM);
  zoom.x = x - (x - zoom.x) * zoom.scale / before;
  zoom.y = y - (y - zoom.y) * zoom.scale / before;
  pan(0, 0);
}

function pan(right, down) {
  const side = (size, by) => Math.min(Math.max(by, -size), size);
  zoom.x = side(frame.clientWidth * (zoom.scale - 1) / 2, zoom.x + right);
  zoom.y = side(frame.clientHeight * (zoom.scale - 1) / 2, zoom.y + down);
  picture.style.transform = `translate(${zoom.x}px, ${zoom.y}px) scale(${zoom.scale})`;
  frame.classList.toggle("enlarged", zoom.scale > 1);
}

picture.addEventListener("load", showPixels);
frame.addEventListener("dragstart", event => event.preventDefault());

frame.addEventListener("wheel", event => {
  // A picture that is whole leaves the wheel to the page, which may be longer than the window.
  if (zoom.scale === 1 && event.deltaY > 0 && !event.ctrlKey) return;
  event.preventDefault();
  // A pinch on a touchpad arrives as a wheel with Ctrl, in small steps; some mice count in lines.
  const step = event.deltaY * (event.deltaMode ? 20 : 1) * (event.ctrlKey ? 0.01 : 0.002);
  enlarge(zoom.scale * Math.exp(-step), event.clientX, event.clientY);
}, { passive: false });

frame.addEventListener("dblclick", ({ clientX, clientY }) =>
  enlarge(zoom.scale > 1 ? 1 : LARGE, clientX, clientY));

frame.addEventListener("pointerdown", event => {
  fingers.set(event.pointerId, event);
  frame.setPointerCapture(event.pointerId);
});

frame.addEventListener("pointermove", event => {
  const last = fingers.get(event.pointerId);
  if (!last) return;
  const other = [...fingers.values()].find(({ pointerId }) => pointerId !== event.pointerId);
  fingers.set(event.pointerId, event);
  if (!other) return pan(event.clientX - last.clientX, event.clientY - last.clientY);
  const apart = one => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
  const middle = [event.clientX + other.clientX, event.clientY + other.clientY];
  enlarge(zoom.scale * apart(event) / apart(last), middle[0] / 2, middle[1] / 2);
});

for (const end of ["pointerup", "pointercancel"]) {
  frame.addEventListener(end, ({ pointerId }) => fingers.delete(pointerId));
}

// Two fingers are a pinch, never a scroll of the page.
frame.addEventListener(
  "touchmove", event => event.touches.length > 1 && event.preventDefault(), { passive: false });
