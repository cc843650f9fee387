// How things look: shapes say the kind, colours the class, rings and strength how sure a number is.

const SHAPES = {
  head: "ellipse",
  attn: "hexagon",
  norm: "pentagon",
  mlp: "rectangle",
  feature: "diamond",
  residual: "octagon",
  error: "triangle",
  embed: "round-rectangle",
  metric: "round-rectangle",
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
    paper: named("paper"),
    text: named("text"),
    quiet: named("quiet"),
    link: named("link"),
    ...data.signs[dark.on() ? "dark" : "light"],
  };
}

const widest = Math.max(...edges.map((edge) => Math.abs(edge.effect ?? 0)), 0) || 1;

/** Edges of one measurement share its width. */
function widthOf(edge) {
  return 0.9 + (6 * (Math.abs(edge.effect ?? 0) / widest)) / copies[edge.measurement].length;
}

function strengthOf(edge) {
  return edge.sure === null ? 0.6 : edge.sure ? 0.85 : 0.3;
}

/** Diameters of all components in the present measure. */
function diameters() {
  const values = nodes.map((node) => Math.abs(sizeOf(node) ?? 0));
  const biggest = Math.max(...values, 0) || 1;
  const least = Math.min(9, data.largest * 0.45);
  return nodes.map((node, i) =>
    ENDS.has(node.kind) ? Math.min(END, data.largest) : least + (data.largest - least) * Math.sqrt(values[i] / biggest),
  );
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
    {
      selector: "node",
      style: {
        shape: "data(shape)",
        width: (ele) => across[ele.data("i")],
        height: (ele) => across[ele.data("i")],
        "background-color": "data(colour)",
        "background-opacity": (ele) => (measuredHere(ele) ? 1 : 0.25),
        "border-width": (ele) => (sure(ele) ? 2.6 : 1),
        "border-color": (ele) => (sure(ele) ? colours.text : colours.quiet),
        "border-style": (ele) => (measuredHere(ele) ? "solid" : "dashed"),
        label: (ele) => caption(node(ele)),
        color: colours.text,
        "font-size": data.font,
        "text-valign": "bottom",
        "text-margin-y": 2,
        "text-outline-color": colours.paper,
        "text-outline-width": 2,
        "min-zoomed-font-size": 6,
        "font-family": getComputedStyle(document.body).fontFamily,
        "z-index": 10,
      },
    },
    {
      selector: "edge",
      style: {
        "curve-style": "unbundled-bezier",
        "edge-distances": "node-position",
        "control-point-weights": (ele) => bends[ele.data("i")].weights,
        "control-point-distances": (ele) => bends[ele.data("i")].distances,
        width: "data(width)",
        "line-color": (ele) => sign(edges[ele.data("i")], colours),
        "line-opacity": (ele) => strengthOf(edges[ele.data("i")]) * crowd,
        "line-style": "data(dashed)",
        "line-dash-pattern": (ele) => ele.data("dash"),
        "line-cap": "butt",
        "target-arrow-shape": "data(arrow)",
        "target-arrow-color": (ele) => sign(edges[ele.data("i")], colours),
        "arrow-scale": 0.75,
        "z-index": (ele) => edges.length - ele.data("i"),
        "z-index-compare": "manual",
      },
    },
    { selector: ".gone", style: { display: "none" } },
    { selector: "node.faint", style: { opacity: 0.28, "text-opacity": 0.7 } },
    { selector: "node.away", style: { opacity: 0.1, "text-opacity": 0 } },
    { selector: "node.other", style: { opacity: 0.15, "text-opacity": 0 } },
    {
      selector: "node.large",
      style: {
        "font-size": () => Math.max(data.font, READABLE / cy.zoom()),
        "min-zoomed-font-size": 0,
        "z-index": 20,
      },
    },
    { selector: "edge.pale", style: { "line-opacity": 0.12, "target-arrow-shape": "none" } },
    { selector: "edge.lit", style: { "line-opacity": 1, "z-index": 1e6 } },
    {
      selector: "node.found",
      style: {
        opacity: 1,
        "text-opacity": 1,
        "font-weight": "bold",
        "underlay-color": colours.link,
        "underlay-opacity": 0.35,
        "underlay-padding": 6,
        "underlay-shape": "ellipse",
      },
    },
    {
      selector: "node.isolated",
      style: {
        "underlay-color": colours.text,
        "underlay-opacity": 0.16,
        "underlay-padding": 9,
        "underlay-shape": "ellipse",
        "font-weight": "bold",
      },
    },
    {
      selector: "node.active",
      style: {
        "outline-color": colours.link,
        "outline-width": 3,
        "outline-offset": 3,
        "outline-opacity": 1,
        "text-opacity": 1,
      },
    },
  ];
}
