// The buttons of the classes, and names that are typed.

const typed = element("typed");

// Upper and lower case, the ways to encode an accent, and the kinds of blanks are all one.
const folded = text =>
  text.normalize("NFC").toLowerCase().replace(/\s+/g, " ").trimStart();

const classes = batch.classes.map(({ name, key }, index) => {
  const button = document.createElement("button");
  const [label, shortcut] = ["span", "kbd"].map(kind => document.createElement(kind));
  label.textContent = name;
  shortcut.textContent = key ?? "";
  button.type = "button";
  button.append(label, shortcut);
  button.addEventListener("click", () => answer(index));
  return { name, key, index, button, folded: folded(name) };
});
element("classes").append(...classes.map(({ button }) => button));

function type(text) {
  typed.value = text;
  filter();
}

const isTyping = () => folded(typed.value) !== "";

function matching(text) {
  const part = folded(text);
  return classes.filter(({ folded: name }) => name.includes(part));
}

function bestMatch() {
  const found = matching(typed.value);
  const part = folded(typed.value);
  return found.find(({ name }) => name === typed.value)
    ?? found.find(({ folded: name }) => name === part)
    ?? found.find(({ folded: name }) => name.startsWith(part))
    ?? found[0];
}

function filter() {
  const found = new Set(matching(typed.value));
  const best = isTyping() ? bestMatch() : null;
  for (const one of classes) {
    one.button.hidden = !found.has(one);
    one.button.classList.toggle("best", one === best);
  }
  element("match").textContent =
    best ? `Enter: ${best.name}` : best === null ? "" : "No class has this in its name.";
}

typed.addEventListener("input", filter);
