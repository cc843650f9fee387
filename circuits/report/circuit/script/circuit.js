// The page comes up: colours, legend, first view.

/** Let the page follow the reader's scheme, or the one that the button chose. */
function recolour() {
  for (const sheet of document.styleSheets) {
    for (const rule of sheet.cssRules) {
      if (!(rule instanceof CSSMediaRule)) continue;
      rule.scheme ??= rule.conditionText.includes("prefers-color-scheme");
      if (rule.scheme) rule.media.mediaText = dark.on() ? "all" : "not all";
    }
  }
  document.documentElement.style.colorScheme = dark.on() ? "dark" : "light";
  document.documentElement.dataset.scheme = dark.on() ? "dark" : "light";
  const next = dark.on() ? "light" : "dark";
  at("scheme").textContent = next;
  at("scheme").setAttribute("aria-label", `${next} colours`);
  restyle();
  drawLegend();
}

function sample(child) {
  return svg("svg", { class: "sample", viewBox: "0 0 28 14", "aria-hidden": "true" }, child);
}

function drawLegend() {
  const colours = ink();
  const stroke = (colour, attributes = {}) =>
    sample(svg("line", { x1: 1, x2: 27, y1: 7, y2: 7, stroke: colour, "stroke-width": 3, ...attributes }));
  const items = [];
  const seenKinds = new Map(nodes.map((node) => [`${node.kind} ${node.group}`, node]));
  for (const { kind, group } of seenKinds.values()) {
    const mark = outline(kind, 14, 7, 6, { fill: data.colours[group], stroke: colours.quiet });
    items.push([sample(mark), group === kind ? kind : `${group} ${kind}`]);
  }
  if (nodes.some((node) => Object.keys(node.sure).length)) {
    items.push([
      sample(svg("circle", { cx: 14, cy: 7, r: 5, fill: "none", stroke: colours.text, "stroke-width": 2.6 })),
      `ring: sure (p ≤ ${data.alpha}; without p, its own interval leaves out 0)`,
    ]);
  }
  if (view.size !== null && nodes.some((node) => sizeOf(node) === undefined && !ENDS.has(node.kind))) {
    items.push([
      sample(svg("circle", { cx: 14, cy: 7, r: 5, fill: "none", stroke: colours.quiet, "stroke-dasharray": "3 2" })),
      `dashed: no ${view.size}`,
    ]);
  }
  if (edges.length) {
    items.push([stroke(colours.positive), "adds"], [stroke(colours.negative), "takes away, ends in a bar"]);
    if (edges.some((edge) => edge.sure === false))
      items.push([stroke(colours.positive, { opacity: 0.3 }), "faint: not sure"]);
    for (const [kind, dash] of Object.entries(DASHES)) {
      if (edges.some((edge) => edge.kind === kind))
        items.push([stroke(colours.quiet, { "stroke-dasharray": dash.join(" ") }), kind]);
    }
    items.push([
      sample(svg("path", { d: "M 1 7 L 27 4 L 27 10 Z", fill: colours.quiet })),
      `width: |effect|, up to ${number(widest)}${
        copies.some((these) => these.length > 1) ? "; divided among query heads that share keys or values" : ""
      }`,
    ]);
  }
  if (view.size !== null) items.push([null, `area: |${view.size}|; a ${MINUS} after a name marks a negative one`]);
  at("legend").replaceChildren(...items.map(([mark, text]) => el("li", {}, mark, text)));
}

at("only-sure").title = `p ≤ ${data.alpha}; without p, its own interval leaves out 0`;
at("scheme").addEventListener("click", () => {
  dark.forced = !dark.on();
  recolour();
});
dark.system.addEventListener("change", recolour);
at("size").addEventListener("change", drawLegend);
window.addEventListener("resize", drawCurve);

let chosen = null; // the scheme before printing; paper is light
window.addEventListener("beforeprint", () => {
  chosen = dark.forced;
  dark.forced = false;
  recolour();
});
window.addEventListener("afterprint", () => {
  dark.forced = chosen;
  recolour();
});

document.querySelector("main").hidden = false;
recolour();
refresh();
fit();
window.circuit = { cy, data, view, look }; // for a reader at the console
