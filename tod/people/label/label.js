// The page: what a person does, what is seen, and the start.

let isGrid = false;
let isEnlarged = false; // one picture of the grid, to which an answer leads back
let isRevealed = false;

// ---- what a person does

function answer(value) {
  const { answers, current } = state;
  if (isGrid) return answerSelected(value);
  const isCorrection = answers[current] !== null;
  give([current], value);
  if (isEnlarged) return look({ grid: true });
  const later = answers.indexOf(null, current + 1);
  const open = later >= 0 ? later : answers.indexOf(null);
  go(isCorrection || open < 0 ? current : open);
}

function answerSelected(value) {
  if (!selected.size) return type("");
  give([...selected].sort((one, other) => one - other), value);
  selected.clear();
  go(state.current);
}

function clear() {
  if (isGrid) return answerSelected(null);
  if (state.answers[state.current] === null) return;
  give([state.current], null);
  go(state.current);
}

function undo() {
  const indices = takeBack();
  if (!indices.length) return;
  // So that the right class can be given to them at once.
  selected = new Set(indices);
  go(indices[0]);
}

function go(index) {
  const place = Math.min(Math.max(index, 0), batch.images.length - 1);
  isRevealed &&= place === state.current;
  state.current = place;
  keep();
  type("");
  show();
  if (isGrid) tiles[state.current].scrollIntoView({ block: "nearest" });
}

// The image before or behind: of the group, where one picture of the grid is enlarged.
function goOn(by) {
  if (!isEnlarged) return go(state.current + by);
  const members = membersOf(group);
  go(members[members.indexOf(state.current) + by] ?? state.current);
}

function goToFirstLeft() {
  const [first] = membersOf(left);
  const inGroup = isGrid ? membersOf(group).find(left.has) : first;
  if (inGroup !== undefined) go(inGroup);
  else if (first !== undefined) choose(left);
}

function look({ grid = false, enlarged = false }) {
  [isGrid, isEnlarged, isRevealed] = [grid, enlarged, false];
  document.body.classList.toggle("grid", isGrid);
  go(state.current);
}

function reveal() {
  isRevealed = true;
  show();
}

// ---- what is seen

function saidOf(index) {
  const value = state.answers[index];
  return value === null ? "" : value === SKIPPED ? "skipped" : classes[value].name;
}

function totals() {
  const [numLeft, numSkipped] = [numHaving(null), numHaving(SKIPPED)];
  return `${numAnswers() - numSkipped} labelled, ${numSkipped} skipped, ${numLeft} left`;
}

function show() {
  const { answers, saved } = state;
  const [count, numAnswered] = [answers.length, numAnswers()];
  const rate = pace();
  if (isGrid) showGrid();
  else showOne();
  element("place").textContent = `Image ${state.current + 1} of ${count}`;
  element("done").max = count;
  element("done").value = numAnswered;
  element("progress").textContent = totals();
  element("pace").textContent = rate === null ? "" : ` · ${rate} a minute`;
  element("undo").disabled = !state.replaced.length;
  element("first").disabled = numAnswered === count;
  element("view").firstChild.data = isGrid ? "single" : "grid";
  const value = isGrid ? null : answers[state.current];
  for (const { button, index } of classes) button.setAttribute("aria-pressed", index === value);
  element("skip").setAttribute("aria-pressed", value === SKIPPED);
  const isDue = numAnswered === count && !saved;
  element("save").classList.toggle("due", isDue);
  element("message").textContent = saved
    ? `Saved as ${fileName()}. If there was such a file, the browser has added a number to the name.`
    : isDue ? "Every image has an answer: press “save labels” to finish." : "";
}

function showOne() {
  const { answers, current } = state;
  const { file, original, prediction } = batch.images[current];
  const said = saidOf(current);
  showPicture(current);
  picture.alt = `Image ${current + 1} of ${answers.length}: ${file}`;
  element("file").textContent = file;
  element("original").href = original;
  element("answer").textContent = said ? `Answer: ${said}` : "No answer yet";
  element("reveal").hidden = !hasPredictions;
  element("prediction").textContent = !isRevealed || !hasPredictions ? ""
    : prediction === null ? "No prediction is shown of this image: your answer is to be your own."
    : `Predicted: ${prediction}`;
}

// ---- the summary, before labels are saved

const summary = element("summary");

function save() {
  if (summary.open) return saveFile();
  if (!numAnswers()) {
    element("message").textContent = "No image has an answer yet: there is nothing to save.";
    return;
  }
  element("totals").textContent = `${totals()}. Look once more at those that are:`;
  const counted = [left, ...groups.filter(({ by }) => by === YOU)];
  element("counts").replaceChildren(...counted.flatMap(one => {
    const count = membersOf(one).length;
    if (!count) return [];
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `${one.name} (${count})`;
    button.addEventListener("click", () => {
      closeSummary();
      look({ grid: true });
      choose(one);
    });
    return [button];
  }));
  summary.showModal();
}

// Until the next frame, a button of a closed dialog would still be in focus: Enter would press it.
function closeSummary() {
  summary.close();
  document.activeElement?.blur();
}

function saveFile() {
  closeSummary();
  download();
  show();
}

// ---- buttons

const commands = {
  view: () => look({ grid: !isGrid }),
  first: goToFirstLeft,
  back: () => goOn(-1),
  next: () => goOn(1),
  skip: () => answer(SKIPPED),
  undo, clear, reveal, save,
  download: saveFile,
  close: closeSummary,
  all: selectAll,
};

for (const [id, command] of Object.entries(commands)) {
  element(id).addEventListener("click", command);
}

// Otherwise Enter would press the button that was clicked last once more, for another image.
document.addEventListener("click", event => {
  const isByPointer = event.detail > 0 && !summary.open;
  if (isByPointer && document.activeElement?.matches("button, summary, a")) {
    document.activeElement.blur();
  }
});

// ---- the start, and other tabs

addEventListener("storage", event => {
  if (event.key !== batch.key) return;
  // Another tab shows the same page, at a place of its own.
  state = { ...state, ...kept(), current: state.current };
  show();
});

state = { ...state, ...kept() };
go(state.current);
