// What people have said of the batch, what the browser keeps of it, and the file that they save.

// Under load, this script may run before the browser knows of its page. Chromium would then connect
// the page to no storage, for good and without a word; once it answers this, it knows.
await navigator.locks?.query().catch(() => {});

const SKIPPED = -1;
const UNDOABLE = 10;
const PACE_OVER = 5 * 60_000;
const PACE_FROM = 30_000;

const element = id => document.getElementById(id);
const batch = JSON.parse(element("batch").textContent);
const hasPredictions = batch.images.some(({ prediction }) => prediction !== null);

// What is kept: of each image the position of its class, SKIPPED, or null, and when it was given; what
// the last answers have replaced; the place; whether the answers lie in a downloaded file; and how
// many files there are.
let state = {
  answers: batch.images.map(() => null),
  times: batch.images.map(() => ""),
  replaced: [],
  current: 0, saved: false, files: 0,
};
let isKept = false;

// ---- answers

function give(indices, value) {
  const { answers, times } = state;
  const before = indices.map(index => [index, answers[index], times[index]]);
  state.replaced = [...state.replaced, before].slice(-UNDOABLE);
  const time = value === null ? "" : new Date().toISOString();
  put(indices.map(index => [index, value, time]));
}

function put(entries) {
  for (const [index, value, time] of entries) {
    state.answers[index] = value;
    state.times[index] = time;
  }
  state.saved = false;
}

// The images whose answers the last one has replaced, with these answers again.
function takeBack() {
  const before = state.replaced.pop() ?? [];
  if (before.length) put(before);
  return before.map(([index]) => index);
}

const numHaving = value => state.answers.filter(given => given === value).length;
const numAnswers = () => state.answers.length - numHaving(null);

// Answers a minute, lately; null before there are enough to tell.
function pace() {
  const since = Date.now() - PACE_OVER;
  const times = state.times.filter(Boolean).map(Date.parse).filter(time => time >= since);
  const [first, last] = [Math.min(...times), Math.max(...times)];
  // Nobody knows how long the first answer took.
  const numTimed = times.filter(time => time > first).length;
  return last - first >= PACE_FROM ? Math.round(numTimed / (last - first) * 60_000) : null;
}

// ---- the file

// Each file has a name of its own: to a second one of a name, the browser would give another.
const fileName = () =>
  `labels_batch${batch.number}${state.files > 1 ? `_${state.files}` : ""}.csv`;

function download() {
  const link = document.createElement("a");
  state.files += 1;
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv;charset=utf-8" }));
  link.download = fileName();
  state.saved = true;
  keep();
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function csv() {
  const person = annotator();
  const lines = batch.images.flatMap(({ file, sha256 }, index) => {
    const value = state.answers[index];
    if (value === null) return [];
    const isSkipped = value === SKIPPED;
    const cells = [file, sha256, isSkipped ? "" : batch.classes[value].name, isSkipped ? "yes" : ""];
    return [[...cells, person, state.times[index]]];
  });
  return [["file", "sha256", "class", "skipped", "annotator", "updated_at"], ...lines]
    .map(cells => cells.map(quoted).join(",") + "\n").join("");
}

// A number for whoever labels in this browser: all files saved here are one person's.
const madeHere = Array.from(
  crypto.getRandomValues(new Uint8Array(8)), byte => byte.toString(16).padStart(2, "0")).join("");

function annotator() {
  const key = "tod-annotator";
  try {
    if (!localStorage.getItem(key)) localStorage.setItem(key, madeHere);
    return localStorage.getItem(key);
  } catch {
    return madeHere;
  }
}

const quoted = cell =>
  /[",\r\n]|^\s|\s$/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;

// ---- what the browser keeps

function keep() {
  try {
    localStorage.setItem(batch.key, JSON.stringify(state));
    isKept = true;
  } catch {
    isKept = false;
  }
  element("unkept").hidden = isKept;
}

function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(batch.key));
    return found?.answers?.length === batch.images.length ? found : null;
  } catch {
    return null;
  }
}

addEventListener("beforeunload", event => {
  if (isKept || state.saved || numAnswers() === 0) return;
  event.preventDefault();
  event.returnValue = true;
});
