// The drawing: shapes say the kind, colours the class, rings and strength how sure a number is; cytoscape.js draws it.

const SHAPES = {
  head: "ellipse", attn: "hexagon", mlp: "rectangle", feature: "diamond", residual: "octagon", error: "triangle",
  embed: "round-rectangle", metric: "round-rectangle",
};
const DASHES = { q: [7, 4], k: [2, 4] };
const ENDS = new Set(["embed", "metric"]);
const END = 22; // their size, which says nothing
const READABLE = 11; // CSS pixels of the names that stand out, at any zoom
let crowd = 1; // less where thousands of edges are shown together

const dark = {
  system: window.matchMedia("(prefers-color-scheme: dark)"),
  forced: null,
  on() {
    return this.forced === null ? this.system.matches : this.forced;
  },
};

/** Colours of the present scheme. */
function ink() {
  const style = getComputedStyle(document.documentElement);
  const named = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    paper: named("paper"), text: named("text"), quiet: named("quiet"), link: named("link"),
    ...data.signs[dark.on() ? "dark" : "light"],
  };
}

const home = nodes.map(({ x, y }) => ({ x, y }));
const extent = { right: 0, top: 0, bottom: 0 }; // of the drawing, without labels

/** Pull columns and rows apart by these factors. */
function spread(across, down) {
  nodes.forEach((node, i) => {
    node.x = home[i].x * across;
    node.y = home[i].y * down;
  });
  const ys = nodes.map((node) => node.y);
  Object.assign(extent, { right: data.columns.at(-1).end * across, top: Math.min(...ys), bottom: Math.max(...ys) });
}
spread(1, 1);

const widest = Math.max(...edges.map((edge) => Math.abs(edge.effect ?? 0)), 0) || 1;

function widthOf(edge) {
  return 0.9 + 6 * (Math.abs(edge.effect ?? 0) / widest);
}

function strengthOf(edge) {
  return edge.sure === null ? 0.6 : edge.sure ? 0.85 : 0.3;
}

/** Diameters of all components in the present measure. */
function diameters() {
  const values = nodes.map((node) => Math.abs(sizeOf(node) ?? 0));
  const biggest = Math.max(...values, 0) || 1;
  const least = Math.min(9, data.largest * 0.45);
  return nodes.map((node, i) => (ENDS.has(node.kind)
    ? Math.min(END, data.largest) : least + (data.largest - least) * Math.sqrt(values[i] / biggest)));
}

const nth = new Map(); // how many edges before this one join the same two
const order = edges.map(({ source, target }) => {
  const between = `${source} ${target}`;
  nth.set(between, (nth.get(between) ?? -1) + 1);
  return nth.get(between);
});

/** Control points, relative to the line between the ends. A long edge leaves its row at once and arrives level;
 * one that stays in its row bows away from the middle, around what stands there; a short one is a plain arc. */
function bend(edge, i) {
  const [a, b] = [nodes[edge.source], nodes[edge.target]];
  const [dx, dy] = [b.x - a.x, b.y - a.y];
  const long = dx * dx + dy * dy;
  const side = a.y + b.y <= extent.top + extent.bottom ? -1 : 1;
  if (dx < 2.4 * data.largest) return { weights: [0.5], distances: [-side * (4 + 12 * order[i])] };
  const far = dx > 3 * data.largest ? Math.min(0.13 * dx, 52) * Math.exp(-((dy / 60) ** 2)) : 0;
  const bow = side * (far + 11 * order[i]);
  const points = [[0.36 * dx, 0.35 * dy + bow], [0.68 * dx, 0.95 * dy + bow]];
  return {
    weights: points.map(([x, y]) => (x * dx + y * dy) / long),
    distances: points.map(([x, y]) => (-x * dy + y * dx) / Math.sqrt(long)),
  };
}

let bends = edges.map(bend);

function drawnNode(node, i) {
  return {
    group: "nodes", data: { id: `n${i}`, i, shape: SHAPES[node.kind], colour: data.colours[node.group] },
    position: { x: node.x, y: node.y },
  };
}

function drawnEdge(edge, i) {
  return {
    group: "edges",
    data: {
      id: `e${i}`, i, source: `n${edge.source}`, target: `n${edge.target}`, width: widthOf(edge),
      dash: DASHES[edge.kind] ?? [1, 0], dashed: DASHES[edge.kind] ? "dashed" : "solid",
      arrow: (edge.effect ?? 0) < 0 ? "tee" : "triangle",
    },
  };
}

function sign(edge, colours) {
  return edge.effect === null ? colours.quiet : edge.effect < 0 ? colours.negative : colours.positive;
}

/** The words under a component: a minus marks a negative effect. */
function caption(node) {
  return (sizeOf(node) ?? 0) < 0 ? `${node.label}\u2009${MINUS}` : node.label;
}

function styles() {
  const colours = ink();
  const across = diameters();
  const node = (ele) => nodes[ele.data("i")];
  const sure = (ele) => node(ele).sure[view.size];
  const measuredHere = (ele) => sizeOf(node(ele)) !== undefined || ENDS.has(node(ele).kind);
  return [
    { selector: "node", style: {
      shape: "data(shape)", width: (ele) => across[ele.data("i")], height: (ele) => across[ele.data("i")],
      "background-color": "data(colour)", "background-opacity": (ele) => (measuredHere(ele) ? 1 : 0.25),
      "border-width": (ele) => (sure(ele) ? 2.6 : 1), "border-color": (ele) => (sure(ele) ? colours.text : colours.quiet),
      "border-style": (ele) => (measuredHere(ele) ? "solid" : "dashed"),
      label: (ele) => caption(node(ele)), color: colours.text, "font-size": data.font, "text-valign": "bottom",
      "text-margin-y": 2, "text-outline-color": colours.paper, "text-outline-width": 2, "min-zoomed-font-size": 6,
      "font-family": getComputedStyle(document.body).fontFamily, "z-index": 10,
    } },
    { selector: "edge", style: {
      "curve-style": "unbundled-bezier", "edge-distances": "node-position",
      "control-point-weights": (ele) => bends[ele.data("i")].weights,
      "control-point-distances": (ele) => bends[ele.data("i")].distances,
      width: "data(width)", "line-color": (ele) => sign(edges[ele.data("i")], colours), "line-opacity": (ele) => strengthOf(edges[ele.data("i")]) * crowd,
      "line-style": "data(dashed)", "line-dash-pattern": (ele) => ele.data("dash"), "line-cap": "butt",
      "target-arrow-shape": "data(arrow)", "target-arrow-color": (ele) => sign(edges[ele.data("i")], colours),
      "arrow-scale": 0.75, "z-index": (ele) => edges.length - ele.data("i"), "z-index-compare": "manual",
    } },
    { selector: ".gone", style: { display: "none" } },
    { selector: "node.faint", style: { opacity: 0.28, "text-opacity": 0.7 } },
    { selector: "node.away", style: { opacity: 0.1, "text-opacity": 0 } },
    { selector: "node.other", style: { opacity: 0.15, "text-opacity": 0 } },
    { selector: "node.large", style: {
      "font-size": () => Math.max(data.font, READABLE / cy.zoom()), "min-zoomed-font-size": 0, "z-index": 20,
    } },
    { selector: "edge.pale", style: { "line-opacity": 0.12, "target-arrow-shape": "none" } },
    { selector: "edge.lit", style: { "line-opacity": 1, "z-index": 1e6 } },
    { selector: "node.found", style: {
      opacity: 1, "text-opacity": 1, "font-weight": "bold", "underlay-color": colours.link, "underlay-opacity": 0.35,
      "underlay-padding": 6, "underlay-shape": "ellipse",
    } },
    { selector: "node.isolated", style: {
      "underlay-color": colours.text, "underlay-opacity": 0.16, "underlay-padding": 9, "underlay-shape": "ellipse",
      "font-weight": "bold",
    } },
    { selector: "node.active", style: {
      "outline-color": colours.link, "outline-width": 3, "outline-offset": 3, "outline-opacity": 1, "text-opacity": 1,
    } },
  ];
}

const cy = cytoscape({
  container: at("canvas"), elements: nodes.map(drawnNode), style: [], layout: { name: "preset", fit: false },
  autoungrabify: true, autounselectify: true, boxSelectionEnabled: false, minZoom: 0.15, maxZoom: 6,
  textureOnViewport: edges.length > 1500,
});

const drawnNodes = nodes.map((_, i) => cy.getElementById(`n${i}`));
const drawnEdges = new Map(); // edge → what is drawn of it, from when it is first shown

/** Draw the edges shown, hide the others. Thousands together are drawn fainter, so that the strong ones stand out. */
function applyEdges(shown) {
  const all = edges.map((_, i) => i);
  const fresh = all.filter((i) => shown[i] && !drawnEdges.has(i));
  const n = shown.filter(Boolean).length;
  const before = crowd;
  crowd = n <= 400 ? 1 : n <= 1500 ? 0.65 : 0.4;
  cy.add(fresh.map((i) => drawnEdge(edges[i], i))).forEach((drawn) => {
    drawnEdges.set(drawn.data("i"), drawn);
  });
  for (const [i, drawn] of drawnEdges) {
    if (drawn.hasClass("gone") === shown[i]) drawn.toggleClass("gone", !shown[i]);
  }
  if (crowd !== before) restyle();
}

/** Give the drawing what follows from the view; only what changed is touched. */
function apply({ shown, near }) {
  const wanted = found();
  const focused = document.activeElement === at("stage");
  cy.batch(() => {
    applyEdges(shown);
    nodes.forEach((_, i) => {
      const classes = {
        faint: !near[i] && view.isolated === null, away: !near[i] && view.isolated !== null,
        large: (near[i] && view.isolated !== null) || (wanted !== null && wanted[i]) || i === view.active,
        isolated: i === view.isolated, active: i === view.active && focused,
        found: wanted !== null && wanted[i], other: wanted !== null && !wanted[i],
      };
      for (const [name, on] of Object.entries(classes)) {
        if (drawnNodes[i].hasClass(name) !== on) drawnNodes[i].toggleClass(name, on);
      }
    });
  });
}

let lit = [];

/** Light these edges. Among few, the others step back; so do edges between components that a search leaves out. */
function light(these) {
  const wanted = found();
  const alone = these.length > 0 && seen.shown.filter(Boolean).length <= 400;
  const bright = new Set(these);
  cy.batch(() => {
    lit.forEach((i) => drawnEdges.get(i)?.removeClass("lit"));
    lit = these;
    lit.forEach((i) => drawnEdges.get(i)?.addClass("lit"));
    for (const [i, drawn] of drawnEdges) {
      const sought = wanted === null || wanted[edges[i].source] || wanted[edges[i].target];
      const pale = seen.shown[i] && !bright.has(i) && (alone || !sought);
      if (drawn.hasClass("pale") !== pale) drawn.toggleClass("pale", pale);
    }
  });
}

function restyle() {
  cy.style(styles());
}

/** Draw everything at its present place. */
function rearrange() {
  bends = edges.map(bend);
  cy.batch(() => drawnNodes.forEach((drawn, i) => drawn.position({ x: nodes[i].x, y: nodes[i].y })));
  cy.style().update();
}
