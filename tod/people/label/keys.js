// What the keys do.

const onPicture = shift => ({
  ArrowLeft: () => (shift && zoom.scale > 1 ? pan(frame.clientWidth / 4, 0) : goOn(-1)),
  ArrowRight: () => (shift && zoom.scale > 1 ? pan(-frame.clientWidth / 4, 0) : goOn(1)),
  ArrowUp: () => (shift ? pan(0, frame.clientHeight / 4) : enlarge(zoom.scale * 1.5)),
  ArrowDown: () => (shift ? pan(0, -frame.clientHeight / 4) : enlarge(zoom.scale / 1.5)),
  Escape: () => (isTyping() ? type("") : zoom.scale > 1 ? enlarge(1) : look({ grid: true })),
});

const onGrid = shift => ({
  ArrowLeft: () => move(-1, shift),
  ArrowRight: () => move(1, shift),
  ArrowUp: () => move(-numColumns(), shift),
  ArrowDown: () => move(numColumns(), shift),
  PageUp: () => chooseBeside(-1),
  PageDown: () => chooseBeside(1),
  Escape: () => {
    if (!isTyping()) selected.clear();
    type("");
    show();
  },
});

function actionOf(key, shift) {
  const always = {
    ...(isGrid ? onGrid : onPicture)(shift),
    Enter: () => {
      if (isTyping()) bestMatch() && answer(bestMatch().index);
      else if (isGrid) look({ enlarged: true });
    },
  };
  const whenNothingIsTyped = {
    "-": commands.skip,
    Delete: clear,
    Home: goToFirstLeft,
    // Elsewhere, a space is left to the browser.
    " ": isGrid ? () => { toggle(state.current); show(); } : null,
    ...(!isGrid && { "?": reveal }),
  };
  if (key in always) return always[key];
  if (!isTyping() && key in whenNothingIsTyped) return whenNothingIsTyped[key];
  if (isTyping() && matching(typed.value + key).length) return undefined;
  // While a name is typed, the digits of the classes that it has ruled out are ruled out too.
  const chosen = classes.find(one => one.key === key && !one.button.hidden);
  return chosen && (() => answer(chosen.index));
}

// With Ctrl, or Cmd; those of a text that is typed are left to the browser.
function actionWithControl(key) {
  if (key === "s") return save;
  if (isTyping() || summary.open) return undefined;
  return { z: undo, a: isGrid ? selectAll : undefined }[key];
}

document.addEventListener("keydown", event => {
  const { key } = event;
  if (event.isComposing) return;
  if (event.ctrlKey || event.metaKey || event.altKey) {
    const action = event.altKey || event.shiftKey ? undefined : actionWithControl(key.toLowerCase());
    if (!action) return;
    event.preventDefault();
    if (!event.repeat) action();
    return;
  }
  if (summary.open) {
    if (key !== "Escape") return;
    event.preventDefault();
    return closeSummary();
  }
  // A key that is held down must not answer for the images that follow.
  if (event.repeat && ([...key].length === 1 || key === "Enter")) return event.preventDefault();
  const isOnButton = document.activeElement?.matches("button, summary, a");
  if (isOnButton && (key === "Enter" || key === " ")) return;
  if (document.activeElement === groupList && key !== "Escape") return;
  groupList.blur();
  const action = actionOf(key, event.shiftKey);
  if (action) {
    event.preventDefault();
    action();
  } else if (action === undefined && ([...key].length === 1 || key === "Backspace")) {
    // The browser writes into what has the focus once this function has returned.
    typed.focus({ preventScroll: true });
  }
});
