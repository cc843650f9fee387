// The side panel: the numbers of what is pointed at, with their intervals drawn to one scale, and what it talks to.

const LISTED = 40;

/** An interval as a bar about a line at zero; `reach` is the largest number of the scale. */
function bar({ value, low, high }, sure, reach, wide) {
  const x = (number) => (wide / 2) * (1 + 0.9 * Math.max(-1, Math.min(1, number / reach)));
  const whole = low !== undefined && high !== undefined;
  return svg(
    "svg",
    {
      class: `bar ${value < 0 ? "negative" : "positive"}${sure === false ? " unsure" : ""}`,
      viewBox: `0 0 ${wide} 14`,
      width: wide,
      height: 14,
      "aria-hidden": "true",
    },
    svg("line", { class: "zero", x1: wide / 2, x2: wide / 2, y1: 0, y2: 14 }),
    whole ? svg("line", { class: "whisker", x1: x(low), x2: x(high), y1: 7, y2: 7 }) : null,
    svg("circle", { cx: x(value), cy: 7, r: 3.2 }),
  );
}

/** How a number was judged; an interval knows nothing of the other numbers that were looked at, a p-value may. */
function verdict(sure, p) {
  if (sure === undefined || sure === null) return "";
  return `${sure ? "sure" : "not sure"}${p === undefined ? " by its own interval" : ""}`;
}

/** Measures, one under another: name and bar, then value, interval, p and n. */
function numbers(has, measures, sureOf) {
  const rows = measures.map((measure) => measured(has, measure)).filter((row) => row !== null);
  if (!rows.length) return el("p", { class: "quiet" }, "No number was measured here.");
  const reach = Math.max(...rows.flatMap(({ value, low, high }) => [value, low ?? 0, high ?? 0].map(Math.abs))) || 1;
  return el(
    "dl",
    { class: "numbers" },
    ...rows.flatMap((row) => {
      const sure = sureOf(row.name);
      const judged = [
        row.p === undefined ? "" : `p ${number(row.p)}`,
        row.n === undefined ? "" : `n ${number(row.n)}`,
        verdict(sure, row.p),
      ];
      const below = judged.filter(Boolean).join(" · ");
      return [
        el("dt", {}, el("span", {}, row.name), bar(row, sure, reach, 128)),
        el("dd", {}, el("strong", {}, number(row.value)), " ", interval(row.low, row.high)),
        below ? el("dd", { class: "quiet" }, below) : null,
      ].filter((part) => part !== null);
    }),
  );
}

function described(pairs) {
  return pairs.length
    ? el("dl", { class: "more" }, ...pairs.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, words(value))]))
    : null;
}

function badge(group) {
  const dot = el("span", { class: "dot" });
  dot.style.background = data.colours[group];
  return el("span", { class: "class" }, dot, group);
}

/** An id that may break before its position. */
function broken(id) {
  const [label, ...role] = id.split("@");
  return role.length ? [label, el("wbr"), `@${role.join("@")}`] : [label];
}

/** An edge as a row: its ends as buttons (what heads share is no component, and so no button), kind, effect and interval. */
function entry(i, ends) {
  const edge = edges[i];
  const effect = measured(edge.has, data.edgeMeasures.find((m) => m.name === "effect") ?? { name: "" });
  const all = () => light(litBy({ edge: i }));
  const lights = { focus: all, mouseenter: all };
  const whole = ends.includes("target") && edge.shared !== null;
  const heads = whole ? [`${ends.length > 1 ? " → " : ""}${edge.shared}`] : [];
  const buttons = (whole ? ends.filter((end) => end !== "target") : ends).map((end) =>
    el(
      "button",
      { type: "button", class: "link", on: { click: () => visit(edge[end]), ...lights } },
      ...broken(nodes[edge[end]].id),
    ),
  );
  return el(
    "tr",
    {},
    el("td", {}, ...buttons.flatMap((button, n) => (n ? [" → ", button] : [button])), ...heads),
    el("td", { class: "quiet" }, edge.kind),
    el("td", { class: "figure" }, number(edge.effect)),
    el("td", { class: "graph" }, effect === null ? "" : bar(effect, edge.sure, reachOfAll, 46)),
  );
}

/** Isolate a component from the panel; the button that was pressed is gone then, so the panel takes the focus. */
function visit(i) {
  if (view.isolated !== i) isolate(i);
  at("panel").focus();
}

function listing(rows) {
  return el("table", { class: "edges" }, el("tbody", {}, ...rows));
}

const reachOfAll =
  Math.max(...edges.flatMap(({ has }) => [has.effect, has.low, has.high].map((v) => Math.abs(v ?? 0))), 0) || 1;

function listed(title, every, passing, end) {
  const all = once(every);
  const shown = all.filter((i) => passing[i]);
  const hidden = all.length - shown.length;
  if (!all.length) return null;
  const below = hidden ? ` (${hidden} more not shown now)` : "";
  return el(
    "section",
    {},
    el("h3", {}, `${title} ${shown.length}`, el("span", { class: "quiet" }, below)),
    listing(shown.slice(0, LISTED).map((i) => entry(i, [end]))),
    shown.length > LISTED
      ? el("p", { class: "quiet" }, `and ${shown.length - LISTED} smaller ones; the table has all`)
      : null,
  );
}

function nodePanel(i, passing) {
  const node = nodes[i];
  const kept = ["kind", "klass", "label"];
  return [
    el("h2", {}, node.id),
    el(
      "p",
      {},
      badge(node.group),
      node.has.klass === undefined || node.group === node.kind ? "" : ` ${node.kind}`,
      node.has.label === undefined ? "" : ` · ${node.has.label}`,
    ),
    numbers(node.has, data.measures, (name) => node.sure[name]),
    described(rest(node.has, data.measures, kept)),
    listed("Fed by", into[i], passing, "source"),
    listed("Feeds", outOf[i], passing, "target"),
  ];
}

function edgePanel(i) {
  const edge = edges[i];
  return [
    el("h2", {}, `${nodes[edge.source].id} → ${nodes[edge.target].id}`),
    el("p", { class: "quiet" }, `edge of kind ${edge.kind}`),
    edge.shared === null
      ? null
      : el(
          "p",
          {},
          `One measurement, into ${edge.shared}: ${count(copies[edge.measurement].length, "query head")} here ` +
            `read${copies[edge.measurement].length === 1 ? "s" : ""} what it edits.`,
        ),
    numbers(edge.has, data.edgeMeasures, (name) => (name === "effect" ? edge.sure : undefined)),
    described(rest(edge.has, data.edgeMeasures, ["kind"])),
  ];
}

function overview(passing) {
  const strongest = once(edges.map((_, i) => i).filter((i) => passing[i])).slice(0, 12);
  return [
    el("h2", {}, "The whole graph"),
    el(
      "p",
      {},
      `${count(nodes.length, "component")}, ${count(data.total, "edge")}`,
      data.leftOut
        ? `; the page holds the largest ${data.measured.toLocaleString("en")}, the other ` +
            `${data.leftOut.toLocaleString("en")} were left out`
        : "",
      ".",
    ),
    strongest.length
      ? el(
          "section",
          {},
          el("h3", {}, "Strongest edges shown"),
          listing(strongest.map((i) => entry(i, ["source", "target"]))),
        )
      : null,
    described(data.facts.filter(([name]) => !["model", "pairs", "metric", "effect"].includes(name))),
  ];
}

/** Show the numbers of `what`: {node}, {edge} or nothing for the isolated component or the whole. */
function tell(what, { passing }) {
  const node = what.node ?? (what.edge === undefined ? view.isolated : null);
  const parts =
    what.edge !== undefined ? edgePanel(what.edge) : node !== null ? nodePanel(node, passing) : overview(passing);
  at("panel").replaceChildren(...parts.filter((part) => part !== null));
}

const COLUMNS = ["effect", "low", "high", "p", "n"];
let rowsShown = 200;

/** The edges shown, strongest first, as a table; drawn only while it is open. */
function tabulate({ shown }) {
  if (!at("table").open) return;
  const there = COLUMNS.filter((name) => edges.some(({ has }) => has[name] !== undefined));
  const mine = once(edges.map((_, i) => i).filter((i) => shown[i]));
  const more =
    mine.length > rowsShown
      ? el(
          "button",
          {
            type: "button",
            id: "more",
            on: {
              click: () => {
                rowsShown = Infinity;
                refresh();
              },
            },
          },
          `show all ${mine.length}`,
        )
      : null;
  at("table")
    .querySelector("div")
    .replaceChildren(
      ...[
        el(
          "table",
          {},
          el(
            "thead",
            {},
            el("tr", {}, ...["from", "kind", "to", ...there].map((name) => el("th", { scope: "col" }, name))),
          ),
          el(
            "tbody",
            {},
            ...mine
              .slice(0, rowsShown)
              .map((i) =>
                el(
                  "tr",
                  {},
                  el("th", { scope: "row" }, nodes[edges[i].source].id),
                  el("td", {}, edges[i].kind),
                  el("td", {}, receiver(edges[i])),
                  ...there.map((name) => el("td", {}, number(edges[i].has[name]))),
                ),
              ),
          ),
        ),
        more,
      ].filter((part) => part !== null),
    );
}
