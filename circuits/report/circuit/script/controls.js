// Search, filters, the slider, the mouse and the keyboard: each changes the view and draws it again.

let seen = look();

/** Draw everything that follows from the view. */
function refresh(what = {}) {
  seen = look();
  apply(seen);
  light(litBy(what));
  tell(what, seen);
  tellAmount(seen);
  tabulate(seen);
  const wanted = found();
  const matches = wanted === null ? 0 : wanted.filter(Boolean).length;
  at("found").textContent = wanted === null ? "" : `${matches} of ${nodes.length}`;
  [...at("options").children].forEach((option, i) => option.setAttribute("aria-selected", i === view.isolated));
  at("stage").dataset.edges = seen.shown.filter(Boolean).length;
}

function litBy({ node, edge }) {
  if (edge !== undefined) return copies[edges[edge].measurement].filter((i) => seen.shown[i]);
  return node === undefined || view.isolated !== null
    ? []
    : [...into[node], ...outOf[node]].filter((i) => seen.shown[i]);
}

/** Point at something without changing what is shown. */
function point(what) {
  light(litBy(what));
  tell(what, seen);
}

/** Isolate a component with what it talks to, or go back where it is isolated already. */
function isolate(i) {
  view.isolated = view.isolated === i ? null : i;
  activate(view.isolated ?? i);
  refresh();
}

function release() {
  view.isolated = null;
  refresh();
}

function activate(i) {
  view.active = i;
  if (i !== null) {
    at("stage").setAttribute("aria-activedescendant", `option${i}`);
    bring(i);
  }
}

/** What a screen reader says of a component. */
function spoken(node, i) {
  const size = measured(node.has, data.measures.find((m) => m.name === view.size) ?? { name: "" });
  const parts = [node.id, node.kind, node.group === node.kind ? "" : node.group];
  if (size !== null) {
    const judged = verdict(node.sure[view.size], size.p);
    parts.push([size.name, number(size.value), interval(size.low, size.high), judged].filter(Boolean).join(" "));
  }
  parts.push(`${count(into[i].length, "edge")} in`, `${once(outOf[i]).length} out`);
  return parts.filter(Boolean).join(", ");
}

at("options").append(
  ...nodes.map((node, i) => el("li", { id: `option${i}`, role: "option", "aria-selected": "false" }, spoken(node, i))),
);

/** The nearest component in a direction, among those that are drawn in full. */
function nearest(from, dx, dy) {
  let [best, least] = [null, Infinity];
  nodes.forEach((node, i) => {
    const [x, y] = [node.x - nodes[from].x, node.y - nodes[from].y];
    const [along, across] = [x * dx + y * dy, Math.abs(x * dy) + Math.abs(y * dx)];
    if (i === from || along <= 0.5 || !seen.near[i] || across > 2.5 * along) return;
    if (along + 2 * across < least) [best, least] = [i, along + 2 * across];
  });
  return best;
}

function goTo(i) {
  if (i === null) return;
  activate(i);
  apply(seen);
  point({ node: i });
}

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function onKey(event) {
  const { key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const drawn = nodes.map((_, i) => i).filter((i) => seen.near[i]);
  if (key in STEPS) goTo(nearest(view.active, ...STEPS[key]));
  else if (key === "Home") goTo(drawn[0]);
  else if (key === "End") goTo(drawn.at(-1));
  else if (key === "Enter" || key === " ") isolate(view.active);
  else if (key === "+" || key === "=") zoomBy(1.25);
  else if (key === "-") zoomBy(0.8);
  else if (key === "0") fit();
  else return;
  event.preventDefault();
}

at("stage").addEventListener("keydown", onKey);
at("stage").addEventListener("focus", () => goTo(view.active ?? view.isolated ?? 0));
at("stage").addEventListener("blur", () => {
  apply(seen);
  point({});
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.defaultPrevented && view.isolated !== null) release();
});

cy.on("mouseover", "node", ({ target }) => point({ node: target.data("i") }));
cy.on("mouseover", "edge", ({ target }) => point({ edge: target.data("i") }));
cy.on("mouseout", "node, edge", () => point({}));
cy.on("tap", "node", ({ target }) => isolate(target.data("i")));
cy.on("tap", (event) => {
  if (event.target === cy && view.isolated !== null) release();
});
cy.on("mouseover mouseout", "node", (event) => {
  at("canvas").style.cursor = event.type === "mouseover" ? "pointer" : "";
});

at("amount").max = last;
at("amount").disabled = last === 0;
at("amount").addEventListener("input", () => {
  view.level = Number(at("amount").value);
  refresh();
});

at("search").addEventListener("input", () => {
  view.query = at("search").value;
  refresh();
});
at("search").addEventListener("keydown", (event) => {
  if (event.key === "Escape" && view.query) {
    event.preventDefault();
    at("search").value = view.query = "";
    refresh();
  }
  const first = found()?.indexOf(true) ?? -1;
  if (event.key !== "Enter" || first < 0) return;
  event.preventDefault();
  view.active = first;
  if (view.isolated !== first) isolate(first);
  at("stage").focus();
});
document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());

for (const kind of data.kinds) {
  const box = el("input", {
    type: "checkbox",
    checked: true,
    value: kind,
    on: {
      change: () => {
        if (box.checked) view.kinds.add(kind);
        else view.kinds.delete(kind);
        refresh();
      },
    },
  });
  const n = amount(edges.map((edge) => edge.kind === kind));
  at("kinds").append(el("label", { class: "check" }, box, ` ${kind} `, el("span", { class: "quiet" }, String(n))));
}
at("kinds").hidden = !edges.length;
for (const [id, name, there] of [
  ["only-sure", "sure", edges.some((e) => e.sure !== null)],
  ["only-circuit", "chosen", edges.some((e) => e.has.in_circuit !== undefined)],
]) {
  at(id).hidden = !there;
  at(name).addEventListener("change", () => {
    view[name] = at(name).checked;
    refresh();
  });
}
at("reach").addEventListener("change", () => {
  view.reach = at("reach").value;
  refresh();
});
at("size").append(
  ...data.measures.map(({ name }) => el("option", { value: name, selected: name === view.size }, name)),
);
at("sized").hidden = data.measures.length < 2;
at("size").addEventListener("change", () => {
  view.size = at("size").value;
  restyle();
  [...at("options").children].forEach((option, i) => {
    option.textContent = spoken(nodes[i], i);
  });
  refresh();
});
at("table").addEventListener("toggle", () => tabulate(seen));
at("closer").addEventListener("click", () => zoomBy(1.25));
at("farther").addEventListener("click", () => zoomBy(0.8));
at("whole").addEventListener("click", fit);
