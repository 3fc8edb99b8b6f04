// From what a model writes to elements. Only text nodes are made of it: markup in an answer is shown, never run.

export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// "text ```code``` text" -> [{code: false, text}, {code: true, text}, ...]
function blocks(text) {
  return text.split(/^```[^\n]*\n?/m).map((part, i) => ({ code: i % 2 === 1, text: part })).filter((b) => b.text !== "");
}

// Shows `text` in `box`, touching only what has changed since the last call, so that nothing above the end moves.
export function showText(box, text) {
  const wanted = blocks(text);
  wanted.forEach((block, i) => {
    const tag = block.code ? "PRE" : "P";
    let node = box.children[i];
    if (node && node.tagName !== tag) {
      while (box.children.length > i) box.lastElementChild.remove();
      node = undefined;
    }
    if (!node) {
      node = element(tag);
      if (block.code) node.tabIndex = 0;
      box.append(node);
    }
    const shown = block.code ? block.text.replace(/\n$/, "") : block.text.trim();
    const old = node.textContent;
    if (shown === old) return;
    if (shown.startsWith(old) && node.firstChild) node.firstChild.appendData(shown.slice(old.length));
    else node.textContent = shown;
  });
  while (box.children.length > wanted.length) box.lastElementChild.remove();
}

export function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;  // still being written
  }
}
