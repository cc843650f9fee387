// How much of the circuit is shown: the slider, and over it the faithfulness curve in the slider's own scale.

const TALL = 96;
const EDGE = { left: 9, right: 9, top: 8, bottom: 20 }; // the middle of the slider's thumb at its two ends
const last = levels.length - 1;

/** Where a number of edges lies on the slider, 0 to 1: between stops, evenly in the logarithm of the number. */
function alongSlider(n) {
  if (last === 0 || n <= levels[0].edges) return 0;
  const next = levels.findIndex((level) => level.edges >= n);
  if (next <= 0) return 1;
  const [a, b] = [levels[next - 1].edges, levels[next].edges];
  return (next - 1 + Math.log(n / a) / Math.log(b / a)) / last;
}

/** What the curve says of `n` edges, in words: only numbers that were measured. */
function read(n) {
  const { curve } = data;
  const said = ({ edges: k, faithfulness, low, high, null: by }) =>
    [number(faithfulness), low === null ? "" : interval(low, high), "at", count(k, "edge")].filter(Boolean).join(" ") +
    (by === null ? "" : `, where the null keeps ${number(by)}`);
  const here = curve.filter((point) => point.edges === n).at(-1);
  if (here) return `faithfulness ${said(here)}`;
  const below = curve.filter((point) => point.edges < n).at(-1);
  const above = curve.find((point) => point.edges > n);
  const parts = [below && said(below), above && said(above)].filter(Boolean);
  const where = parts.length === 2 ? "on both sides" : below ? "up to here" : "from here on";
  return `faithfulness was measured ${where}: ${parts.join("; ")}`;
}

function drawCurve() {
  const curve = data.curve.filter((point) => point.edges >= levels[0].edges); // the slider does not go below
  const picture = at("curve");
  picture.toggleAttribute("hidden", !curve.length);
  if (!curve.length) return;
  const wide = picture.clientWidth || 600;
  const x = (n) => EDGE.left + alongSlider(n) * (wide - EDGE.left - EDGE.right);
  const all = curve.flatMap((point) => [point.faithfulness, point.low ?? 0, point.high ?? 1, point.null ?? 0]);
  const [least, most] = [Math.min(0, ...all), Math.max(1, ...all)];
  const y = (value) => EDGE.top + ((most - value) / (most - least)) * (TALL - EDGE.top - EDGE.bottom);
  const line = (points) => points.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join(" ");
  const band = curve.filter((point) => point.low !== null);
  const nulls = curve.filter((point) => point.null !== null);
  const now = EDGE.left + (last ? view.level / last : 0) * (wide - EDGE.left - EDGE.right);
  const ticks = [curve.at(-1)]; // it says `edges` as well, and so needs more room
  for (const point of curve.toReversed()) {
    if (x(ticks.at(-1).edges) - x(point.edges) > (ticks.length === 1 ? 90 : 46)) ticks.push(point);
  }
  picture.setAttribute("viewBox", `0 0 ${wide} ${TALL}`);
  picture.setAttribute("aria-label", `Faithfulness against the number of edges; ${read(levels[view.level].edges)}`);
  picture.replaceChildren(
    ...[0, 0.5, 1].map((value) =>
      svg("line", { class: "grid", x1: EDGE.left, x2: wide - EDGE.right, y1: y(value), y2: y(value) }),
    ),
    ...(band.length
      ? [
          svg("polygon", {
            class: "band",
            points: line([
              ...band.map((p) => [x(p.edges), y(p.high)]),
              ...band.toReversed().map((p) => [x(p.edges), y(p.low)]),
            ]),
          }),
        ]
      : []),
    ...(nulls.length
      ? [svg("polyline", { class: "null", points: line(nulls.map((p) => [x(p.edges), y(p.null)])) })]
      : []),
    svg("polyline", { class: "curve", points: line(curve.map((p) => [x(p.edges), y(p.faithfulness)])) }),
    ...curve.map((p) =>
      svg("circle", { class: "point", cx: x(p.edges), cy: y(p.faithfulness), r: 2.6 }, svg("title", {}, read(p.edges))),
    ),
    svg("line", { class: "now", x1: now, x2: now, y1: EDGE.top - 6, y2: TALL - EDGE.bottom + 4 }),
    svg("text", { class: "tick", x: EDGE.left + 2, y: EDGE.top + 11 }, "faithfulness; lines at 0, ½ and 1"),
    ...(nulls.length
      ? [
          svg(
            "text",
            { class: "tick", x: wide - EDGE.right - 7, y: y(nulls.at(-1).null) - 4, "text-anchor": "end" },
            "null",
          ),
        ]
      : []),
    ...ticks.map((p) =>
      svg(
        "text",
        {
          class: "tick",
          x: x(p.edges),
          y: TALL - 5,
          "text-anchor": x(p.edges) > wide - 40 ? "end" : x(p.edges) < 40 ? "start" : "middle",
        },
        p === ticks[0] ? count(p.edges, "edge") : p.edges.toLocaleString("en"),
      ),
    ),
  );
}

/** One sentence on what is kept. */
function sentence(shown) {
  if (!edges.length) return "This graph has no edges.";
  const level = levels[view.level];
  const n = amount(shown);
  const at =
    level.threshold === null ? "all, also those without a measured effect" : `|effect| ≥ ${number(level.threshold)}`;
  const missing = ` on the page (${data.leftOut.toLocaleString("en")} smaller ones were left out)`;
  const whole = `of ${data.measured.toLocaleString("en")}${data.leftOut ? missing : ""}`;
  const of = view.isolated === null ? "" : ` around ${nodes[view.isolated].id}`;
  const drawn = shown.filter(Boolean).length;
  const heads = drawn > n ? ` (drawn to each of the query heads that share keys or values: ${drawn} lines)` : "";
  return `${count(n, "edge")} ${whole}${of}: ${at}${heads}.`;
}

function tellAmount({ shown }) {
  const level = levels[view.level];
  const parts = [el("strong", {}, sentence(shown))];
  if (data.curve.length) {
    parts.push(
      filtered() || view.isolated !== null
        ? ` The curve is that of all ${count(level.edges, "edge")} above this threshold, not of the part shown.`
        : ` ${read(level.edges).replace(/^f/, "F")}.`,
    );
  }
  if (data.beyond) {
    parts.push(
      ` ${count(data.beyond, "point")} of the curve, with more edges than the page holds, ` +
        `${data.beyond === 1 ? "is" : "are"} not drawn.`,
    );
  }
  at("kept").replaceChildren(...parts);
  const slider = at("amount");
  slider.value = view.level;
  slider.setAttribute("aria-valuetext", sentence(shown));
  drawCurve();
}
