// What is seen, as a file: SVG drawn from the same geometry, PNG from that SVG, and node-link JSON.

const ROOT3 = Math.sqrt(3) / 2;
const CORNERS = {
  rectangle: [
    [-1, -1],
    [1, -1],
    [1, 1],
    [-1, 1],
  ],
  diamond: [
    [0, -1],
    [1, 0],
    [0, 1],
    [-1, 0],
  ],
  pentagon: [
    [0, -1],
    [0.95, -0.31],
    [0.59, 0.81],
    [-0.59, 0.81],
    [-0.95, -0.31],
  ],
  triangle: [
    [0, -1],
    [1, 1],
    [-1, 1],
  ],
  hexagon: [
    [-1, 0],
    [-0.5, -ROOT3],
    [0.5, -ROOT3],
    [1, 0],
    [0.5, ROOT3],
    [-0.5, ROOT3],
  ],
  octagon: [
    [-1, -0.41],
    [-0.41, -1],
    [0.41, -1],
    [1, -0.41],
    [1, 0.41],
    [0.41, 1],
    [-0.41, 1],
    [-1, 0.41],
  ],
};

/** The outline of a component of this kind about a point. */
function outline(kind, x, y, r, attributes) {
  const shape = SHAPES[kind];
  if (shape === "ellipse") return svg("circle", { cx: x, cy: y, r, ...attributes });
  if (shape === "round-rectangle")
    return svg("rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r, rx: r / 2, ...attributes });
  return svg("polygon", {
    points: CORNERS[shape].map(([a, b]) => `${(x + a * r).toFixed(1)},${(y + b * r).toFixed(1)}`).join(" "),
    ...attributes,
  });
}

/** An edge's path: quadratic pieces through its control points, as the drawing has them. */
function pathOf(drawn) {
  const [from, to, points] = [drawn.sourceEndpoint(), drawn.targetEndpoint(), drawn.controlPoints() ?? []];
  const place = ({ x, y }) => `${x.toFixed(1)} ${y.toFixed(1)}`;
  const pieces = points.map((point, i) => {
    const next = points[i + 1];
    const end = next ? { x: (point.x + next.x) / 2, y: (point.y + next.y) / 2 } : to;
    return `Q ${place(point)} ${place(end)}`;
  });
  return `M ${place(from)} ${points.length ? pieces.join(" ") : `L ${place(to)}`}`;
}

function tip(drawn, edge, colour) {
  const to = drawn.targetEndpoint();
  const before = drawn.controlPoints()?.at(-1) ?? drawn.sourceEndpoint();
  const turn = (Math.atan2(to.y - before.y, to.x - before.x) * 180) / Math.PI;
  const size = 3 + widthOf(edge);
  const shape =
    (edge.effect ?? 0) < 0
      ? `M -1.5 ${-size} L 1.5 ${-size} L 1.5 ${size} L -1.5 ${size} Z`
      : `M 2 0 L ${-size} ${-size * 0.7} L ${-size} ${size * 0.7} Z`;
  return svg("path", {
    d: shape,
    fill: colour,
    transform: `translate(${to.x.toFixed(1)} ${to.y.toFixed(1)}) rotate(${turn.toFixed(1)})`,
  });
}

/** Words broken into lines of at most so many characters. */
function wrapped(text, most) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (lines.at(-1) && lines.at(-1).length + word.length >= most) lines.push("");
    lines.push(`${lines.pop()} ${word}`.trim());
  }
  return lines;
}

/** The whole drawing as it is shown now, with the title, the model and the threshold. */
function drawing() {
  const colours = ink();
  const font = getComputedStyle(document.body).fontFamily;
  const wide = Math.ceil(Math.max(extent.right + PAD.left + 30, 560));
  const said = data.facts
    .filter(([name]) => ["model", "pairs", "metric"].includes(name))
    .map(([, value]) => value)
    .join(" · ");
  const [above, below] = [wrapped(said, wide / 5.8), wrapped(sentence(seen.shown), wide / 5.8)];
  const [left, top] = [-PAD.left, extent.top - data.largest - 62 - 13 * above.length];
  const bottom = extent.bottom + data.largest + 36 + 13 * below.length;
  const tall = Math.ceil(bottom - top);
  const text = (words, x, y, attributes = {}) =>
    svg("text", { x, y, fill: colours.text, "font-size": data.font, ...attributes }, words);
  const shownEdges = edges
    .map((_, i) => i)
    .filter((i) => seen.shown[i])
    .reverse();
  const root = svg(
    "svg",
    { xmlns: SVG, viewBox: `${left} ${top} ${wide} ${tall}`, width: wide, height: tall, "font-family": font },
    svg("rect", { x: left, y: top, width: wide, height: tall, fill: colours.paper }),
    text(data.title, left + 14, top + 24, { "font-size": 16, "font-weight": "bold" }),
    ...above.map((line, i) => text(line, left + 14, top + 42 + 13 * i, { "font-size": 10, fill: colours.quiet })),
    ...below.map((line, i) =>
      text(line, left + 14, bottom + 3 - 13 * (below.length - i), { "font-size": 10, fill: colours.quiet }),
    ),
    ...data.columns.map(({ title, start, end }) =>
      text(title, ((start + end) / 2) * pulled.across, top + 54 + 13 * above.length, {
        "text-anchor": "middle",
        fill: colours.quiet,
      }),
    ),
    ...data.lanes.map(({ title, start, end }) =>
      text(title, left + 14, ((start + end) / 2) * pulled.down, {
        fill: colours.quiet,
        "font-size": Math.min(data.font, 11),
      }),
    ),
  );
  for (const i of shownEdges) {
    const [edge, drawn] = [edges[i], drawnEdges.get(i)];
    const colour = sign(edge, colours);
    root.append(
      svg(
        "g",
        { opacity: strengthOf(edge) },
        svg("path", {
          d: pathOf(drawn),
          fill: "none",
          stroke: colour,
          "stroke-width": widthOf(edge).toFixed(2),
          "stroke-dasharray": DASHES[edge.kind]?.join(" ") ?? null,
        }),
        tip(drawn, edge, colour),
      ),
    );
  }
  const across = diameters();
  nodes.forEach((node, i) => {
    if (!seen.near[i] && view.isolated !== null) return;
    const [r, sure] = [across[i] / 2, node.sure[view.size]];
    const known = sizeOf(node) !== undefined || ENDS.has(node.kind);
    root.append(
      svg(
        "g",
        { opacity: seen.near[i] ? 1 : 0.28 },
        outline(node.kind, node.x, node.y, r, {
          fill: data.colours[node.group],
          "fill-opacity": known ? 1 : 0.25,
          stroke: sure ? colours.text : colours.quiet,
          "stroke-width": sure ? 2.6 : 1,
          "stroke-dasharray": known ? null : "3 2",
        }),
        text(caption(node), node.x, node.y + r + data.font + 1, {
          "text-anchor": "middle",
          stroke: colours.paper,
          "stroke-width": 2,
          "paint-order": "stroke",
        }),
      ),
    );
  });
  return root;
}

function save(name, content) {
  const link = el("a", { href: URL.createObjectURL(content), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function asText() {
  return new XMLSerializer().serializeToString(drawing());
}

at("svg").addEventListener("click", () => save("circuit.svg", new Blob([asText()], { type: "image/svg+xml" })));
at("png").addEventListener("click", () => {
  const image = new Image();
  image.addEventListener("load", () => {
    const canvas = el("canvas", { width: 2 * image.width, height: 2 * image.height });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => save("circuit.png", blob));
  });
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(asText())}`;
});

/** Node-link JSON of what is shown, as `load_graph` reads it. */
function nodeLink() {
  return {
    directed: true,
    multigraph: true,
    graph: Object.fromEntries(data.facts),
    nodes: nodes.filter((_, i) => seen.near[i]).map(({ id, has }) => ({ ...has, id })),
    edges: edges
      .filter((_, i) => seen.shown[i])
      .map(({ source, target, kind, has }) => ({
        ...has,
        kind,
        key: kind,
        source: nodes[source].id,
        target: nodes[target].id,
      })),
  };
}
at("json").addEventListener("click", () =>
  save("circuit.json", new Blob([JSON.stringify(nodeLink(), null, 1)], { type: "application/json" })),
);
