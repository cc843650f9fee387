// The drawing, by cytoscape.js: where things are, how edges run between them, and which of them are shown.

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
  const points = [
    [0.36 * dx, 0.35 * dy + bow],
    [0.68 * dx, 0.95 * dy + bow],
  ];
  return {
    weights: points.map(([x, y]) => (x * dx + y * dy) / long),
    distances: points.map(([x, y]) => (-x * dy + y * dx) / Math.sqrt(long)),
  };
}

let bends = edges.map(bend);

function drawnNode(node, i) {
  return {
    group: "nodes",
    data: { id: `n${i}`, i, shape: SHAPES[node.kind], colour: data.colours[node.group] },
    position: { x: node.x, y: node.y },
  };
}

function drawnEdge(edge, i) {
  return {
    group: "edges",
    data: {
      id: `e${i}`,
      i,
      source: `n${edge.source}`,
      target: `n${edge.target}`,
      width: widthOf(edge),
      dash: DASHES[edge.kind] ?? [1, 0],
      dashed: DASHES[edge.kind] ? "dashed" : "solid",
      arrow: (edge.effect ?? 0) < 0 ? "tee" : "triangle",
    },
  };
}

const cy = cytoscape({
  container: at("canvas"),
  elements: nodes.map(drawnNode),
  style: [],
  layout: { name: "preset", fit: false },
  autoungrabify: true,
  autounselectify: true,
  boxSelectionEnabled: false,
  minZoom: 0.15,
  maxZoom: 6,
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
        faint: !near[i] && view.isolated === null,
        away: !near[i] && view.isolated !== null,
        large: (near[i] && view.isolated !== null) || (wanted !== null && wanted[i]) || i === view.active,
        isolated: i === view.isolated,
        active: i === view.active && focused,
        found: wanted !== null && wanted[i],
        other: wanted !== null && !wanted[i],
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
